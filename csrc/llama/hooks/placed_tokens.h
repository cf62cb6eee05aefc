// The hook in front of a graph on a device, see csrc/llama/patches: tokens of a batch that the device has, and the host
// has not, go into the graph's inputs.
#pragma once

#include "ggml-backend.h"
#include "ggml.h"

#include <vector>

// n tokens in a tensor (i32) of the backend's, from `first` on, which are those of a batch's rows from `row` on.
struct DeviceTokens {
    ggml_backend_t backend;
    const ggml_tensor * tensor;
    int first;
    int row;
    int n;
};

// While one lives, graphs that this thread queues on a device have these tokens in place of the host's, where they look
// tokens up in the tables. All must outlive it.
class PlacedTokens {
  public:
    // n_rows: of the batch.
    PlacedTokens(const std::vector<const ggml_tensor *> & tables, const std::vector<DeviceTokens> & tokens, int n_rows);
    ~PlacedTokens();
    PlacedTokens(const PlacedTokens &) = delete;
    PlacedTokens & operator=(const PlacedTokens &) = delete;

    // Whether every table was looked up in with them.
    bool complete() const { return n_placed_ == tables_.size(); }

    void place(ggml_backend_t backend, ggml_cgraph * graph);

  private:
    const std::vector<const ggml_tensor *> & tables_;
    const std::vector<DeviceTokens> & tokens_;
    const int n_rows_;
    size_t n_placed_ = 0;
};

// To be called when the graph's inputs are on their way, before the graph is. Queues copies, and no more.
void pmtp_place_tokens(ggml_backend_t backend, ggml_cgraph * graph);
