// The CPU's functions under ggml's signatures.
#include "turboquant/ggml_types.h"

#include "ggml.h"

#define TURBO_DEFINE(bits)                                                                                            \
    void turbo##bits##_from_float(const float * x, void * blocks, int64_t n) {                                        \
        turbo_encode(bits, TURBO_KEY, x, blocks, n);                                                                  \
    }                                                                                                                 \
    static void turbo##bits##_value_from_float(const float * x, void * blocks, int64_t n) {                           \
        turbo_encode(bits, TURBO_VALUE, x, blocks, n);                                                                \
    }                                                                                                                 \
    void turbo##bits##_vec_dot_f32(int n, float * s, size_t bs, const void * x, size_t bx, const void * y, size_t by, \
                                   int nrc) {                                                                         \
        (void) bs;                                                                                                    \
        (void) bx;                                                                                                    \
        (void) by;                                                                                                    \
        (void) nrc;                                                                                                   \
        *s = turbo_dot(bits, x, (const float *) y, n);                                                                \
    }
TURBO_DEFINE(2)
TURBO_DEFINE(3)
TURBO_DEFINE(4)

turbo_from_float_t turbo_row_writer(const struct ggml_tensor * set_rows, turbo_from_float_t from_float) {
    if (set_rows->op_params[TURBO_PARAM] != TURBO_VALUE) {
        return from_float;
    }
    switch (set_rows->type) {
        case GGML_TYPE_TURBO2: return turbo2_value_from_float;
        case GGML_TYPE_TURBO3: return turbo3_value_from_float;
        case GGML_TYPE_TURBO4: return turbo4_value_from_float;
        default: return from_float;
    }
}
