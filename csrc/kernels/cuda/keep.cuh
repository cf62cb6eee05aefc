// Memory of what a fused kernel reads, which in the graph's order a later of its nodes might take. Whether it did would
// depend on the sizes of tensors, so that a row's bits would depend on how many are with it.
#pragma once

#include "ggml-backend-impl.h"

class Keep {
  public:
    explicit Keep(ggml_backend_graph_optimize_params * params) : params_(params) {}

    // The tensor, or what it is a view of, until the node is computed.
    void operator()(const ggml_tensor * tensor, const ggml_tensor * until) const {
        const ggml_tensor * base = tensor->view_src != nullptr ? tensor->view_src : tensor;
        params_->add_alloc_dep(params_->user_data, const_cast<ggml_tensor *>(base), const_cast<ggml_tensor *>(until));
    }

  private:
    ggml_backend_graph_optimize_params * params_;
};
