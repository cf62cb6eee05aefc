#include "kernels/products/hook.h"

#include "kernels/products/choice.h"
#include "kernels/products/cpu/experts.h"

#include "ggml-cpu-impl.h"
#include "ggml.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>

namespace {

using namespace pmtp;
using namespace pmtp::products;

// Of the weights that a thread reads again in every pass: a part of a second-level cache.
constexpr int64_t kChunkBytes = 256 << 10;

bool is_product(const ggml_tensor * op) {
    const ggml_tensor *weights = op->src[0], *x = op->src[1];
    if (op->type != GGML_TYPE_F32 || x == nullptr || x->type != GGML_TYPE_F32 || x->nb[0] != sizeof(float)) {
        return false;
    }
    if (op->op == GGML_OP_MUL_MAT) {
        return weights->ne[2] == 1 && ggml_nrows(x) == x->ne[1];
    }
    return op->op == GGML_OP_MUL_MAT_ID && x->ne[3] == 1 &&
           (x->ne[1] == 1 || x->nb[2] == (size_t) x->ne[1] * x->nb[1]) && op->nb[2] == (size_t) op->ne[1] * op->nb[1];
}

Choice choice_of(const ggml_tensor * op, int columns, int interleave) {
    return is_product(op) ? choose(op->src[0], columns, interleave) : Choice{ nullptr, Coding::floats, 1 };
}

Pairs pairs_of(const ggml_tensor * op) {
    const ggml_tensor *weights = op->src[0], *x = op->src[1], *ids = op->src[2];
    return { weights->ne[2], ids->ne[0], ids->ne[1], x->ne[1], (const char *) ids->data, ids->nb[0], ids->nb[1] };
}

size_t work_size(const Choice & choice, const ggml_tensor * op) {
    const ggml_tensor * x = op->src[1];
    if (choice.kernel == nullptr) {
        return 0;
    }
    return op->op == GGML_OP_MUL_MAT ? Activations::bytes(choice.coding, x->ne[0], x->ne[1])
                                     : ExpertRows::bytes(choice.coding, x->ne[0], pairs_of(op));
}

// How a matrix is cut: groups of columns in chunks, which threads take in turn.
struct Chunks {
    int64_t n_out, n_groups, n_chunks;
    int columns;

    // In `n` chunks at least, as far as there are groups; in smaller ones where each is read by several passes.
    Chunks(const Choice & choice, const ggml_tensor * weights, int64_t n, bool several_passes)
        : n_out(weights->ne[1]),
          n_groups((n_out + choice.columns - 1) / choice.columns),
          n_chunks(
              std::min(n_groups, std::max<int64_t>(n, several_passes ? (int64_t) weights->nb[2] / kChunkBytes : 0))),
          columns(choice.columns) {}

    int64_t first(int64_t chunk) const { return std::min(n_out, n_groups * chunk / n_chunks * columns); }
};

// Chunks that a thread is given: a few, so that a thread that is held up does not hold up the others.
int64_t chunks_of_threads(const ggml_compute_params * params) { return 8 * (int64_t) params->nth; }

// f(chunk) by some thread for each of n.
template <class F> void take_chunks(const ggml_compute_params * params, int64_t n, F f) {
    for (int64_t chunk = params->ith; chunk < n; chunk = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        f(chunk);
    }
}

// Until all threads have come here.
void wait_for_all(const ggml_compute_params * params) {
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);
}

int64_t result_stride(const ggml_tensor * op) { return (int64_t) (op->nb[1] / sizeof(float)); }

void multiply_matrix(const ggml_compute_params * params, const Choice & choice, ggml_tensor * op) {
    const ggml_tensor *weights = op->src[0], *x = op->src[1];
    const Activations activations(params->wdata, choice.coding, x->ne[0], x->ne[1]);
    activations.encode((const float *) x->data, x->nb[1], params->ith, params->nth);
    wait_for_all(params);
    const Chunks chunks(choice, weights, chunks_of_threads(params), count_passes(activations) > 1);
    take_chunks(params, chunks.n_chunks, [&](int64_t i) {
        multiply(choice.kernel, weights->data, activations, (float *) op->data, result_stride(op), chunks.first(i),
                 chunks.first(i + 1));
    });
}

void multiply_experts(const ggml_compute_params * params, const Choice & choice, ggml_tensor * op) {
    const ggml_tensor *weights = op->src[0], *x = op->src[1];
    const ExpertRows rows(params->wdata, choice.coding, x->ne[0], pairs_of(op));
    if (params->ith == 0) {
        GGML_ASSERT(rows.sort());
    }
    ggml_barrier(params->threadpool);
    rows.encode((const float *) x->data, x->ne[1] == 1 ? x->nb[2] : x->nb[1], params->ith, params->nth);
    wait_for_all(params);
    const int64_t n = rows.n_active();
    bool several_passes = false;
    for (int64_t i = 0; i < n; i++) {
        several_passes = several_passes || count_passes(rows.activations(i)) > 1;
    }
    const Chunks chunks(choice, weights, (chunks_of_threads(params) + n - 1) / n, several_passes);
    take_chunks(params, n * chunks.n_chunks, [&](int64_t i) {
        const int64_t chunk = i % chunks.n_chunks;
        rows.multiply(choice.kernel, weights->data, weights->nb[2], i / chunks.n_chunks, (float *) op->data,
                      result_stride(op), chunks.first(chunk), chunks.first(chunk + 1));
    });
}

}  // namespace

size_t pmtp_multiply_work_size(const ggml_tensor * op) {
    return std::max(work_size(choice_of(op, 1, 0), op), work_size(choice_of(op, 8, 8), op));
}

bool pmtp_multiply(const ggml_compute_params * params, ggml_tensor * op, int columns, int interleave) {
    const Choice choice = choice_of(op, columns, interleave);
    if (choice.kernel == nullptr || params->use_ref || params->wsize < work_size(choice, op)) {
        return false;
    }
    if (op->op == GGML_OP_MUL_MAT) {
        multiply_matrix(params, choice, op);
    } else {
        multiply_experts(params, choice, op);
    }
    return true;
}

void pmtp_prefer_huge_pages(void * begin, size_t size) {
    const uintptr_t page = (uintptr_t) sysconf(_SC_PAGESIZE);
    const uintptr_t first = ((uintptr_t) begin + page - 1) / page * page,
                    last = ((uintptr_t) begin + size) / page * page;
    if (first < last) {
        (void) madvise((void *) first, last - first, MADV_HUGEPAGE);  // a wish: small pages serve too
    }
}
