#include "kernels/rows/hook.h"

#include "kernels/cpu/simd.h"
#include "kernels/enabled.h"
#include "kernels/rows/cpu/tanh.h"

#include "ggml-cpu-impl.h"
#include "ggml.h"

bool pmtp_tanh(const ggml_compute_params * params, ggml_tensor * op) {
#ifdef PMTP_SIMD
    const ggml_tensor * x = op->src[0];
    if (!pmtp::kernels_enabled() || params->use_ref || x->type != GGML_TYPE_F32 || op->type != GGML_TYPE_F32 ||
        !ggml_is_contiguous(x) || !ggml_is_contiguous(op)) {
        return false;
    }
    const int64_t n = ggml_nelements(op);
    const int64_t begin = n * params->ith / params->nth;
    pmtp::rows::tanh_values((const float *) x->data + begin, (float *) op->data + begin,
                            n * (params->ith + 1) / params->nth - begin);
    return true;
#else
    (void) params, (void) op;
    return false;
#endif
}
