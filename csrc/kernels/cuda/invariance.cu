#include "kernels/invariance.h"

#include "kernels/attention/cuda/hook.cuh"
#include "kernels/attention/device_table.h"
#include "kernels/products/cuda/experts.cuh"
#include "kernels/products/cuda/weight_format.cuh"

#include <cstdlib>

namespace {

// ggml-cuda asks us for chains of operations, and for what is quantised once, only then.
bool fusion_enabled() {
    const char * text = std::getenv("GGML_CUDA_DISABLE_FUSION");
    return text == nullptr || std::atoi(text) == 0;
}

bool has_expert_product(const ggml_tensor * weights, WeightFormat format) {
    ExpertProduct p = {};
    p.format = format;
    p.expert_bytes = weights->nb[2];
    p.n_in = (int) weights->ne[0];
    p.n_out = (int) weights->ne[1];
    p.n_experts = (int) weights->ne[2];
    p.n_used = 1;
    p.n_tokens = 1;
    return pmtp_cuda_has_expert_product(p);
}

}  // namespace

bool pmtp::cuda_product_is_batch_invariant(const ggml_tensor * weights) {
    if (!fusion_enabled() || !ggml_is_contiguous(weights) || weights->ne[3] != 1) {
        return false;
    }
    if (weights->type == GGML_TYPE_F32) {
        return weights->ne[2] == 1 && weights->ne[0] % 4 == 0;
    }
    WeightProduct p = {};
    if (!pmtp_weight_format(weights->type, p.format)) {
        return false;
    }
    if (weights->ne[2] != 1) {
        return has_expert_product(weights, p.format);
    }
    p.n_in = (int) weights->ne[0];
    p.n_out = (int) weights->ne[1];
    p.n_rows = 1;
    return pmtp_cuda_has_product(p);
}

static_assert(pmtp::kCudaWindow == pmtp::attention::DeviceTable::kWindow, "what the table for a device keeps");

bool pmtp::cuda_attention_is_batch_invariant(int head_size, int group, ggml_type k, ggml_type v) {
    return pmtp_cuda_has_attention(head_size, group, k, v);
}
