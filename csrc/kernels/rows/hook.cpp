#include "kernels/rows/hook.h"

#include "kernels/cpu/simd.h"
#include "kernels/enabled.h"
#include "kernels/rows/cpu/gelu.h"
#include "kernels/rows/cpu/tanh.h"

#include "ggml-cpu-impl.h"
#include "ggml.h"

#ifdef PMTP_SIMD
namespace {

bool is_plain(const ggml_tensor * t) { return t != nullptr && t->type == GGML_TYPE_F32 && ggml_is_contiguous(t); }

// Calls f(first, n) with this thread's part of the operation's values, if x and they are of the kind that it computes.
template <class F>
bool compute_part(const ggml_compute_params * params, const ggml_tensor * x, const ggml_tensor * op, F f) {
    if (!pmtp::kernels_enabled() || params->use_ref || !is_plain(x) || !is_plain(op)) {
        return false;
    }
    const int64_t n = ggml_nelements(op);
    const int64_t first = n * params->ith / params->nth;
    f(first, n * (params->ith + 1) / params->nth - first);
    return true;
}

}  // namespace

bool pmtp_tanh(const ggml_compute_params * params, ggml_tensor * op) {
    const float * x = (const float *) op->src[0]->data;
    return compute_part(params, op->src[0], op, [&](int64_t first, int64_t n) {
        pmtp::rows::tanh_values(x + first, (float *) op->data + first, n);
    });
}

bool pmtp_geglu(const ggml_compute_params * params, ggml_tensor * op, const uint16_t * table) {
    const ggml_tensor *x = op->src[0], *gate = op->src[1];
    return is_plain(gate) && compute_part(params, x, op, [&](int64_t first, int64_t n) {
               pmtp::rows::gelu_gated((const float *) x->data + first, (const float *) gate->data + first,
                                      (float *) op->data + first, n, table);
           });
}

#else

bool pmtp_tanh(const ggml_compute_params *, ggml_tensor *) { return false; }
bool pmtp_geglu(const ggml_compute_params *, ggml_tensor *, const uint16_t *) { return false; }

#endif
