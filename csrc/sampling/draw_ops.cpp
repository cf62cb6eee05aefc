#include "sampling/draw_ops.h"

#include "sampling/draft.h"
#include "base/handle.h"

#include "ggml.h"

#include <new>

namespace pmtp {

bool runs_custom_ops(ggml_backend_dev_t device) {
    if (device == nullptr || ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU) {
        return false;
    }
    Handle<ggml_context> ctx(ggml_init({ 4 * ggml_tensor_overhead(), nullptr, /*no_alloc*/ true }), ggml_free);
    ggml_tensor * args[] = { ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, kMaxDrawnLogits),
                             ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, kChoiceWords) };
    return ggml_backend_dev_supports_op(
        device, ggml_custom_4d(ctx.get(), GGML_TYPE_I32, 1, 1, 1, 1, args, 2, draw_token, 1, nullptr));
}

void find_candidates(ggml_tensor * dst, int ith, int nth, void * /*user*/) {
    const ggml_tensor * logits = dst->src[0];
    const ggml_tensor * masks = dst->src[2] != nullptr ? dst->src[1] : nullptr;
    const auto * params = (const ChoiceParams *) dst->src[masks != nullptr ? 2 : 1]->data;
    for (int64_t row = ith; row < dst->ne[1]; row += nth) {
        const uint32_t * mask = masks != nullptr ? (const uint32_t *) masks->data + row * masks->ne[0] : nullptr;
        find_candidates((const float *) ((const char *) logits->data + row * logits->nb[1]), (int) logits->ne[0],
                        params[row], mask, ((Candidates *) dst->data)[row]);
    }
}

namespace {

void draw_token(ggml_tensor * dst, StepDraw & draw) {
    const ggml_tensor * logits = dst->src[0];
    const ggml_tensor * ids = dst->src[1];
    draw.q.clear();
    draw.out_of_memory = false;
    int32_t & token = *(int32_t *) dst->data;
    if (!draw.distribution.assign((float *) logits->data, ids ? (const int32_t *) ids->data : nullptr,
                                  (int) ggml_nelements(logits), draw.warp)) {
        token = 0;  // logits that are not numbers: any token does, the target decides
        return;
    }
    token = draw.distribution.draw(draw.noise);
    if (draw.tabulate) {
        draw.distribution.tabulate(draw.q);
    }
}

}  // namespace

void draw_token(ggml_tensor * dst, int ith, int /*nth*/, void * user) {
    if (ith != 0) {
        return;
    }
    StepDraw & draw = *static_cast<StepDraw *>(user);
    try {
        draw_token(dst, draw);
    } catch (const std::bad_alloc &) {  // must not leave the graph, whose other threads would wait for ever
        draw.out_of_memory = true;
    }
}

}  // namespace pmtp
