#include "kernels/choice/cuda/draw_ops.cuh"

#include "kernels/choice/cuda/candidates.cuh"
#include "kernels/choice/cuda/draw.cuh"
#include "kernels/choice/cuda/select.cuh"
#include "sampling/draw_ops.h"

#include "ggml-impl.h"

namespace {

using namespace pmtp;

constexpr ggml_custom_op_t kFindCandidates = find_candidates;

ggml_custom_op_t function_of(const ggml_tensor * op) {
    ggml_custom_op_params params;
    memcpy(&params, op->op_params, sizeof(params));
    return params.fun;
}

const ggml_tensor * last_source(const ggml_tensor * op) {
    int i = 0;
    while (i + 1 < GGML_MAX_SRC && op->src[i + 1] != nullptr) {
        i++;
    }
    return op->src[i];
}

}  // namespace

bool pmtp_cuda_choose(const ggml_tensor * x, const ggml_tensor * out, cudaStream_t stream) {
    if (x->type != GGML_TYPE_F32 || out->type != GGML_TYPE_I32 || !ggml_is_contiguous(x)) {
        return false;
    }
    const auto * values = (const float *) x->data;
    auto * index = (int32_t *) out->data;
    return out->op == GGML_OP_ARGMAX
               ? pmtp_cuda_arg_max(values, index, x->ne[0], ggml_nrows(x), finds_one(out) ? 0 : -1, stream)
               : pmtp_cuda_top_k(values, index, x->ne[0], ggml_nrows(x), out->ne[0], stream);
}

bool pmtp_cuda_has_custom(const ggml_tensor * op) {
    const ggml_tensor * x = op->src[0];
    const ggml_tensor * params = last_source(op);
    if (params == x || params->type != GGML_TYPE_I32 || !ggml_is_contiguous(x) || !ggml_is_contiguous(params)) {
        return false;
    }
    if (function_of(op) == kFindCandidates) {
        const ggml_tensor * masks = op->src[1] != params ? op->src[1] : nullptr;
        if (masks != nullptr &&
            (masks->type != GGML_TYPE_I32 || !ggml_is_contiguous(masks) || masks->ne[0] != (x->ne[0] + 31) / 32 ||
             ggml_nrows(masks) != ggml_nrows(x) || op->src[2] != params)) {
            return false;
        }
        return x->type == GGML_TYPE_F32 && x->ne[0] < 1 << 30 && op->ne[0] == kCandidatesRowWords &&
               op->ne[1] == ggml_nrows(x) && op->ne[1] < 1 << 16 && ggml_nelements(params) == kChoiceWords * op->ne[1];
    }
    if (function_of(op) == draw_token) {
        return ggml_nelements(params) == kChoiceWords &&
               (x->type == GGML_TYPE_I32 ? x->ne[0] == kCandidatesRowWords
                                         : x->type == GGML_TYPE_F32 && ggml_nelements(x) <= kMaxDrawnLogits);
    }
    return false;
}

void pmtp_cuda_custom(ggml_tensor * op, cudaStream_t stream) {
    const ggml_tensor * x = op->src[0];
    const auto * params = (const ChoiceParams *) last_source(op)->data;
    auto * out = (int32_t *) op->data;
    if (function_of(op) == kFindCandidates) {
        auto * found = (Candidates *) out;
        const auto * masks = op->src[2] != nullptr ? (const uint32_t *) op->src[1]->data : nullptr;
        pmtp_cuda_candidates((const float *) x->data, params, masks, found, (CandidatesScratch *) (found + op->ne[1]),
                             (int) x->ne[0], (int) op->ne[1], stream);
        return;
    }
    const int n_table = (int) (op->ne[0] - 1) / 2;
    if (x->type == GGML_TYPE_I32) {
        pmtp_cuda_draw(nullptr, nullptr, 0, (const Candidates *) x->data, params, out, n_table, stream);
    } else {
        const int32_t * ids = op->src[2] != nullptr ? (const int32_t *) op->src[1]->data : nullptr;
        pmtp_cuda_draw((const float *) x->data, ids, (int) ggml_nelements(x), nullptr, params, out, n_table, stream);
    }
}
