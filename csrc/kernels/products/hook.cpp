#include "kernels/products/hook.h"

#include "kernels/cpu/simd.h"
#include "kernels/enabled.h"
#include "kernels/invariance.h"
#include "kernels/products/cpu/kernels.h"

#include "ggml-backend.h"
#include "ggml-cpu-impl.h"
#include "ggml.h"

#include <algorithm>
#include <cstring>

namespace {

using namespace pmtp;
using namespace pmtp::products;

// Most activation rows that the kernels here take: k + 1 for k up to 16. They pass over the weights once for kMaxRows.
constexpr int64_t kMaxBatch = 17;

struct Product {
    Kernel (*kernel)(int n_rows);
    Block block;
    int columns;  // weight rows in a group that a thread takes whole
};

// The kernel family for weights in groups of `columns` rows; `kernel` is null if there is none.
Product product(const ggml_tensor * weights, int columns, int interleave) {
    Product found{ nullptr, Block::k32, 8 };
#ifdef PMTP_SIMD
    if (!kernels_enabled() || weights->ne[2] != 1 || weights->ne[3] != 1 ||
        weights->nb[1] != ggml_row_size(weights->type, weights->ne[0])) {
        return found;
    }
    if (columns == 8 && interleave == 8 && weights->ne[1] % 8 == 0) {
        if (weights->type == GGML_TYPE_Q4_0) {
            found = { q4_0_8x8, Block::k32, 8 };
        } else if (weights->type == GGML_TYPE_Q4_K) {
            found = { q4_K_8x8, Block::k256, 8 };
        }
    } else if (columns == 1) {
        if (weights->type == GGML_TYPE_Q8_0) {
            found = { q8_0, Block::k32, 4 };
        } else if (weights->type == GGML_TYPE_Q6_K) {
            found = { q6_K, Block::k256, 4 };
        }
    }
#else
    (void) weights, (void) columns, (void) interleave;
#endif
    return found;
}

Product product_of(const ggml_tensor * op, int columns, int interleave) {
    const ggml_tensor * x = op->src[1];
    if (ggml_nrows(x) != x->ne[1] || x->ne[1] > kMaxBatch || x->type != GGML_TYPE_F32 || x->nb[0] != sizeof(float) ||
        op->type != GGML_TYPE_F32) {
        return { nullptr, Block::k32, 8 };
    }
    return product(op->src[0], columns, interleave);
}

}  // namespace

bool pmtp::product_is_batch_invariant(const ggml_tensor * weights) {
    const char * buffer = ggml_backend_buft_name(ggml_backend_buffer_get_type(weights->buffer));
    const bool repacked = std::strcmp(buffer, "CPU_REPACK") == 0;
    return (repacked || ggml_backend_buffer_is_host(weights->buffer)) &&
           product(weights, repacked ? 8 : 1, repacked ? 8 : 0).kernel != nullptr;
}

size_t pmtp_multiply_work_size(const ggml_tensor * op, int columns, int interleave) {
    const Product p = product_of(op, columns, interleave);
    return p.kernel == nullptr ? 0 : Activations::bytes(p.block, op->src[1]->ne[0], op->src[1]->ne[1]);
}

bool pmtp_multiply(const ggml_compute_params * params, ggml_tensor * op, int columns, int interleave) {
    const Product p = product_of(op, columns, interleave);
    const ggml_tensor * weights = op->src[0];
    const ggml_tensor * x = op->src[1];
    const int64_t n_in = x->ne[0];
    const int n_rows = (int) x->ne[1];
    if (p.kernel == nullptr || params->use_ref || params->wsize < Activations::bytes(p.block, n_in, n_rows)) {
        return false;
    }
    const Activations activations(params->wdata, p.block, n_in);
    const int64_t n_blocks = activations.n_blocks();
    Row rows[kMaxBatch];
    for (int row = 0; row < n_rows; row++) {
        activations.quantize((const float *) ((const char *) x->data + row * x->nb[1]), row,
                             n_blocks * params->ith / params->nth, n_blocks * (params->ith + 1) / params->nth);
        rows[row] = activations.row(row, (float *) ((char *) op->data + row * op->nb[1]));
    }
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);

    // Groups of columns in a few chunks a thread, so that a thread that is held up does not hold up the others.
    const int64_t n_out = weights->ne[1];
    const int64_t n_groups = (n_out + p.columns - 1) / p.columns;
    const int64_t n_chunks = std::min<int64_t>(n_groups, 8 * params->nth);
    for (int64_t chunk = params->ith; chunk < n_chunks; chunk = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        const int64_t first = n_groups * chunk / n_chunks * p.columns;
        const int64_t last = std::min(n_out, n_groups * (chunk + 1) / n_chunks * p.columns);
        for (int done = 0; done < n_rows; done += kMaxRows) {
            p.kernel(std::min(kMaxRows, n_rows - done))(weights->data, n_in, rows + done, first, last);
        }
    }
    return true;
}
