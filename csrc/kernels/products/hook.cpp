#include "kernels/products/hook.h"

#include "kernels/cpu/simd.h"
#include "kernels/enabled.h"
#include "kernels/products/cpu/kernels.h"

#include "ggml-cpu-impl.h"
#include "ggml.h"

#include <algorithm>

namespace {

using namespace pmtp;
using namespace pmtp::products;

struct Product {
    Kernel (*kernel)(int n_rows);
    Block block;
    int columns;  // weight rows in a group that a thread takes whole
};

// The kernel family for an operation; `kernel` is null if there is none.
Product product(const ggml_tensor * op, int columns, int interleave) {
    const ggml_tensor * weights = op->src[0];
    const ggml_tensor * x = op->src[1];
    Product found{ nullptr, Block::k32, 8 };
#ifdef PMTP_SIMD
    if (!kernels_enabled() || ggml_nrows(x) != x->ne[1] || x->ne[1] > kMaxRows || weights->ne[2] != 1 ||
        weights->ne[3] != 1 || x->type != GGML_TYPE_F32 || x->nb[0] != sizeof(float) || op->type != GGML_TYPE_F32 ||
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
    (void) weights, (void) x, (void) columns, (void) interleave;
#endif
    return found;
}

}  // namespace

size_t pmtp_multiply_work_size(const ggml_tensor * op, int columns, int interleave) {
    const Product p = product(op, columns, interleave);
    return p.kernel == nullptr ? 0 : Activations::bytes(p.block, op->src[1]->ne[0], op->src[1]->ne[1]);
}

bool pmtp_multiply(const ggml_compute_params * params, ggml_tensor * op, int columns, int interleave) {
    const Product p = product(op, columns, interleave);
    const ggml_tensor * weights = op->src[0];
    const ggml_tensor * x = op->src[1];
    const int64_t n_in = x->ne[0];
    const int n_rows = (int) x->ne[1];
    if (p.kernel == nullptr || params->use_ref || params->wsize < Activations::bytes(p.block, n_in, n_rows)) {
        return false;
    }
    const Activations activations(params->wdata, p.block, n_in);
    const int64_t n_blocks = activations.n_blocks();
    Row rows[kMaxRows];
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
    const Kernel kernel = p.kernel(n_rows);
    const int64_t n_out = weights->ne[1];
    const int64_t n_groups = (n_out + p.columns - 1) / p.columns;
    const int64_t n_chunks = std::min<int64_t>(n_groups, 8 * params->nth);
    for (int64_t chunk = params->ith; chunk < n_chunks; chunk = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        kernel(weights->data, n_in, rows, n_groups * chunk / n_chunks * p.columns,
               std::min(n_out, n_groups * (chunk + 1) / n_chunks * p.columns));
    }
    return true;
}
