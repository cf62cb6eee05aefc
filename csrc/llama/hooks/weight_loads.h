// The hook in llama_model_loader::load_all_data, see csrc/llama/patches: are a tensor's values numbers?
#pragma once

#include <cstddef>
#include <functional>

struct ggml_tensor;

// While one lives, loads on this thread check with so many threads, and stop where `stopped` says so.
class WeightChecks {
  public:
    WeightChecks(int n_threads, std::function<bool()> stopped);
    ~WeightChecks();
    WeightChecks(const WeightChecks &) = delete;
    WeightChecks & operator=(const WeightChecks &) = delete;

    const int n_threads;
    const std::function<bool()> stopped;
};

// Throws std::runtime_error if one of the values is none, or if the load was stopped.
void pmtp_check_weights(const ggml_tensor * tensor, const void * data, size_t size);
