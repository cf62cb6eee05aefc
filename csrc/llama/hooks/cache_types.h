// What the KV cache's hooks need: which rotation a type takes, and the types of the sliding layers.
#pragma once

#include "ggml.h"

#include <vector>

bool pmtp_is_turbo(ggml_type type);

// R = D H D: the orthonormal Walsh-Hadamard matrix H (f32 [n][n]) with the signs of a fixed pseudo-random diagonal D on
// both sides. Still symmetric and its own inverse. Without signs an offset that all values share ends up in one of the
// rotated values.
std::vector<float> pmtp_signed_rotation(const std::vector<float> & hadamard, int n);

// While one lives, iSWA caches that this thread creates give these types to their sliding layers.
class SlidingCacheTypes {
  public:
    SlidingCacheTypes(ggml_type k, ggml_type v);
    ~SlidingCacheTypes();

    static ggml_type k(ggml_type otherwise);
    static ggml_type v(ggml_type otherwise);

  private:
    ggml_type k_, v_;
};
