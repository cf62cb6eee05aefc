#include "kernels/cuda/router_fusion.cuh"

#include "kernels/cuda/keep.cuh"
#include "kernels/cuda/product_fusion.cuh"
#include "kernels/cuda/tensors.cuh"
#include "kernels/products/cuda/float_products.cuh"
#include "kernels/rows/cuda/row_ops.cuh"

namespace {

bool is_float_product(const ggml_tensor * weights, const ggml_tensor * x, const ggml_tensor * out) {
    return is_weight(weights) && is_rows(weights) && is_rows(x) && is_rows(out) && x->ne[0] % 4 == 0 && x->ne[1] > 0 &&
           x->ne[1] <= kPmtpMostFloatRows;
}

bool is_scaled_norm(const ggml_cgraph * graph, int i) {
    return ggml_can_fuse(graph, i, { GGML_OP_RMS_NORM, GGML_OP_SCALE, GGML_OP_MUL });
}

}  // namespace

int pmtp_keep_scaled_norm(const ggml_cgraph * graph, int i, const Keep & keep) {
    if (!is_scaled_norm(graph, i)) {
        return 0;
    }
    keep(graph->nodes[i]->src[0], graph->nodes[i + 2]);
    return 2;
}

int pmtp_fuse_scaled_norm(const ggml_cgraph * graph, int i, cudaStream_t stream) {
    if (!is_scaled_norm(graph, i)) {
        return 0;
    }
    const ggml_tensor * norm = graph->nodes[i];
    const ggml_tensor * scale = graph->nodes[i + 1];
    const ggml_tensor * y = graph->nodes[i + 2];
    const ggml_tensor * x = norm->src[0];
    const ggml_tensor * weight = other_source(y, scale);
    const int64_t n = x->ne[0];
    if (ggml_get_op_params_f32(scale, 1) != 0.0f || !is_rows(x) || !is_rows(y) || !is_row_weight(weight, n) ||
        n % 32 != 0 || n > kMaxNormChain || !apart_or_same(y, x)) {
        return 0;
    }
    NormChain chain = {};
    chain.x = (const float *) x->data;
    chain.weight = (const float *) weight->data;
    chain.y = (float *) y->data;
    chain.eps = epsilon(norm);
    chain.n = (int) n;
    chain.by = ggml_get_op_params_f32(scale, 0);
    pmtp_cuda_norm_chain(chain, (int) x->ne[1], stream);
    return 2;
}

int pmtp_fuse_pair(const ggml_cgraph * graph, int i, cudaStream_t stream) {
    if (i + 2 >= graph->n_nodes || graph->nodes[i + 1]->op != GGML_OP_MUL_MAT ||
        graph->nodes[i + 2]->op != GGML_OP_GLU) {
        return 0;
    }
    const ggml_tensor * first = graph->nodes[i];
    const ggml_tensor * second = graph->nodes[i + 1];
    WeightProduct p;
    const auto is_product = [&](const ggml_tensor * node) {
        return pmtp_is_product(node->src[0], nullptr, node->src[1], node, p);
    };
    const auto has_kernel = [&](const ggml_tensor * node) {
        return is_product(node) || is_float_product(node->src[0], node->src[1], node);
    };
    if (first->src[1] != second->src[1] || (second->flags & GGML_TENSOR_FLAG_COMPUTE) == 0 || !has_kernel(first) ||
        !has_kernel(second)) {
        return 0;
    }
    for (const ggml_tensor * product : { first, second }) {
        if (is_product(product)) {
            pmtp_launch_product(p, product->src[1], nullptr, stream);
        } else {
            pmtp_multiply_floats(product->src[0], product->src[1], product, stream);
        }
    }
    return 1;
}

bool pmtp_multiply_floats(const ggml_tensor * weights, const ggml_tensor * x, const ggml_tensor * out,
                          cudaStream_t stream) {
    if (!is_float_product(weights, x, out)) {
        return false;
    }
    const FloatProduct p = { (const float *) weights->data,
                             (const float *) x->data,
                             (float *) out->data,
                             (int) x->ne[0],
                             (int) out->ne[0],
                             (int) x->ne[1] };
    pmtp_cuda_launch_float_product(p, stream);
    return true;
}
