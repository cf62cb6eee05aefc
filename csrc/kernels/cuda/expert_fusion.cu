#include "kernels/cuda/expert_fusion.cuh"

#include "kernels/cuda/tensors.cuh"
#include "kernels/products/cuda/activations.cuh"
#include "kernels/products/cuda/experts.cuh"
#include "kernels/products/cuda/weight_format.cuh"
#include "kernels/rows/cuda/row_ops.cuh"

#include <algorithm>
#include <vector>

namespace {

PmtpSharedRows rows_of(const ggml_tensor * x) {
    return pmtp_shared_rows_or_tiles(pmtp_rows_of_experts(x),
                                     (size_t) ggml_nrows(x) * pmtp_row_blocks(x->ne[0]) * sizeof(PmtpQ8Block));
}

// x quantised, by now.
const PmtpQ8Block * quantised(const ggml_tensor * x, cudaStream_t stream) {
    const PmtpSharedRows rows = rows_of(x);
    if (rows.data != nullptr && !rows.written) {
        pmtp_cuda_quantise_rows((const float *) x->data, (PmtpQ8Block *) rows.data, (int) x->ne[0], (int) ggml_nrows(x),
                                stream, false);
    }
    return (const PmtpQ8Block *) rows.data;
}

// The product of a MUL_MAT_ID, of whose matrices n_out rows from first_row on are multiplied, if there is a kernel.
// Nothing is launched, and its activations are still to come.
bool is_expert_product(const ggml_tensor * node, int64_t first_row, int64_t n_out, ExpertProduct & p) {
    const ggml_tensor * weights = node->src[0];
    const ggml_tensor * x = node->src[1];
    const ggml_tensor * ids = node->src[2];
    p = {};
    if (!pmtp_weight_format(weights->type, p.format) || pmtp_takes_floats(p.format) || !is_weight(weights) ||
        !ggml_is_contiguous(weights) || weights->ne[3] != 1 || !is_floats(x) || !is_floats(node) || x->ne[3] != 1 ||
        ids->type != GGML_TYPE_I32 || ids->nb[0] != sizeof(int32_t) || ids->ne[2] != 1 || ids->ne[3] != 1 ||
        ids->ne[1] != x->ne[2] || (x->ne[1] != 1 && x->ne[1] != ids->ne[0]) || x->ne[2] > kPmtpMostTokens ||
        ids->ne[0] > kPmtpMostPairs || !pmtp_is_multiplied(pmtp_rows_of_experts(x))) {
        return false;
    }
    p.weights = (const char *) weights->data + first_row * weights->nb[1];
    p.expert_bytes = weights->nb[2];
    p.x_of_pairs = x->ne[1] != 1;
    p.out = (float *) node->data;
    p.ids = (const int32_t *) ids->data;
    p.ids_stride = (int) (ids->nb[1] / sizeof(int32_t));
    p.n_in = (int) x->ne[0];
    p.n_out = (int) n_out;
    p.n_experts = (int) weights->ne[2];
    p.n_used = (int) ids->ne[0];
    p.n_tokens = (int) x->ne[2];
    return (uintptr_t) p.weights % 16 == 0 && pmtp_cuda_has_expert_product(p);
}

void launch(ExpertProduct & p, const ggml_tensor * ids, cudaStream_t stream) {
    if (pmtp_is_prompt_of_experts(p.n_tokens, p.n_used)) {
        const PmtpSharedRows order = pmtp_shared_order(ids);
        p.order = order.data;
        p.is_ordered = order.written;
    }
    pmtp_cuda_launch_expert_product(p, stream);
}

bool is_geglu(const ggml_tensor * glu, const ggml_tensor * gate, const ggml_tensor * up) {
    return ggml_get_glu_op(glu) == GGML_GLU_OP_GEGLU && ggml_get_op_params_i32(glu, 1) == 0 && is_floats(glu) &&
           glu->src[0] == gate && glu->src[1] == up;
}

// Gate and up in one matrix, and the GLU of the halves; or in two. Returns the GLU's node, or 0.
int gated_product(const ggml_cgraph * graph, int i, ExpertProduct & p) {
    const ggml_tensor * first = graph->nodes[i];
    if (ggml_can_fuse_subgraph(graph, i, { GGML_OP_MUL_MAT_ID, GGML_OP_VIEW, GGML_OP_VIEW, GGML_OP_GLU }, { i + 3 })) {
        const ggml_tensor * gate = graph->nodes[i + 1];
        const ggml_tensor * up = graph->nodes[i + 2];
        const ggml_tensor * glu = graph->nodes[i + 3];
        const int64_t n_out = glu->ne[0];
        const auto is_half = [&](const ggml_tensor * view, size_t at) {
            return view->src[0] == first && view->view_offs == at * sizeof(float) && view->ne[0] == n_out &&
                   view->ne[1] == first->ne[1] && view->ne[2] == first->ne[2] && view->nb[1] == first->nb[1] &&
                   view->nb[2] == first->nb[2];
        };
        if (is_geglu(glu, gate, up) && first->ne[0] == 2 * n_out && is_half(gate, 0) && is_half(up, n_out) &&
            is_expert_product(first, n_out, n_out, p)) {
            p.gate = first->src[0]->data;
            p.out = (float *) glu->data;
            return pmtp_cuda_has_expert_product(p) ? i + 3 : 0;
        }
    }
    if (ggml_can_fuse_subgraph(graph, i, { GGML_OP_MUL_MAT_ID, GGML_OP_MUL_MAT_ID, GGML_OP_GLU }, { i + 2 })) {
        const ggml_tensor * glu = graph->nodes[i + 2];
        const ggml_tensor * up = glu->src[1];
        const ggml_tensor * gate = glu->src[0];
        const ggml_tensor * second = graph->nodes[i + 1];
        if (((gate == first && up == second) || (gate == second && up == first)) && is_geglu(glu, gate, up) &&
            gate->src[1] == up->src[1] && gate->src[2] == up->src[2] && gate->src[0]->type == up->src[0]->type &&
            ggml_are_same_shape(gate->src[0], up->src[0]) && ggml_are_same_stride(gate->src[0], up->src[0]) &&
            is_weight(gate->src[0]) && is_aligned(gate->src[0]) && is_expert_product(up, 0, glu->ne[0], p)) {
            p.gate = gate->src[0]->data;
            p.out = (float *) glu->data;
            return pmtp_cuda_has_expert_product(p) ? i + 2 : 0;
        }
    }
    return 0;
}

// What follows the down product at node i: its results are multiplied with their expert's scale, if there is one, and
// their weight, and a token's added up. Returns the sum's node, or 0.
int weighted_sum(const ggml_cgraph * graph, int i, ExpertProduct & p) {
    const ggml_tensor * down = graph->nodes[i];
    std::vector<ggml_op> ops;
    int at = i + 1;
    const ggml_tensor * scales = nullptr;
    const ggml_tensor * weighted = down;
    const auto has = [&](std::initializer_list<ggml_op> next) {
        if (at + (int) next.size() > graph->n_nodes) {
            return false;
        }
        return std::equal(next.begin(), next.end(), graph->nodes + at,
                          [](ggml_op op, const ggml_tensor * node) { return node->op == op; });
    };
    if (has({ GGML_OP_RESHAPE, GGML_OP_REPEAT, GGML_OP_GET_ROWS, GGML_OP_MUL })) {
        const ggml_tensor * reshaped = graph->nodes[at];
        const ggml_tensor * rows = graph->nodes[at + 2];
        const ggml_tensor * mul = graph->nodes[at + 3];
        scales = reshaped->src[0];
        if (!is_weight(scales) || !is_floats(scales) || ggml_nelements(scales) != p.n_experts ||
            reshaped->ne[1] != p.n_experts || graph->nodes[at + 1]->src[0] != reshaped ||
            rows->src[0] != graph->nodes[at + 1] || rows->src[1] != down->src[2] || mul->src[0] != down ||
            mul->src[1] != rows || rows->ne[0] != 1) {
            return 0;
        }
        weighted = mul;
        ops = { GGML_OP_RESHAPE, GGML_OP_REPEAT, GGML_OP_GET_ROWS, GGML_OP_MUL };
        at += 4;
    }
    if (!has({ GGML_OP_MUL })) {
        return 0;
    }
    const ggml_tensor * mul = graph->nodes[at];
    const ggml_tensor * by = mul->src[1];
    if (mul->src[0] != weighted || !is_floats(by) || by->ne[0] != 1 || by->ne[1] != p.n_used ||
        ggml_nelements(by) != (int64_t) p.n_used * p.n_tokens) {
        return 0;
    }
    weighted = mul;
    ops.push_back(GGML_OP_MUL);
    at++;
    constexpr int kMostUsed = 12;  // more nodes than ggml can look through
    if (p.n_used < 2 || p.n_used > kMostUsed || at + 2 * p.n_used - 1 > graph->n_nodes) {
        return 0;
    }
    for (int j = 0; j < p.n_used; j++) {
        const ggml_tensor * view = graph->nodes[at + j];
        if (view->op != GGML_OP_VIEW || view->src[0] != weighted || view->view_offs != j * weighted->nb[1] ||
            view->ne[0] != p.n_out || view->ne[1] != p.n_tokens || view->nb[1] != weighted->nb[2]) {
            return 0;
        }
        ops.push_back(GGML_OP_VIEW);
    }
    const int adds = at + p.n_used;
    for (int j = 1; j < p.n_used; j++) {
        const ggml_tensor * add = graph->nodes[adds + j - 1];
        if (add->op != GGML_OP_ADD || add->src[0] != graph->nodes[j == 1 ? at : adds + j - 2] ||
            add->src[1] != graph->nodes[at + j]) {
            return 0;
        }
        ops.push_back(GGML_OP_ADD);
    }
    const int last = adds + p.n_used - 2;
    const ggml_tensor * sum = graph->nodes[last];
    if (!ggml_can_fuse_subgraph(graph, i + 1, (int) ops.size(), ops.data(), &last, 1) || !is_floats(sum) ||
        !are_apart(sum, down) || !are_apart(by, down)) {
        return 0;
    }
    p.scales = scales != nullptr ? (const float *) scales->data : nullptr;
    p.by = (const float *) by->data;
    return last;
}

}  // namespace

