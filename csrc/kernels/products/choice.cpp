#include "kernels/products/choice.h"

#include "kernels/cpu/simd.h"
#include "kernels/enabled.h"
#include "kernels/invariance.h"

#include "ggml-backend.h"
#include "ggml.h"

#include <cstring>

namespace pmtp::products {
namespace {

constexpr Choice kNone = { nullptr, Coding::floats, 1 };

#ifdef PMTP_SIMD

Choice choose_8x8(const ggml_tensor * weights) {
    switch (weights->type) {
        case GGML_TYPE_Q4_0: return { q4_0_8x8, Coding::zero_point, 16 };
        case GGML_TYPE_IQ4_NL: return { iq4_nl_8x8, Coding::wide_zero_point, 16 };
        case GGML_TYPE_Q4_K: return { q4_K_8x8, Coding::super, 8 };
        default: return kNone;
    }
}

Choice choose_plain(const ggml_tensor * weights) {
    const bool whole_records = weights->ne[0] % 32 == 0;
    switch (weights->type) {
        case GGML_TYPE_Q8_0: return { q8_0, Coding::wide_zero_point, 16 };
        case GGML_TYPE_Q5_1: return { q5_1, Coding::plain, 4 };
        case GGML_TYPE_Q5_0: return { q5_0, Coding::plain, 4 };
        case GGML_TYPE_Q4_1: return { q4_1, Coding::plain, 4 };
        case GGML_TYPE_IQ4_NL: return { iq4_nl, Coding::plain, 4 };
        case GGML_TYPE_IQ4_XS: return { iq4_xs, Coding::super, 16 };
        case GGML_TYPE_Q3_K: return { q3_K, Coding::super, 4 };
        case GGML_TYPE_Q5_K: return { q5_K, Coding::super, 16 };
        case GGML_TYPE_Q6_K: return { q6_K, Coding::super, 4 };
        case GGML_TYPE_F32: return { whole_records ? f32 : nullptr, Coding::floats, 4 };
        case GGML_TYPE_F16: return { whole_records ? f16 : nullptr, Coding::floats, 4 };
        case GGML_TYPE_BF16: return { whole_records ? bf16 : nullptr, Coding::floats, 4 };
        default: return kNone;
    }
}

#endif

}  // namespace

Choice choose(const ggml_tensor * weights, int columns, int interleave) {
#ifdef PMTP_SIMD
    const bool contiguous = weights->nb[1] == ggml_row_size(weights->type, weights->ne[0]) &&
                            weights->nb[2] == weights->nb[1] * (size_t) weights->ne[1];
    if (kernels_enabled() && contiguous && weights->ne[3] == 1) {
        if (columns == 8 && interleave == 8 && weights->ne[1] % 8 == 0) {
            return choose_8x8(weights);
        }
        if (columns == 1) {
            return choose_plain(weights);
        }
    }
#else
    (void) weights, (void) columns, (void) interleave;
#endif
    return kNone;
}

}  // namespace pmtp::products

bool pmtp::product_is_batch_invariant(const ggml_tensor * weights) {
    const char * buffer = ggml_backend_buft_name(ggml_backend_buffer_get_type(weights->buffer));
    const bool repacked = std::strcmp(buffer, "CPU_REPACK") == 0;
    return (repacked || ggml_backend_buffer_is_host(weights->buffer)) &&
           products::choose(weights, repacked ? 8 : 1, repacked ? 8 : 0).kernel != nullptr;
}
