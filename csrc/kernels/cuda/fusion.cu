#include "kernels/cuda/fusion.cuh"

#include "kernels/cuda/head_fusion.cuh"
#include "kernels/cuda/keep.cuh"
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

// A norm of rows, its weight, and what of a residual, a factor and the next norm follows. Rows of three dimensions, as
// the embeddings of layers have them, are a matrix if they are those of one token.
struct NormNodes {
    const ggml_tensor * x = nullptr;
    const ggml_tensor * weight = nullptr;
    const ggml_tensor * add = nullptr;
    const ggml_tensor * factor = nullptr;
    const ggml_tensor * y = nullptr;
    const ggml_tensor * next = nullptr;
    const ggml_tensor * next_weight = nullptr;
    const ggml_tensor * z = nullptr;
    int n_nodes = 0;

    // Whether they begin at node i.
    bool read(const ggml_cgraph * graph, int i);
    const ggml_tensor * last() const { return z != nullptr ? z : y; }
};

bool NormNodes::read(const ggml_cgraph * graph, int i) {
    x = graph->nodes[i]->src[0];
    weight = norm_weight(graph, i);
    if (weight == nullptr || !is_floats(x) || x->ne[0] % 32 != 0 || x->ne[0] > kMaxNormChain ||
        ggml_nrows(x) > INT32_MAX) {
        return false;
    }
    y = graph->nodes[i + 1];
    n_nodes = 2;
    if (ggml_can_fuse(graph, i, { GGML_OP_RMS_NORM, GGML_OP_MUL, GGML_OP_ADD })) {
        const ggml_tensor * sum = graph->nodes[i + 2];
        const ggml_tensor * residual = other_source(sum, y);
        if (is_floats(residual) && ggml_are_same_shape(residual, sum)) {
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
    const ggml_tensor * following = i + n_nodes < graph->n_nodes ? graph->nodes[i + n_nodes] : nullptr;
    if (following != nullptr && following->src[0] == y) {
        next = following;
        next_weight = norm_weight(graph, i + n_nodes);
        z = next_weight != nullptr ? graph->nodes[i + n_nodes + 1] : nullptr;
        n_nodes += z != nullptr ? 2 : 0;
    }
    return is_floats(y) && (z == nullptr || is_floats(z));
}

int fuse_norms(const ggml_cgraph * graph, int i, cudaStream_t stream) {
    NormNodes nodes;
    if (!nodes.read(graph, i)) {
        return 0;
    }
    const ggml_tensor * y = nodes.y;
    const ggml_tensor * z = nodes.z;
    for (const ggml_tensor * out : { y, z }) {
        for (const ggml_tensor * in : { nodes.x, nodes.add }) {
            if (out != nullptr && in != nullptr && !apart_or_same(out, in)) {
                return 0;
            }
        }
    }
    if (z != nullptr && !apart_or_same(y, z)) {
        return 0;
    }
    const auto data = [](const ggml_tensor * t) { return t != nullptr ? (float *) t->data : nullptr; };
    const ggml_tensor * last = nodes.last();
    const NormChain chain = {
        data(nodes.x),
        data(nodes.weight),
        data(nodes.add),
        data(nodes.factor),
        data(y),
        data(nodes.next_weight),
        data(z),
        ggml_is_matrix(last) ? (PmtpQ8Block *) pmtp_rows_of(last).data : nullptr,
        epsilon(graph->nodes[i]),
        z != nullptr ? epsilon(nodes.next) : 0.0f,
        (int) nodes.x->ne[0],
    };
    pmtp_cuda_norm_chain(chain, (int) ggml_nrows(nodes.x), stream);
    return nodes.n_nodes - 1;
}

// The MUL by a gate that follows the GELU at node i, or 0.
int gate_of_gelu(const ggml_cgraph * graph, int i) {
    int last = i + 1;
    while (last < graph->n_nodes && graph->nodes[last]->op == GGML_OP_VIEW) {
        last++;
    }
    const int nodes[] = { i, last };
    const ggml_op ops[] = { GGML_OP_UNARY, GGML_OP_MUL };
    return last < graph->n_nodes && ggml_can_fuse_ext(graph, nodes, ops, 2) ? last : 0;
}

int fuse_gelu_gate(const ggml_cgraph * graph, int i, cudaStream_t stream) {
    const ggml_tensor * gelu = graph->nodes[i];
    const int last = gate_of_gelu(graph, i);
    if (last == 0) {
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

bool is_gelu(const ggml_tensor * node) {
    return node->op == GGML_OP_UNARY && ggml_get_unary_op(node) == GGML_UNARY_OP_GELU;
}

int keep_norms(const ggml_cgraph * graph, int i, const Keep & keep) {
    NormNodes nodes;
    if (!nodes.read(graph, i)) {
        return 0;
    }
    keep(nodes.x, nodes.last());
    if (nodes.add != nullptr) {
        keep(nodes.add, nodes.last());
    }
    return nodes.n_nodes - 1;
}

int keep_gelu_gate(const ggml_cgraph * graph, int i, const Keep & keep) {
    const int last = is_gelu(graph->nodes[i]) ? gate_of_gelu(graph, i) : 0;
    if (last == 0) {
        return 0;
    }
    keep(graph->nodes[i]->src[0], graph->nodes[last]);
    keep(other_source(graph->nodes[last], graph->nodes[i]), graph->nodes[last]);
    return last - i;
}

// Of functions of a graph, a node and `with`, the first result that is not 0.
template <typename With, typename... Functions>
int first_of(const ggml_cgraph * graph, int i, const With & with, Functions... functions) {
    int n = 0;
    ((n = n != 0 ? n : functions(graph, i, with)), ...);
    return n;
}

}  // namespace

int pmtp_cuda_fuse(const ggml_cgraph * graph, int i, cudaStream_t stream) {
    const ggml_tensor * node = graph->nodes[i];
    if (!pmtp_shares_activations(graph)) {
        return 0;
    }
    switch (node->op) {
        case GGML_OP_RMS_NORM: return first_of(graph, i, stream, pmtp_fuse_heads, fuse_norms, pmtp_fuse_scaled_norm);
        case GGML_OP_MUL_MAT:
            return first_of(graph, i, stream, pmtp_fuse_projections, pmtp_fuse_gated, pmtp_fuse_factor,
                            pmtp_fuse_rotation, pmtp_fuse_pair);
        case GGML_OP_MUL_MAT_ID: return pmtp_fuse_experts(graph, i, stream);
        case GGML_OP_UNARY: return is_gelu(node) ? fuse_gelu_gate(graph, i, stream) : 0;
        default: return 0;
    }
}

void pmtp_cuda_keep_sources(const ggml_cgraph * graph, ggml_backend_graph_optimize_params * params) {
    const Keep keep(params);
    for (int i = 0; i < graph->n_nodes; i++) {
        switch (graph->nodes[i]->op) {
            case GGML_OP_RMS_NORM:
                i += first_of(graph, i, keep, pmtp_keep_heads, keep_norms, pmtp_keep_scaled_norm);
                break;
            case GGML_OP_MUL_MAT:
                i += first_of(graph, i, keep, pmtp_keep_projections, pmtp_keep_gated, pmtp_keep_factor);
                break;
            case GGML_OP_UNARY: i += keep_gelu_gate(graph, i, keep); break;
            default: break;
        }
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
