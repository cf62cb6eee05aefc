#include "small_batch.h"

#include "q4_0.h"

#include "ggml-cpu-impl.h"
#include "ggml.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace {

using namespace pmtp::small_batch;

// For comparisons in one build; read once.
bool enabled() {
    static const bool value = [] {
        const char * text = std::getenv("PYLLAMA_MTP_SMALL_BATCH");
        return text == nullptr || std::strcmp(text, "0") != 0;
    }();
    return value;
}

bool handles(const ggml_tensor * op, int columns, int interleave) {
    const ggml_tensor * weights = op->src[0];
    const ggml_tensor * x = op->src[1];
    return q4_0_available() && enabled() && weights->type == GGML_TYPE_Q4_0 && columns == kColumns && interleave == 8 &&
           weights->ne[2] == 1 && weights->ne[3] == 1 && x->ne[2] == 1 && x->ne[3] == 1 && x->ne[1] <= kMaxRows &&
           weights->ne[1] % kColumns == 0 && x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float);
}

}  // namespace

size_t pmtp_small_batch_work_size(const ggml_tensor * op, int columns, int interleave) {
    return handles(op, columns, interleave) ? Activations::bytes((int) op->src[1]->ne[1], op->src[1]->ne[0]) : 0;
}

bool pmtp_small_batch_mul_mat(const ggml_compute_params * params, ggml_tensor * op, int columns, int interleave) {
    if (!handles(op, columns, interleave)) {
        return false;
    }
    const ggml_tensor * weights = op->src[0];
    const ggml_tensor * x = op->src[1];
    const int n_rows = (int) x->ne[1];
    const int64_t n_blocks = x->ne[0] / kBlock;
    const Activations activations(params->wdata, n_rows, x->ne[0]);
    if (params->wsize < Activations::bytes(n_rows, x->ne[0])) {
        return false;
    }

    const int64_t begin = n_blocks * params->ith / params->nth;
    const int64_t end = n_blocks * (params->ith + 1) / params->nth;
    for (int row = 0; row < n_rows; row++) {
        activations.quantize((const float *) ((const char *) x->data + row * x->nb[1]), row, begin, end);
    }
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);

    // Groups of columns in a few chunks a thread, so that a thread that is held up does not hold up the others.
    const int64_t n_groups = weights->ne[1] / kColumns;
    const int64_t n_chunks = std::min<int64_t>(n_groups, 8 * params->nth);
    for (int64_t chunk = params->ith; chunk < n_chunks; chunk = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        q4_0_mul(weights->data, activations, n_rows, n_blocks, n_groups * chunk / n_chunks, n_groups * (chunk + 1) / n_chunks,
                 (float *) op->data, op->nb[1] / sizeof(float));
    }
    return true;
}
