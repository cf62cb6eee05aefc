#include "kernels/cuda/product_fusion.cuh"

#include "kernels/cuda/keep.cuh"
#include "kernels/cuda/tensors.cuh"
#include "kernels/products/cuda/weight_format.cuh"
#include "kernels/rows/cuda/row_ops.cuh"

PmtpSharedRows pmtp_rows_of(const ggml_tensor * x) {
    if (x->ne[1] > kPmtpMostRows || x->ne[0] % 32 != 0) {
        return { nullptr, false };
    }
    return pmtp_shared_rows_or_tiles(x, (size_t) pmtp_all_blocks(x->ne[0], x->ne[1]) * sizeof(PmtpQ8Block));
}

// x quantised, by now.
static const PmtpQ8Block * quantised(const ggml_tensor * x, cudaStream_t stream) {
    const PmtpSharedRows rows = pmtp_rows_of(x);
    if (rows.data != nullptr && !rows.written) {
        pmtp_cuda_quantise_rows((const float *) x->data, (PmtpQ8Block *) rows.data, (int) x->ne[0], (int) x->ne[1],
                                stream);
    }
    return (const PmtpQ8Block *) rows.data;
}

// The parts of x, by now, or null.
static const void * split(const WeightProduct & p, const ggml_tensor * x, cudaStream_t stream) {
    if (!pmtp_cuda_takes_parts(p)) {
        return nullptr;
    }
    const PmtpSharedRows parts = pmtp_shared_parts(x, p.format);
    if (parts.data != nullptr && !parts.written) {
        pmtp_cuda_split_rows(p.format, p.floats, parts.data, p.n_in, p.n_rows, stream);
    }
    return parts.data;
}

bool pmtp_is_product(const ggml_tensor * weights, const ggml_tensor * gate, const ggml_tensor * x,
                     const ggml_tensor * out, WeightProduct & p) {
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
    // Blocks read floats of x while others write; the result of a GLU may lie where x did.
    const bool takes_x = pmtp_takes_floats(format) ? are_apart(out, x) : pmtp_is_multiplied(x);
    if (!is_rows(x) || !is_rows(out) || x->ne[1] > kPmtpMostRows || !takes_x) {
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

void pmtp_launch_product(WeightProduct & p, const ggml_tensor * x, const ggml_tensor * result, cudaStream_t stream) {
    p.x = pmtp_takes_floats(p.format) ? nullptr : quantised(x, stream);
    p.parts = split(p, x, stream);
    p.quantised = result != nullptr ? (PmtpQ8Block *) pmtp_rows_of(result).data : nullptr;
    pmtp_cuda_launch_product(p, stream);
}

// Whether two products and their GLU begin at node i.
static bool are_gated(const ggml_cgraph * graph, int i) {
    return ggml_can_fuse_subgraph(graph, i, { GGML_OP_MUL_MAT, GGML_OP_MUL_MAT, GGML_OP_GLU }, { i + 2 });
}

int pmtp_fuse_gated(const ggml_cgraph * graph, int i, cudaStream_t stream) {
    if (!are_gated(graph, i)) {
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
        !pmtp_is_product(up->src[0], gate->src[0], up->src[1], glu, p)) {
        return 0;
    }
    pmtp_launch_product(p, up->src[1], glu, stream);
    return 2;
}

int pmtp_keep_gated(const ggml_cgraph * graph, int i, const Keep & keep) {
    if (!are_gated(graph, i)) {
        return 0;
    }
    keep(graph->nodes[i]->src[1], graph->nodes[i + 2]);
    return 2;
}

// The MUL by a factor that follows the product at node i and its GELU, or 0.
static int factor_of_product(const ggml_cgraph * graph, int i) {
    int last = i + 2;
    while (last < graph->n_nodes && graph->nodes[last]->op == GGML_OP_VIEW) {
        last++;
    }
    const int nodes[] = { i, i + 1, last };
    const ggml_op ops[] = { GGML_OP_MUL_MAT, GGML_OP_UNARY, GGML_OP_MUL };
    return last < graph->n_nodes && ggml_can_fuse_ext(graph, nodes, ops, 3) &&
                   ggml_get_unary_op(graph->nodes[i + 1]) == GGML_UNARY_OP_GELU
               ? last
               : 0;
}

int pmtp_keep_factor(const ggml_cgraph * graph, int i, const Keep & keep) {
    const int last = factor_of_product(graph, i);
    if (last == 0) {
        return 0;
    }
    const ggml_tensor * y = graph->nodes[last];
    keep(graph->nodes[i]->src[1], y);
    keep(graph->nodes[i], y);  // what its GELU reads, if that is a kernel with the factor alone
    keep(other_source(y, graph->nodes[i + 1]), y);
    return last - i;
}

int pmtp_fuse_factor(const ggml_cgraph * graph, int i, cudaStream_t stream) {
    const int last = factor_of_product(graph, i);
    if (last == 0) {
        return 0;
    }
    const ggml_tensor * product = graph->nodes[i];
    const ggml_tensor * y = graph->nodes[last];
    const ggml_tensor * factor = other_source(y, graph->nodes[i + 1]);
    const ggml_tensor * x = product->src[1];
    WeightProduct p;
    if (factor->type != GGML_TYPE_F32 || factor->nb[0] != sizeof(float) || !ggml_is_matrix(factor) ||
        !ggml_are_same_shape(factor, y) || !apart_or_same(y, factor) || !are_apart(y, x) ||
        (y->data == factor->data && !ggml_is_contiguous(factor)) ||
        !pmtp_is_product(product->src[0], nullptr, x, y, p)) {
        return 0;
    }
    p.factor = (const float *) factor->data;
    p.factor_stride = (int64_t) (factor->nb[1] / sizeof(float));
    if (!pmtp_cuda_has_product(p)) {
        return 0;
    }
    pmtp_launch_product(p, x, y, stream);
    return last - i;
}
