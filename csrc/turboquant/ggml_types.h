// What ggml's type tables and the KV cache's hooks need of the TurboQuant formats.
#pragma once

#include "turboquant/turboquant.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ggml_tensor;

// ggml's signatures: to_float, from_float (a row by the rule for keys) and vec_dot (with a row of f32).
#define TURBO_DECLARE(bits)                                                                                           \
    void turbo##bits##_to_float(const void * blocks, float * x, int64_t n);                                           \
    void turbo##bits##_from_float_ref(const float * x, void * blocks, int64_t n);                                     \
    void turbo##bits##_from_float(const float * x, void * blocks, int64_t n);                                         \
    void turbo##bits##_vec_dot_f32(int n, float * s, size_t bs, const void * x, size_t bx, const void * y, size_t by, \
                                   int nrc);
TURBO_DECLARE(2)
TURBO_DECLARE(3)
TURBO_DECLARE(4)
#undef TURBO_DECLARE

typedef void (*turbo_from_float_t)(const float * x, void * y, int64_t n);

// The row writer of a SET_ROWS operation: `from_float`, or for a turbo type the one of the role that is set on it.
turbo_from_float_t turbo_row_writer(const struct ggml_tensor * set_rows, turbo_from_float_t from_float);

#ifdef __cplusplus
}
#endif
