#include "kernels/attention/cuda/hook.cuh"

#include "kernels/attention/cuda/attention.cuh"
#include "kernels/cuda/head_fusion.cuh"
#include "kernels/cuda/product_fusion.cuh"
#include "kernels/enabled.h"
#include "turboquant/turboquant.h"

#include "ggml.h"

#include <cstring>

namespace {

using namespace pmtp::attention::cuda;

bool format_of(ggml_type type, Format & format) {
    switch (type) {
        case GGML_TYPE_F16: format = Format::f16; return true;
        case GGML_TYPE_BF16: format = Format::bf16; return true;
        case GGML_TYPE_Q8_0: format = Format::q8_0; return true;
        case GGML_TYPE_Q4_0: format = Format::q4_0; return true;
        case GGML_TYPE_TURBO4: format = Format::turbo4; return true;
        case GGML_TYPE_TURBO3: format = Format::turbo3; return true;
        case GGML_TYPE_TURBO2: format = Format::turbo2; return true;
        default: return false;
    }
}

float parameter(const ggml_tensor * op, int i) {
    float value;
    std::memcpy(&value, (const float *) op->op_params + i, sizeof(value));
    return value;
}

// Rows of a head, as the kernels read them: floats in fours, blocks in whole bytes of two.
bool is_readable(const ggml_tensor * t, size_t alignment) {
    return t->nb[0] == ggml_type_size(t->type) && t->nb[1] % alignment == 0 && t->nb[2] % alignment == 0 &&
           t->nb[3] % alignment == 0;
}

Cells cells(const ggml_tensor * t, Format format) {
    return { (const char *) t->data, (int64_t) t->nb[1], (int64_t) t->nb[2], (int64_t) t->nb[3], format };
}

// Whether it is one for the kernels, on a device that has them.
bool task_of(const ggml_tensor * op, Task & task) {
    const ggml_tensor * q = op->src[0];
    const ggml_tensor * k = op->src[1];
    const ggml_tensor * v = op->src[2];
    const ggml_tensor * mask = op->src[3];
    const ggml_tensor * sinks = op->src[4];
    Format k_format, v_format;
    if (!pmtp::kernels_enabled() || !format_of(k->type, k_format) || !format_of(v->type, v_format) ||
        q->type != GGML_TYPE_F32 || op->type != GGML_TYPE_F32 || parameter(op, 1) != 0.0f || !is_readable(q, 16) ||
        !is_readable(k, 2) || !is_readable(v, 2) || !ggml_is_contiguous(op) || k->ne[0] != v->ne[0] ||
        k->ne[2] != v->ne[2] || k->ne[3] != v->ne[3] || k->ne[1] > 1 << 24 || q->ne[1] > 1 << 24 ||
        (mask != nullptr && (mask->type != GGML_TYPE_F16 || mask->ne[2] != 1 || mask->nb[0] != sizeof(uint16_t) ||
                             mask->ne[0] < k->ne[1] || mask->ne[1] < q->ne[1] || !is_readable(mask, 2)))) {
        return false;
    }
    task = {};
    task.k = cells(k, k_format);
    task.v = cells(v, v_format);
    task.q = (const char *) q->data;
    task.q_row_stride = (int64_t) q->nb[1];
    task.q_head_stride = (int64_t) q->nb[2];
    task.q_batch_stride = (int64_t) q->nb[3];
    task.mask_batches = 1;
    if (mask != nullptr) {
        task.mask = (const char *) mask->data;
        task.mask_row_stride = (int64_t) mask->nb[1];
        task.mask_batch_stride = (int64_t) mask->nb[3];
        task.mask_batches = (int) mask->ne[3];
        task.mask_is_old = mask->op == GGML_OP_NONE && mask->view_src == nullptr;  // an input
        const ggml_tensor * table = op->src[5];
        task.table = table != nullptr && table->op == GGML_OP_NONE ? (const int32_t *) table->data : nullptr;
    }
    task.sinks = sinks != nullptr ? (const float *) sinks->data : nullptr;
    task.result = (float *) op->data;
    task.head_size = (int) k->ne[0];
    task.n_cells = (int) k->ne[1];
    task.n_rows = (int) q->ne[1];
    task.n_heads = (int) q->ne[2];
    task.n_kv_heads = (int) k->ne[2];
    task.n_batches = (int) q->ne[3];
    task.kv_batches = (int) k->ne[3];
    task.scale = parameter(op, 0);
    task.softcap = parameter(op, 2);
    return q->ne[2] % k->ne[2] == 0 && q->ne[3] % k->ne[3] == 0 && q->ne[3] % task.mask_batches == 0;
}

// Whether upstream's kernels are faster, as measured on an H100: with one query head to a KV head, on caches that they
// read as they are. It depends on neither rows nor cells, for a row would have other bits on the other side.
bool is_for_upstream(const Task & task) {
    const auto is_turbo = [](Format format) { return format >= Format::turbo4; };
    return task.n_heads == task.n_kv_heads && !is_turbo(task.k.format) && !is_turbo(task.v.format);
}

bool has_tensor_cores() {
    int device = 0;
    int major = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 8;
}

}  // namespace

size_t pmtp_cuda_attention_work_size(const ggml_tensor * op) {
    Task task;
    return has_tensor_cores() && task_of(op, task) && !is_for_upstream(task) ? work_size(task) : 0;
}

void pmtp_cuda_attention(const ggml_tensor * op, void * work, cudaStream_t stream) {
    Task task;
    if (task_of(op, task)) {
        const ggml_tensor * rows = pmtp_rows_of_attention(op);
        if (const PmtpRotatedRows rotated = pmtp_rotated_rows_of(op); rotated.rows != nullptr) {
            const ggml_tensor * matrix = rotated.rotation->src[0];
            rows = rotated.rows;
            task.result = (float *) rows->data;
            task.rotates = true;
            task.signs = rotated.rotation->op_params[TURBO_PARAM] != 0 ? (const float *) matrix->data : nullptr;
            pmtp_mark_rotated(rotated.rotation);
        }
        if (rows != nullptr && ggml_is_matrix(rows) && rows->ne[0] == op->ne[0] * op->ne[1] && task.n_batches == 1) {
            task.quantised = (PmtpQ8Block *) pmtp_rows_of(rows).data;
        }
        attend(task, work, stream);
    }
}

bool pmtp_cuda_has_attention(int head_size, int group, ggml_type k, ggml_type v) {
    Task task = {};
    if (!pmtp::kernels_enabled() || !has_tensor_cores() || !format_of(k, task.k.format) ||
        !format_of(v, task.v.format)) {
        return false;
    }
    task.head_size = head_size;
    task.n_heads = group;
    task.n_cells = task.n_rows = task.n_kv_heads = task.n_batches = task.kv_batches = task.mask_batches = 1;
    return !is_for_upstream(task) && work_size(task) > 0;
}
