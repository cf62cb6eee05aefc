#include "kernels/cuda/fusion.cuh"

#include "kernels/cuda/expert_fusion.cuh"
#include "kernels/cuda/router_fusion.cuh"
#include "kernels/products/cuda/products.cuh"
#include "kernels/products/cuda/weight_format.cuh"
#include "kernels/rows/cuda/row_ops.cuh"

#include "ggml-backend.h"
#include "ggml-impl.h"

#include <cstring>

namespace {

bool is_weight(const ggml_tensor * t) {
    return t->op == GGML_OP_NONE && t->buffer != nullptr &&
           ggml_backend_buffer_get_usage(t->buffer) == GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
}

bool is_aligned(const ggml_tensor * t) { return (uintptr_t) t->data % 16 == 0; }

// Rows of f32, one after another.
bool is_rows(const ggml_tensor * t) {
    return t->type == GGML_TYPE_F32 && ggml_is_matrix(t) && ggml_is_contiguous(t) && is_aligned(t);
}

// A weight of n values that multiplies every row, or of one.
bool is_row_weight(const ggml_tensor * t, int64_t n) {
    return is_rows(t) && ggml_nelements(t) == n && t->ne[0] == n && is_weight(t);
}

// A kernel that reads a row and then writes it may have both in one place, but not half a row further on.
bool apart_or_same(const ggml_tensor * out, const ggml_tensor * in) {
    const char * a = (const char *) out->data;
    const char * b = (const char *) in->data;
    return a == b || a + ggml_nbytes(out) <= b || b + ggml_nbytes(in) <= a;
}

const ggml_tensor * other_source(const ggml_tensor * op, const ggml_tensor * source) {
    return op->src[0] == source ? op->src[1] : op->src[0];
}

float epsilon(const ggml_tensor * norm) {
    float eps;
    memcpy(&eps, norm->op_params, sizeof(eps));
    return eps;
}

PmtpSharedRows rows_of(const ggml_tensor * x) {
    if (x->ne[1] > kPmtpMostRows || x->ne[0] % 32 != 0) {
        return { nullptr, false };
    }
    return pmtp_shared_rows_or_tiles(x, (size_t) pmtp_all_blocks(x->ne[0], x->ne[1]) * sizeof(PmtpQ8Block));
}

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
        data(z),       (PmtpQ8Block *) rows_of(z != nullptr ? z : y).data,
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
        (const float *) x->data, (const float *) gate->data,      (int64_t) (gate->nb[1] / sizeof(float)),
        (float *) y->data,       (PmtpQ8Block *) rows_of(y).data, (int) x->ne[0]
    };
    pmtp_cuda_gelu_gate(op, (int) x->ne[1], stream);
    return last - i;
}

// x quantised, by now.
const PmtpQ8Block * quantised(const ggml_tensor * x, cudaStream_t stream) {
    const PmtpSharedRows rows = rows_of(x);
    if (rows.data != nullptr && !rows.written) {
        pmtp_cuda_quantise_rows((const float *) x->data, (PmtpQ8Block *) rows.data, (int) x->ne[0], (int) x->ne[1],
                                stream);
    }
    return (const PmtpQ8Block *) rows.data;
}

// The product of weights and x, with the gate's weights or null, if there is a kernel. Nothing is launched, and x is
// still to come.
bool is_product(const ggml_tensor * weights, const ggml_tensor * gate, const ggml_tensor * x, const ggml_tensor * out,
                WeightProduct & p) {
    WeightFormat format;
    if (!pmtp_weight_format(weights->type, format)) {
        return false;
    }
    for (const ggml_tensor * w : { weights, gate != nullptr ? gate : weights }) {
        if (w->type != weights->type || !is_weight(w) || !ggml_is_matrix(w) || !ggml_is_contiguous(w) ||
            !is_aligned(w)) {
            return false;
        }
    }
    if (!is_rows(x) || !is_rows(out) || x->ne[1] > kPmtpMostRows ||
        (!pmtp_takes_floats(format) && !pmtp_is_multiplied(x))) {
        return false;
    }
    p = {};
    p.format = format;
    p.weights = weights->data;
    p.gate = gate != nullptr ? gate->data : nullptr;
    p.floats = (const float *) x->data;
    p.out = (float *) out->data;
    p.n_in = (int) x->ne[0];
    p.n_out = (int) out->ne[0];
    p.n_rows = (int) x->ne[1];
    return pmtp_cuda_has_product(p);
}

// Two products of one x and a GLU of them.
int fuse_gated(const ggml_cgraph * graph, int i, cudaStream_t stream) {
    if (!ggml_can_fuse_subgraph(graph, i, { GGML_OP_MUL_MAT, GGML_OP_MUL_MAT, GGML_OP_GLU }, { i + 2 })) {
        return 0;
    }
    const ggml_tensor * glu = graph->nodes[i + 2];
    const ggml_tensor * gate = glu->src[0];
    const ggml_tensor * up = glu->src[1];
    const bool both = (gate == graph->nodes[i] && up == graph->nodes[i + 1]) ||
                      (gate == graph->nodes[i + 1] && up == graph->nodes[i]);
    WeightProduct p;
    if (!both || gate->src[1] != up->src[1] || !ggml_are_same_shape(gate->src[0], up->src[0]) ||
        ggml_get_glu_op(glu) != GGML_GLU_OP_GEGLU || ggml_get_op_params_i32(glu, 1) != 0 ||
        !is_product(up->src[0], gate->src[0], up->src[1], glu, p)) {
        return 0;
    }
    p.x = pmtp_takes_floats(p.format) ? nullptr : quantised(up->src[1], stream);
    p.quantised = (PmtpQ8Block *) rows_of(glu).data;
    pmtp_cuda_launch_product(p, stream);
    return 2;
}

}  // namespace

int pmtp_cuda_fuse(const ggml_cgraph * graph, int i, cudaStream_t stream) {
    const ggml_tensor * node = graph->nodes[i];
    if (!pmtp_shares_activations(graph)) {
        return 0;
    }
    if (node->op == GGML_OP_RMS_NORM) {
        const int n_fused = fuse_norms(graph, i, stream);
        return n_fused != 0 ? n_fused : pmtp_fuse_scaled_norm(graph, i, stream);
    }
    if (node->op == GGML_OP_MUL_MAT) {
        const int n_fused = fuse_gated(graph, i, stream);
        return n_fused != 0 ? n_fused : pmtp_fuse_float_products(graph, i, stream);
    }
    if (node->op == GGML_OP_MUL_MAT_ID) {
        return pmtp_fuse_experts(graph, i, stream);
    }
    return node->op == GGML_OP_UNARY && ggml_get_unary_op(node) == GGML_UNARY_OP_GELU ? fuse_gelu_gate(graph, i, stream)
                                                                                      : 0;
}

bool pmtp_cuda_multiply(const ggml_tensor * weights, const ggml_tensor * x, const ggml_tensor * out,
                        cudaStream_t stream) {
    WeightProduct p;
    if (!is_product(weights, nullptr, x, out, p)) {
        return pmtp_multiply_floats(weights, x, out, stream);
    }
    p.x = pmtp_takes_floats(p.format) ? nullptr : quantised(x, stream);
    pmtp_cuda_launch_product(p, stream);
    return true;
}
