#include "kernels/products/cuda/activations.cuh"

#include "kernels/products/cuda/experts.cuh"
#include "kernels/products/cuda/weight_format.cuh"

#include "ggml-impl.h"

#include <algorithm>

namespace {

thread_local PmtpSharedActivations * active = nullptr;

}  // namespace

PmtpSharedActivations::PmtpSharedActivations(const ggml_cgraph * graph) : graph(graph), outer(active) {
    active = this;
    for (int i = 0; graph != nullptr && i < graph->n_nodes; i++) {
        const ggml_tensor * node = graph->nodes[i];
        if (node->op == GGML_OP_MUL_MAT && ggml_is_quantized(node->src[0]->type) &&
            node->src[1]->type == GGML_TYPE_F32 && node->ne[1] <= kPmtpMostRows) {
            const ggml_tensor * x = node->src[1];
            multiplied.insert(x);
            if (x->op == GGML_OP_RESHAPE && x->src[0]->op == GGML_OP_FLASH_ATTN_EXT) {
                rows_of_attention[x->src[0]] = x;
            }
            n_bytes = std::max(n_bytes, (size_t) pmtp_all_blocks(x->ne[0], ggml_nrows(x)) * sizeof(PmtpQ8Block));
        }
        WeightFormat format;
        if (node->op == GGML_OP_MUL_MAT && pmtp_weight_format(node->src[0]->type, format) &&
            pmtp_takes_floats(format) && node->src[1]->type == GGML_TYPE_F32 && node->ne[1] > kPmtpVerifyRows &&
            node->ne[1] <= kPmtpMostRows) {
            n_part_bytes = std::max(n_part_bytes, pmtp_cuda_part_bytes(format, node->src[1]->ne[0], node->ne[1]));
        }
        if (node->op == GGML_OP_MUL_MAT_ID && ggml_is_quantized(node->src[0]->type) &&
            node->src[1]->type == GGML_TYPE_F32 && node->ne[2] <= kPmtpMostTokens) {
            const ggml_tensor * x = pmtp_rows_of_experts(node->src[1]);
            multiplied.insert(x);
            n_bytes = std::max(n_bytes, (size_t) ggml_nrows(x) * pmtp_row_blocks(x->ne[0]) * sizeof(PmtpQ8Block));
            n_order_bytes = std::max(
                n_order_bytes, pmtp_cuda_expert_order_bytes(node->ne[2], node->src[2]->ne[0], node->src[0]->ne[2]));
        }
    }
}

PmtpSharedActivations::~PmtpSharedActivations() { active = outer; }

bool pmtp_shares_activations(const ggml_cgraph * graph) { return active != nullptr && active->graph == graph; }

const ggml_tensor * pmtp_rows_of_experts(const ggml_tensor * x) {
    const ggml_tensor * reshaped = x->op == GGML_OP_RESHAPE ? x->src[0] : x;
    return !pmtp_is_tiled(ggml_nrows(x)) && reshaped->ne[0] == x->ne[0] ? reshaped : x;
}

bool pmtp_is_multiplied(const ggml_tensor * x) {
    return active != nullptr && active->data != nullptr && active->multiplied.count(x) > 0;
}

const ggml_tensor * pmtp_rows_of_attention(const ggml_tensor * op) {
    if (active == nullptr || active->data == nullptr) {
        return nullptr;
    }
    const auto found = active->rows_of_attention.find(op);
    return found != active->rows_of_attention.end() ? found->second : nullptr;
}

const ggml_cgraph * pmtp_graph_of_shared() { return active != nullptr ? active->graph : nullptr; }

void pmtp_mark_rotated(const ggml_tensor * rotation) { active->rotated.insert(rotation); }

bool pmtp_is_rotated(const ggml_tensor * rotation) { return active != nullptr && active->rotated.count(rotation) > 0; }

PmtpSharedRows pmtp_shared_rows(const ggml_tensor * x, size_t n_bytes) {
    return pmtp_is_tiled(ggml_nrows(x)) ? PmtpSharedRows{ nullptr, false } : pmtp_shared_rows_or_tiles(x, n_bytes);
}

PmtpSharedRows pmtp_shared_rows_or_tiles(const ggml_tensor * x, size_t n_bytes) {
    if (!pmtp_is_multiplied(x) || n_bytes > active->n_bytes) {
        return { nullptr, false };
    }
    const bool written = active->kept[0] == x || active->kept[1] == x;
    active->last = written ? active->kept[1] == x : 1 - active->last;
    active->kept[active->last] = x;
    return { active->data + active->last * active->n_bytes, written };
}

PmtpSharedRows pmtp_shared_order(const ggml_tensor * ids) {
    const bool written = active->ordered == ids;
    active->ordered = ids;
    return { active->data + 2 * active->n_bytes, written };
}

PmtpSharedRows pmtp_shared_parts(const ggml_tensor * x, WeightFormat format) {
    if (active == nullptr || active->data == nullptr ||
        pmtp_cuda_part_bytes(format, x->ne[0], x->ne[1]) > active->n_part_bytes) {
        return { nullptr, false };
    }
    const bool written = active->split == x && active->split_for == format;
    active->split = x;
    active->split_for = format;
    return { active->data + active->before_parts(), written };
}
