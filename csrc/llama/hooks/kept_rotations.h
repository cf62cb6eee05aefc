// The rotations of a quantised cache that lies on a device: made there once. llama.cpp has them as inputs, which are
// copied there for every batch: a head of 512 values takes a MiB.
#pragma once

#include "ggml.h"

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

class KeptRotations {
  public:
    KeptRotations();
    ~KeptRotations();

    // Keeps rotations of n_k and n_v values, 0: none, where the tensors of a cache's keys and values lie. rotations:
    // f32 [n][n], by n, and with signs by -n; sign_word: of op_params, 1 if it has signs. Nothing is kept in the host's
    // memory.
    void keep(const ggml_tensor * cache_k, int64_t n_k, const ggml_tensor * cache_v, int64_t n_v,
              const std::unordered_map<int64_t, std::vector<float>> & rotations, int sign_word);

    // Of keys and values; null: none is kept.
    ggml_tensor * k = nullptr;
    ggml_tensor * v = nullptr;

  private:
    struct Memory;
    std::vector<std::unique_ptr<Memory>> memory_;
};
