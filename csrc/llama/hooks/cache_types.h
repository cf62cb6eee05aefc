// What the KV cache's hooks need: which rotation a type takes, and types and size of the sliding layers' cache.
#pragma once

#include "ggml.h"

#include <cstdint>
#include <vector>

bool pmtp_is_turbo(ggml_type type);

// R = D H D: the orthonormal Walsh-Hadamard matrix H (f32 [n][n]) with the signs of a fixed pseudo-random diagonal D on
// both sides. Still symmetric and its own inverse. Without signs an offset that all values share ends up in one of the
// rotated values.
std::vector<float> pmtp_signed_rotation(const std::vector<float> & hadamard, int n);

// While one lives, iSWA caches that this thread creates give their sliding layers these types and so many cells, 0: as
// many as llama.cpp would, which does not know of pages (kernels/attention/paging.h has what they need).
class SlidingCache {
  public:
    SlidingCache(ggml_type k, ggml_type v, uint32_t n_cells);
    ~SlidingCache();
    SlidingCache(const SlidingCache &) = delete;
    SlidingCache & operator=(const SlidingCache &) = delete;

    static ggml_type k(ggml_type otherwise);
    static ggml_type v(ggml_type otherwise);
    static uint32_t n_cells(uint32_t otherwise);

  private:
    const ggml_type k_, v_;
    const uint32_t n_cells_;
};
