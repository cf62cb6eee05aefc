// TurboQuant KV cache formats: block layouts and row functions.
//
// Zandieh, Daliri, Hadian, Mirrokni, "TurboQuant: Online Vector Quantization with Near-optimal Distortion Rate" (arXiv
// 2504.19874), its MSE variant: rows are rotated (rotation.h), so that their values are nearly normal, and every value
// is replaced by a level of the Lloyd-Max codebook times a scale. Here a scale belongs to a block of 64 values and is
// searched for when a block is written.
//
// The types live in memory only: they are never written to a model file.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Values of a block.
#define TURBO_BLOCK 64

// value i = scale * codebook[index i], the codebook ascending. scale: the bits of an IEEE half.
// nibbles: index i in the low half of byte i, index i + 32 in the high half.
// low_bits: bits 0 and 1 of index i at bit 2 (i / 16) of byte i % 16. high_bit: bit 2 of index i at bit i % 8 of byte i
// / 8.
typedef struct {
    uint16_t scale;
    uint8_t nibbles[32];
} block_turbo4;  // 34 bytes, 4.25 bits a value
typedef struct {
    uint16_t scale;
    uint8_t low_bits[16];
    uint8_t high_bit[8];
} block_turbo3;  // 26 bytes, 3.25
typedef struct {
    uint16_t scale;
    uint8_t low_bits[16];
} block_turbo2;  // 18 bytes, 2.25

// How a block's scale is chosen. A key's error is measured against queries one by one: least squares. Values are
// averaged, and what least squares takes off every one of them does not average out: unbiased.
typedef enum turbo_role { TURBO_KEY = 0, TURBO_VALUE = 1 } turbo_role;

// The last word of an operation's parameters in ggml, which ggml leaves zero: the role of the rows that SET_ROWS
// writes, and 1 on a rotation that has signs and on the product with it.
#define TURBO_PARAM 15

// Rows of n values, n a multiple of 64. bits: 2, 3 or 4. The ref functions are plain C; the others use the CPU's vector
// instructions and give the same bytes.
void turbo_encode_ref(int bits, turbo_role role, const float * x, void * blocks, int64_t n);
void turbo_decode_ref(int bits, const void * blocks, float * x, int64_t n);
void turbo_encode(int bits, turbo_role role, const float * x, void * blocks, int64_t n);
void turbo_decode(int bits, const void * blocks, float * x, int64_t n);

// Sum of x[i] * y[i] over a row of blocks x and a row of floats y.
float turbo_dot(int bits, const void * blocks, const float * y, int64_t n);

#ifdef __cplusplus
}
#endif
