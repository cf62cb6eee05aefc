// The format of a type's weights.
#pragma once

#include "ggml.h"

#include "kernels/products/cuda/products.cuh"

// Whether there are products of the type.
inline bool pmtp_weight_format(ggml_type type, WeightFormat & format) {
    switch (type) {
        case GGML_TYPE_Q4_0: format = WeightFormat::q4_0; return true;
        case GGML_TYPE_Q4_1: format = WeightFormat::q4_1; return true;
        case GGML_TYPE_Q5_0: format = WeightFormat::q5_0; return true;
        case GGML_TYPE_Q5_1: format = WeightFormat::q5_1; return true;
        case GGML_TYPE_Q8_0: format = WeightFormat::q8_0; return true;
        case GGML_TYPE_IQ4_NL: format = WeightFormat::iq4_nl; return true;
        case GGML_TYPE_IQ4_XS: format = WeightFormat::iq4_xs; return true;
        case GGML_TYPE_Q4_K: format = WeightFormat::q4_K; return true;
        case GGML_TYPE_Q5_K: format = WeightFormat::q5_K; return true;
        case GGML_TYPE_Q6_K: format = WeightFormat::q6_K; return true;
        case GGML_TYPE_F16: format = WeightFormat::f16; return true;
        case GGML_TYPE_BF16: format = WeightFormat::bf16; return true;
        default: return false;
    }
}
