#include "kernels/attention/hook.h"

#include "kernels/attention/plan.h"

#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <cstring>
#include <memory>

namespace {

using namespace pmtp::attention;

int turbo_bits(ggml_type type) {
    return type == GGML_TYPE_TURBO4 ? 4 : type == GGML_TYPE_TURBO3 ? 3 : type == GGML_TYPE_TURBO2 ? 2 : 0;
}

void decode_f16(const void * row, float * x, int64_t n) { ggml_cpu_fp16_to_fp32((const ggml_fp16_t *) row, x, n); }

bool readable(const ggml_tensor * t) {
    return (turbo_bits(t->type) != 0 || t->type == GGML_TYPE_F16 || t->type == GGML_TYPE_Q8_0) &&
           t->nb[0] == ggml_type_size(t->type) && t->ne[0] % 64 == 0 && t->ne[0] <= kMaxHeadSize;
}

bool serves(const ggml_tensor * op) {
    const ggml_tensor * q = op->src[0];
    const ggml_tensor * k = op->src[1];
    const ggml_tensor * v = op->src[2];
    const ggml_tensor * mask = op->src[3];
    float max_bias;
    std::memcpy(&max_bias, (const float *) op->op_params + 1, sizeof(max_bias));
    return (turbo_bits(k->type) != 0 || turbo_bits(v->type) != 0) && readable(k) && readable(v) && max_bias == 0.0f &&
           q->type == GGML_TYPE_F32 && q->nb[0] == sizeof(float) && k->ne[2] == v->ne[2] && k->ne[3] == v->ne[3] &&
           q->ne[2] % k->ne[2] == 0 && q->ne[3] % k->ne[3] == 0 && Plan::serves(q->ne[2] / k->ne[2]) &&
           (mask == nullptr || mask->type == GGML_TYPE_F16) && op->type == GGML_TYPE_F32 && ggml_is_contiguous(op);
}

Cells cells(const ggml_tensor * t) {
    const Decode decode = t->type == GGML_TYPE_F16 ? decode_f16 : ggml_get_type_traits(t->type)->to_float;
    return { (const char *) t->data,     t->nb[1],      t->nb[2], t->nb[3], turbo_bits(t->type), decode,
             ggml_row_size(t->type, 64), (int) t->ne[0] };
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

size_t pmtp_attention_work_size(const ggml_tensor * op, int n_threads) {
    if (!serves(op)) {
        return 0;
    }
    const Task t = task(op);
    return Plan(t).work_size(n_threads) + kAlignment;
}

bool pmtp_attention(const ggml_compute_params * params, ggml_tensor * op) {
    if (params->use_ref || !serves(op)) {
        return false;
    }
    const Task t = task(op);
    const Plan plan(t);
    void * work = params->wdata;
    size_t size = params->wsize;
    if (std::align(kAlignment, plan.work_size(params->nth), work, size) == nullptr) {
        return false;
    }
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);
    for (int64_t item = params->ith; item < plan.n_items(); item = ggml_threadpool_chunk_add(params->threadpool, 1)) {
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