int pmtp_fuse_experts(const ggml_cgraph * graph, int i, cudaStream_t stream) {
    ExpertProduct p;
    int last = gated_product(graph, i, p);
    const bool gated = last != 0;
    if (gated) {
        const ggml_tensor * glu = graph->nodes[last];
        p.x = quantised(graph->nodes[i]->src[1], stream);
        p.quantised = (PmtpQ8Block *) rows_of(glu).data;
        launch(p, graph->nodes[i]->src[2], stream);
    }
    const int down = gated ? last + 1 : i;
    if (down >= graph->n_nodes || graph->nodes[down]->op != GGML_OP_MUL_MAT_ID) {
        return last != 0 ? last - i : 0;
    }
    const ggml_tensor * node = graph->nodes[down];
    const bool of_hidden = gated && node->src[1] == graph->nodes[last] && node->src[2] == graph->nodes[i]->src[2];
    ExpertProduct second;
    if ((gated && !of_hidden) || !is_expert_product(node, 0, node->ne[0], second)) {
        return last != 0 ? last - i : 0;
    }
    const int sum = weighted_sum(graph, down, second);
    if (!gated && sum == 0) {  // alone
        return 0;
    }
    second.x = quantised(node->src[1], stream);
    second.ids_are_old = of_hidden;
    launch(second, node->src[2], stream);
    if (sum != 0) {
        pmtp_cuda_sum_pairs(second.out, (float *) graph->nodes[sum]->data, second.n_out, second.n_used, second.n_tokens,
                            stream);
    }
    return (sum != 0 ? sum : down) - i;
}

bool pmtp_cuda_multiply_experts(const ggml_tensor * product, cudaStream_t stream) {
    ExpertProduct p;
    if (!is_expert_product(product, 0, product->ne[0], p)) {
        return false;
    }
    p.x = quantised(product->src[1], stream);
    launch(p, product->src[2], stream);
    return true;
}
