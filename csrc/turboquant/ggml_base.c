// The decoder and the reference encoder under ggml's signatures.
#include "turboquant/ggml_types.h"

#define TURBO_DEFINE(bits)                                                                                       \
    void turbo##bits##_to_float(const void * blocks, float * x, int64_t n) { turbo_decode(bits, blocks, x, n); } \
    void turbo##bits##_from_float_ref(const float * x, void * blocks, int64_t n) {                               \
        turbo_encode_ref(bits, TURBO_KEY, x, blocks, n);                                                         \
    }
TURBO_DEFINE(2)
TURBO_DEFINE(3)
TURBO_DEFINE(4)
