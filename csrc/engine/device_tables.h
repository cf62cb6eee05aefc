// The tables that a model looks its tokens up in: embeddings, and those of each layer.
#pragma once

#include "llama.h"

#include <string>
#include <vector>

namespace pmtp {

// Which of a model file's tables lie on the GPU. llama.cpp keeps them in the host's memory, where every batch begins
// with a lookup on the CPU that the GPU waits for. They go to the GPU if all layers do, if it is the only one and has
// twice as much memory free as the whole model takes, and if it can look up values of their types.
class DeviceTables {
  public:
    DeviceTables(const std::string & path, int n_gpu_layers);

    // For llama_model_params; null: none. This must outlive the load.
    const llama_model_tensor_buft_override * overrides() const {
        return overrides_.empty() ? nullptr : overrides_.data();
    }

  private:
    std::vector<llama_model_tensor_buft_override> overrides_;
};

}  // namespace pmtp
