#include "kernels/cuda/fusion.cuh"

#include "kernels/cuda/head_fusion.cuh"
#include "kernels/cuda/product_fusion.cuh"
#include "kernels/cuda/router_fusion.cuh"
#include "kernels/cuda/tensors.cuh"
#include "kernels/rows/cuda/row_ops.cuh"

namespace {

// RMS_NORM at node i and its weight, unless the two belong to a rotation, with which ggml-cuda has a kernel.
const ggml_tensor * norm_weight(const ggml_cgraph * graph, int i) {
    if (!ggml_can_fuse(graph, i, { GGML_OP_RMS_NORM, GGML_OP_MUL })) {
        return nullptr;
    }
    const ggml_tensor * mul = graph->nodes[i + 1];
    const ggml_tensor * weight = other_source(mul, graph->nodes[i]);
    const bool rotated =
        i + 2 < graph->n_nodes && graph->nodes[i + 2]->op == GGML_OP_ROPE && graph->nodes[i + 2]->src[0] == mul;
    return !rotated && is_row_weight(weight, mul->ne[0]) ? weight : nullptr;
}

int fuse_norms(const ggml_cgraph * graph, int i, cudaStream_t stream) {
    const ggml_tensor * norm = graph->nodes[i];
    const ggml_tensor * x = norm->src[0];
    const int64_t n = x->ne[0];
    const ggml_tensor * weight = norm_weight(graph, i);
    if (weight == nullptr || !is_rows(x) || n % 32 != 0 || n > kMaxNormChain) {
        return 0;
    }
    const ggml_tensor * y = graph->nodes[i + 1];
    const ggml_tensor * add = nullptr;
    const ggml_tensor * factor = nullptr;
    int n_nodes = 2;
    if (ggml_can_fuse(graph, i, { GGML_OP_RMS_NORM, GGML_OP_MUL, GGML_OP_ADD })) {
        const ggml_tensor * sum = graph->nodes[i + 2];
        const ggml_tensor * residual = other_source(sum, y);
        if (is_rows(residual) && ggml_are_same_shape(residual, sum)) {
            y = sum;
            add = residual;
            n_nodes++;
            if (ggml_can_fuse(graph, i + 2, { GGML_OP_ADD, GGML_OP_MUL }) &&
                is_row_weight(other_source(graph->nodes[i + 3], sum), 1)) {
                y = graph->nodes[i + 3];
                factor = other_source(y, sum);
                n_nodes++;
            }
        }
    }
    const ggml_tensor * z = nullptr;
    const ggml_tensor * next_weight = nullptr;
    const ggml_tensor * next = i + n_nodes < graph->n_nodes ? graph->nodes[i + n_nodes] : nullptr;
    if (next != nullptr && next->src[0] == y) {
        next_weight = norm_weight(graph, i + n_nodes);
        z = next_weight != nullptr ? graph->nodes[i + n_nodes + 1] : nullptr;
        n_nodes += z != nullptr ? 2 : 0;
    }
    for (const ggml_tensor * out : { y, z }) {
        for (const ggml_tensor * in : { x, add }) {
            if (out != nullptr && in != nullptr && (!is_rows(out) || !apart_or_same(out, in))) {
                return 0;
            }
        }
    }
    if (z != nullptr && !apart_or_same(y, z)) {
        return 0;
    }
    const auto data = [](const ggml_tensor * t) { return t != nullptr ? (float *) t->data : nullptr; };
    const NormChain chain = {
        data(x),       data(weight),
        data(add),     data(factor),
        data(y),       data(next_weight),
        data(z),       (PmtpQ8Block *) pmtp_rows_of(z != nullptr ? z : y).data,
        epsilon(norm), z != nullptr ? epsilon(next) : 0.0f,
        (int) n,
    };
    pmtp_cuda_norm_chain(chain, (int) x->ne[1], stream);
    return n_nodes - 1;
}

int fuse_gelu_gate(const ggml_cgraph * graph, int i, cudaStream_t stream) {
    const ggml_tensor * gelu = graph->nodes[i];
    int last = i + 1;
    while (last < graph->n_nodes && graph->nodes[last]->op == GGML_OP_VIEW) {
        last++;
    }
    const int nodes[] = { i, last };
    const ggml_op ops[] = { GGML_OP_UNARY, GGML_OP_MUL };
    if (last == graph->n_nodes || !ggml_can_fuse_ext(graph, nodes, ops, 2)) {
        return 0;
    }
    const ggml_tensor * x = gelu->src[0];
    const ggml_tensor * y = graph->nodes[last];
    const ggml_tensor * gate = other_source(y, gelu);
    if (!is_rows(x) || !is_rows(y) || x->ne[0] % 32 != 0 || x->ne[1] >= 1 << 16 || gate->type != GGML_TYPE_F32 ||
        gate->nb[0] != sizeof(float) || !ggml_are_same_shape(gate, y) || !apart_or_same(y, x) ||
        !apart_or_same(y, gate) || (y->data == gate->data && !ggml_is_contiguous(gate))) {
        return 0;
    }
    const GeluGate op = {
        (const float *) x->data, (const float *) gate->data,           (int64_t) (gate->nb[1] / sizeof(float)),
        (float *) y->data,       (PmtpQ8Block *) pmtp_rows_of(y).data, (int) x->ne[0]
    };
    pmtp_cuda_gelu_gate(op, (int) x->ne[1], stream);
    return last - i;
}

}  // namespace

int pmtp_cuda_fuse(const ggml_cgraph * graph, int i, cudaStream_t stream) {
    const ggml_tensor * node = graph->nodes[i];
    if (!pmtp_shares_activations(graph)) {
        return 0;
    }
    const auto first_of = [&](auto... fusions) {
        int n_fused = 0;
        ((n_fused = n_fused != 0 ? n_fused : fusions(graph, i, stream)), ...);
        return n_fused;
    };
    switch (node->op) {
        case GGML_OP_RMS_NORM: return first_of(pmtp_fuse_heads, fuse_norms, pmtp_fuse_scaled_norm);
        case GGML_OP_MUL_MAT:
            return first_of(pmtp_fuse_projections, pmtp_fuse_gated, pmtp_fuse_factor, pmtp_fuse_rotation,
                            pmtp_fuse_float_products);
        case GGML_OP_MUL_MAT_ID: return pmtp_fuse_experts(graph, i, stream);
        case GGML_OP_UNARY: return ggml_get_unary_op(node) == GGML_UNARY_OP_GELU ? fuse_gelu_gate(graph, i, stream) : 0;
        default: return 0;
    }
}

bool pmtp_cuda_multiply(const ggml_tensor * weights, const ggml_tensor * x, const ggml_tensor * out,
                        cudaStream_t stream) {
    WeightProduct p;
    if (!pmtp_is_product(weights, nullptr, x, out, p)) {
        return pmtp_multiply_floats(weights, x, out, stream);
    }
    pmtp_launch_product(p, x, nullptr, stream);
    return true;
}
