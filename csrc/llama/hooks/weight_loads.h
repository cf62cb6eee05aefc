// The hooks in llama_model_loader, see csrc/llama/patches: a tensor's values on their way from a mapped file. All
// threads of a load check and copy parts of the same tensor; pages of the file whose values were copied are let go.
#pragma once

#include <cstddef>
#include <functional>

struct ggml_tensor;

// While one lives, loads on this thread use so many threads, and stop where `stopped` says so.
class WeightLoads {
  public:
    WeightLoads(int n_threads, std::function<bool()> stopped);
    ~WeightLoads();
    WeightLoads(const WeightLoads &) = delete;
    WeightLoads & operator=(const WeightLoads &) = delete;

    const int n_threads;
    const std::function<bool()> stopped;
};

// Has the system begin to read a file that is mapped there.
void pmtp_read_ahead(const void * begin, size_t size);

// The values of a tensor that stay where they are. check: throws std::runtime_error if one of them is none. Throws it
// too if the load was stopped.
void pmtp_keep_weights(const ggml_tensor * tensor, const void * data, size_t size, bool check);

// Writes the values, which are of a mapped file, to the tensor, which has memory of its own: repacked, or on a device.
// As pmtp_keep_weights otherwise. What is written where it throws is unspecified.
void pmtp_copy_weights(ggml_tensor * tensor, const void * data, size_t size, bool check);

// Lets the pages go of a tensor that lies in a mapped file: they take memory again as they are read. False: it does
// not.
bool pmtp_forget_rows(const ggml_tensor * tensor);
