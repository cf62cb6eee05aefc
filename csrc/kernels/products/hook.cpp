#include "kernels/products/hook.h"

#include "kernels/cpu/simd.h"
#include "kernels/enabled.h"
#include "kernels/invariance.h"
#include "kernels/products/cpu/kernels.h"

#include "ggml-backend.h"
#include "ggml-cpu-impl.h"
#include "ggml.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

using namespace pmtp;
using namespace pmtp::products;

// Of the weights that a thread reads again in every pass: a part of a second-level cache.
constexpr int64_t kChunkBytes = 256 << 10;

struct Product {
    Kernel kernel;
    Coding coding;
    int columns;  // weight rows in a group that a thread takes whole
};

constexpr Product kNone = { nullptr, Coding::floats, 1 };

// The kernel for weights in groups of `columns` rows; `kernel` is null if there is none.
Product product(const ggml_tensor * weights, int columns, int interleave) {
#ifdef PMTP_SIMD
    if (!kernels_enabled() || weights->ne[2] != 1 || weights->ne[3] != 1 ||
        weights->nb[1] != ggml_row_size(weights->type, weights->ne[0])) {
        return kNone;
    }
    if (columns == 8 && interleave == 8 && weights->ne[1] % 8 == 0) {
        switch (weights->type) {
            case GGML_TYPE_Q4_0: return { q4_0_8x8, Coding::zero_point, 16 };
            case GGML_TYPE_IQ4_NL: return { iq4_nl_8x8, Coding::zero_point, 16 };
            case GGML_TYPE_Q4_K: return { q4_K_8x8, Coding::super, 8 };
            default: return kNone;
        }
    }
    if (columns == 1) {
        const bool whole_records = weights->ne[0] % 32 == 0;
        switch (weights->type) {
            case GGML_TYPE_Q8_0: return { q8_0, Coding::plain, 4 };
            case GGML_TYPE_Q5_0: return { q5_0, Coding::plain, 4 };
            case GGML_TYPE_IQ4_NL: return { iq4_nl, Coding::plain, 4 };
            case GGML_TYPE_IQ4_XS: return { iq4_xs, Coding::super, 4 };
            case GGML_TYPE_Q3_K: return { q3_K, Coding::super, 4 };
            case GGML_TYPE_Q5_K: return { q5_K, Coding::super, 4 };
            case GGML_TYPE_Q6_K: return { q6_K, Coding::super, 4 };
            case GGML_TYPE_F32: return { whole_records ? f32 : nullptr, Coding::floats, 4 };
            case GGML_TYPE_F16: return { whole_records ? f16 : nullptr, Coding::floats, 4 };
            case GGML_TYPE_BF16: return { whole_records ? bf16 : nullptr, Coding::floats, 4 };
            default: return kNone;
        }
    }
#else
    (void) weights, (void) columns, (void) interleave;
#endif
    return kNone;
}

Product product_of(const ggml_tensor * op, int columns, int interleave) {
    const ggml_tensor * x = op->src[1];
    if (ggml_nrows(x) != x->ne[1] || x->type != GGML_TYPE_F32 || x->nb[0] != sizeof(float) ||
        op->type != GGML_TYPE_F32) {
        return kNone;
    }
    return product(op->src[0], columns, interleave);
}

size_t work_size(const Product & p, const ggml_tensor * op) {
    return p.kernel == nullptr ? 0 : Activations::bytes(p.coding, op->src[1]->ne[0], op->src[1]->ne[1]);
}

}  // namespace

bool pmtp::product_is_batch_invariant(const ggml_tensor * weights) {
    const char * buffer = ggml_backend_buft_name(ggml_backend_buffer_get_type(weights->buffer));
    const bool repacked = std::strcmp(buffer, "CPU_REPACK") == 0;
    return (repacked || ggml_backend_buffer_is_host(weights->buffer)) &&
           product(weights, repacked ? 8 : 1, repacked ? 8 : 0).kernel != nullptr;
}

size_t pmtp_multiply_work_size(const ggml_tensor * op, int columns, int interleave) {
    return work_size(product_of(op, columns, interleave), op);
}

bool pmtp_multiply(const ggml_compute_params * params, ggml_tensor * op, int columns, int interleave) {
    const Product p = product_of(op, columns, interleave);
    const ggml_tensor * weights = op->src[0];
    const ggml_tensor * x = op->src[1];
    if (p.kernel == nullptr || params->use_ref || params->wsize < work_size(p, op)) {
        return false;
    }
    const Activations activations(params->wdata, p.coding, x->ne[0], x->ne[1]);
    activations.encode((const float *) x->data, x->nb[1], params->ith, params->nth);
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);

    // Groups of columns in a few chunks a thread, so that a thread that is held up does not hold up the others; in more
    // and smaller ones where each is read by several passes.
    const int64_t n_out = weights->ne[1];
    const int64_t n_groups = (n_out + p.columns - 1) / p.columns;
    const int64_t n_small = count_passes(activations) > 1 ? (int64_t) ggml_nbytes(weights) / kChunkBytes : 0;
    const int64_t n_chunks = std::min(n_groups, std::max<int64_t>(8 * params->nth, n_small));
    for (int64_t chunk = params->ith; chunk < n_chunks; chunk = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        const int64_t first = n_groups * chunk / n_chunks * p.columns;
        const int64_t last = std::min(n_out, n_groups * (chunk + 1) / n_chunks * p.columns);
        multiply(p.kernel, weights->data, activations, (float *) op->data, (int64_t) (op->nb[1] / sizeof(float)), first,
                 last);
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
