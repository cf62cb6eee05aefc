#include "kernels/attention/hook.h"

#include "kernels/attention/plan.h"
#include "kernels/enabled.h"
#include "kernels/invariance.h"

#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <algorithm>
#include <cstring>
#include <memory>

namespace {

using namespace pmtp::attention;

Format format(ggml_type type) {
    switch (type) {
        case GGML_TYPE_F32: return Format::f32;
        case GGML_TYPE_F16: return Format::f16;
        case GGML_TYPE_BF16: return Format::bf16;
        case GGML_TYPE_Q8_0: return Format::q8_0;
        case GGML_TYPE_Q4_0: return Format::q4_0;
        case GGML_TYPE_IQ4_NL: return Format::iq4_nl;
        case GGML_TYPE_TURBO4: return Format::turbo4;
        case GGML_TYPE_TURBO3: return Format::turbo3;
        case GGML_TYPE_TURBO2: return Format::turbo2;
        default: return Format::other;
    }
}

bool is_turbo(ggml_type type) {
    return type == GGML_TYPE_TURBO4 || type == GGML_TYPE_TURBO3 || type == GGML_TYPE_TURBO2;
}

bool readable(const ggml_tensor * t) {
    return (format(t->type) != Format::other || ggml_get_type_traits(t->type)->to_float != nullptr) &&
           64 % ggml_blck_size(t->type) == 0 && t->nb[0] == ggml_type_size(t->type) && t->ne[0] <= kMaxHeadSize &&
           t->ne[0] % std::max<int64_t>(32, ggml_blck_size(t->type)) == 0;
}

bool serves(const ggml_tensor * op) {
    const ggml_tensor * q = op->src[0];
    const ggml_tensor * k = op->src[1];
    const ggml_tensor * v = op->src[2];
    const ggml_tensor * mask = op->src[3];
    float max_bias;
    std::memcpy(&max_bias, (const float *) op->op_params + 1, sizeof(max_bias));
    return (pmtp::kernels_enabled() || is_turbo(k->type) || is_turbo(v->type)) && readable(k) && readable(v) &&
           max_bias == 0.0f && q->type == GGML_TYPE_F32 && q->nb[0] == sizeof(float) && k->ne[2] == v->ne[2] &&
           k->ne[3] == v->ne[3] && q->ne[2] % k->ne[2] == 0 && q->ne[3] % k->ne[3] == 0 &&
           Plan::serves(q->ne[2] / k->ne[2]) && (mask == nullptr || mask->type == GGML_TYPE_F16) &&
           op->type == GGML_TYPE_F32 && ggml_is_contiguous(op);
}

Cells cells(const ggml_tensor * t) {
    return { (const char *) t->data,
             t->nb[1],
             t->nb[2],
             t->nb[3],
             format(t->type),
             ggml_get_type_traits(t->type)->to_float,
             ggml_row_size(t->type, 64),
             (int) t->ne[0] };
}

// The pages of the rows, which whoever fills a mask hangs on it; null where nobody did.
const Pages * pages(const ggml_tensor * op) {
    const ggml_tensor * mask = op->src[3];
    const auto * pages = mask != nullptr ? (const Pages *) mask->extra : nullptr;
    if (pages != nullptr) {
        const Pages::Run & last = pages->runs.back();
        GGML_ASSERT(op->src[0]->ne[3] == 1 && last.first_row + last.n_rows == op->src[0]->ne[1]);
    }
    return pages;
}

Task task(const ggml_tensor * op) {
    const ggml_tensor * q = op->src[0];
    const ggml_tensor * k = op->src[1];
    const ggml_tensor * mask = op->src[3];
    const ggml_tensor * sinks = op->src[4];
    Task t{};
    t.k = cells(k);
    t.v = cells(op->src[2]);
    t.q = (const char *) q->data;
    t.q_row_stride = q->nb[1];
    t.q_head_stride = q->nb[2];
    t.q_batch_stride = q->nb[3];
    if (mask != nullptr) {
        t.mask = (const char *) mask->data;
        t.mask_row_stride = mask->nb[1];
        t.mask_head_stride = mask->nb[2];
        t.mask_batch_stride = mask->nb[3];
        t.mask_heads = mask->ne[2];
        t.mask_batches = mask->ne[3];
    }
    t.pages = pages(op);
    t.sinks = sinks != nullptr ? (const float *) sinks->data : nullptr;
    t.result = (float *) op->data;
    t.n_cells = k->ne[1];
    t.n_rows = (int) q->ne[1];
    t.n_heads = (int) q->ne[2];
    t.n_kv_heads = (int) k->ne[2];
    t.n_batches = (int) q->ne[3];
    t.kv_batches = (int) k->ne[3];
    std::memcpy(&t.scale, (const float *) op->op_params + 0, sizeof(t.scale));
    std::memcpy(&t.softcap, (const float *) op->op_params + 2, sizeof(t.softcap));
    return t;
}

}  // namespace

bool pmtp::attention_is_batch_invariant(int head_size) {
    return kernels_enabled() && head_size % 32 == 0 && head_size <= kMaxHeadSize;
}

size_t pmtp_attention_work_size(const ggml_tensor * op, int n_threads) {
    if (!serves(op)) {
        return 0;
    }
    const Task t = task(op);
    return Plan(t, n_threads).work_size(n_threads) + kAlignment;
}

bool pmtp_attention(const ggml_compute_params * params, ggml_tensor * op) {
    if (params->use_ref || !serves(op)) {
        return false;
    }
    const Task t = task(op);
    const Plan plan(t, params->nth);
    void * work = params->wdata;
    size_t size = params->wsize;
    if (std::align(kAlignment, plan.work_size(params->nth), work, size) == nullptr) {
        return false;
    }
    const bool shared = plan.n_items() > params->nth;  // else each thread has at most its own
    if (shared) {
        if (params->ith == 0) {
            ggml_threadpool_chunk_set(params->threadpool, params->nth);
        }
        ggml_barrier(params->threadpool);
    }
    for (int64_t item = params->ith; item < plan.n_items();
         item = shared ? ggml_threadpool_chunk_add(params->threadpool, 1) : plan.n_items()) {
        plan.run_item(item, params->ith, work);
    }
    if (plan.n_merges() == 0) {
        return true;
    }
    ggml_barrier(params->threadpool);
    for (int64_t index = params->ith; index < plan.n_merges(); index += params->nth) {
        plan.merge(index, work);
    }
    return true;
}
