#include "turboquant/codec.h"

void turbo_encode_ref(int bits, turbo_role role, const float * x, void * blocks, int64_t n) {
#define ENCODE(bits) turbo_encode_rows(bits, role, x, blocks, n)
    TURBO_WITH_BITS(bits, ENCODE)
#undef ENCODE
}

void turbo_decode_ref(int bits, const void * blocks, float * x, int64_t n) {
    for (int64_t i = 0; i < n / TURBO_BLOCK; i++) {
        turbo_decode_block(bits, (const char *) blocks + i * turbo_block_bytes(bits), x + i * TURBO_BLOCK);
    }
}
