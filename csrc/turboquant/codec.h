// One block's encoding and decoding, compiled twice: as the reference, and with vector instructions. The loops over 16
// lanes fix the order of every sum, so that both give the same bits; the files that include this must be compiled with
// -ffp-contract=off.
#pragma once

#include "turboquant/codebook.h"
#include "turboquant/turboquant.h"

#include <math.h>
#include <string.h>

#define TURBO_LANES 16
// Inlined, `bits` is a constant in every loop.
#define TURBO_INLINE inline __attribute__((always_inline))

static TURBO_INLINE uint16_t turbo_half(float x) {
    const _Float16 half = (_Float16) x;
    uint16_t bits;
    memcpy(&bits, &half, sizeof(bits));
    return bits;
}

static TURBO_INLINE float turbo_float(uint16_t bits) {
    _Float16 half;
    memcpy(&half, &bits, sizeof(half));
    return (float) half;
}

static TURBO_INLINE float turbo_sum(const float * lanes) {
    float sum = 0;
    for (int j = 0; j < TURBO_LANES; j++) {
        sum += lanes[j];
    }
    return sum;
}

static TURBO_INLINE const float * turbo_levels(int bits) {
    return bits == 4 ? turbo4_levels : bits == 3 ? turbo3_levels : turbo2_levels;
}
static TURBO_INLINE const float * turbo_edges(int bits) {
    return bits == 4 ? turbo4_edges : bits == 3 ? turbo3_edges : turbo2_edges;
}

// Of x [64] quantised with a scale to levels c: sum of |x| c and of c^2.
static TURBO_INLINE void turbo_products(int bits, const float * x, float scale, float * xc, float * cc) {
    const int n_edges = (1 << (bits - 1)) - 1;
    const float * levels = turbo_levels(bits);
    const float * edges = turbo_edges(bits);
    float sum_xc[TURBO_LANES] = { 0 }, sum_cc[TURBO_LANES] = { 0 };
    for (int i = 0; i < TURBO_BLOCK; i += TURBO_LANES) {
        float c[TURBO_LANES];
        for (int j = 0; j < TURBO_LANES; j++) {
            c[j] = levels[0];
        }
        for (int e = 0; e < n_edges; e++) {
            const float edge = edges[e] * scale;
            const float level = levels[e + 1];
            for (int j = 0; j < TURBO_LANES; j++) {
                c[j] = fabsf(x[i + j]) > edge ? level : c[j];
            }
        }
        for (int j = 0; j < TURBO_LANES; j++) {
            sum_xc[j] += fabsf(x[i + j]) * c[j];
            sum_cc[j] += c[j] * c[j];
        }
    }
    *xc = turbo_sum(sum_xc);
    *cc = turbo_sum(sum_cc);
}

// The scale of least error: a grid around the root mean square, then fixed-point steps (assign, least squares).
// *unbiased: the scale that makes the projection of what is stored on x equal to x, for the same assignment.
static TURBO_INLINE float turbo_search_scale(int bits, const float * x, float * unbiased) {
    float lanes[TURBO_LANES] = { 0 };
    for (int i = 0; i < TURBO_BLOCK; i += TURBO_LANES) {
        for (int j = 0; j < TURBO_LANES; j++) {
            lanes[j] += x[i + j] * x[i + j];
        }
    }
    const float squares = turbo_sum(lanes);
    if (!(squares > 0) || !(squares < INFINITY)) {
        *unbiased = squares;  // nothing to quantise, or not numbers: 0, infinity and NaN stay what they are
        return squares;
    }
    const float rms = sqrtf(squares / TURBO_BLOCK);
    float best = -1, scale = rms, xc, cc;
    for (int step = 0; step < 15; step++) {
        turbo_products(bits, x, rms * (0.72f + 0.045f * (float) step), &xc, &cc);
        if (xc * xc / cc > best) {  // the squares' part that is met
            best = xc * xc / cc;
            scale = xc / cc;
        }
    }
    for (int step = 0; step < 2; step++) {
        turbo_products(bits, x, scale, &xc, &cc);
        scale = xc / cc;
    }
    turbo_products(bits, x, scale, &xc, &cc);
    *unbiased = squares / xc;
    return scale;
}

// The scale that is stored for a role, as the bits of a half.
static TURBO_INLINE uint16_t turbo_stored_scale(turbo_role role, float scale, float unbiased) {
    const float stored = role == TURBO_VALUE ? unbiased : scale;
    return turbo_half(stored > 65504.0f ? 65504.0f : stored);  // a NaN stays one
}

// index: [64], 0 .. 2^bits - 1.
static TURBO_INLINE uint16_t turbo_quantise(int bits, turbo_role role, const float * x, uint8_t * index) {
    const int half = 1 << (bits - 1);
    const float * edges = turbo_edges(bits);
    float unbiased;
    const float scale = turbo_search_scale(bits, x, &unbiased);
    for (int i = 0; i < TURBO_BLOCK; i++) {
        int level = 0;
        for (int e = 0; e + 1 < half; e++) {
            level += fabsf(x[i]) > edges[e] * scale;
        }
        index[i] = (uint8_t) (x[i] < 0 ? half - 1 - level : half + level);
    }
    return turbo_stored_scale(role, scale, unbiased);
}

static TURBO_INLINE void turbo_pack(int bits, uint16_t scale, const uint8_t * index, void * block) {
    if (bits == 4) {
        block_turbo4 * b = (block_turbo4 *) block;
        b->scale = scale;
        for (int i = 0; i < 32; i++) {
            b->nibbles[i] = (uint8_t) (index[i] | index[i + 32] << 4);
        }
        return;
    }
    uint8_t low[16];
    for (int i = 0; i < 16; i++) {
        low[i] =
            (uint8_t) ((index[i] & 3) | (index[i + 16] & 3) << 2 | (index[i + 32] & 3) << 4 | (index[i + 48] & 3) << 6);
    }
    if (bits == 2) {
        block_turbo2 * b = (block_turbo2 *) block;
        b->scale = scale;
        memcpy(b->low_bits, low, sizeof(low));
        return;
    }
    block_turbo3 * b = (block_turbo3 *) block;
    b->scale = scale;
    memcpy(b->low_bits, low, sizeof(low));
    for (int byte = 0; byte < 8; byte++) {
        int high = 0;
        for (int bit = 0; bit < 8; bit++) {
            high |= (index[8 * byte + bit] >> 2) << bit;
        }
        b->high_bit[byte] = (uint8_t) high;
    }
}

// index: [64]. Returns the scale.
static TURBO_INLINE float turbo_indices(int bits, const void * block, uint8_t * index) {
    if (bits == 4) {
        const block_turbo4 * b = (const block_turbo4 *) block;
        for (int i = 0; i < 32; i++) {
            index[i] = b->nibbles[i] & 15;
            index[i + 32] = b->nibbles[i] >> 4;
        }
        return turbo_float(b->scale);
    }
    const uint8_t * low =
        bits == 3 ? ((const block_turbo3 *) block)->low_bits : ((const block_turbo2 *) block)->low_bits;
    for (int i = 0; i < TURBO_BLOCK; i++) {
        index[i] = (low[i % 16] >> (2 * (i / 16))) & 3;
    }
    if (bits == 2) {
        return turbo_float(((const block_turbo2 *) block)->scale);
    }
    const block_turbo3 * b = (const block_turbo3 *) block;
    for (int i = 0; i < TURBO_BLOCK; i++) {
        index[i] = (uint8_t) (index[i] | ((b->high_bit[i / 8] >> (i % 8)) & 1) << 2);
    }
    return turbo_float(b->scale);
}

static TURBO_INLINE void turbo_decode_block(int bits, const void * block, float * x) {
    uint8_t index[TURBO_BLOCK];
    const float scale = turbo_indices(bits, block, index);
    const int half = 1 << (bits - 1);
    const float * levels = turbo_levels(bits);
    for (int i = 0; i < TURBO_BLOCK; i++) {
        x[i] = scale * (index[i] < half ? -levels[half - 1 - index[i]] : levels[index[i] - half]);
    }
}

static TURBO_INLINE int turbo_block_bytes(int bits) {
    return bits == 4 ? sizeof(block_turbo4) : bits == 3 ? sizeof(block_turbo3) : sizeof(block_turbo2);
}

// Calls with `bits` as a constant.
#define TURBO_WITH_BITS(bits, call) \
    switch (bits) {                 \
        case 4: call(4); break;     \
        case 3: call(3); break;     \
        default: call(2); break;    \
    }

static TURBO_INLINE void turbo_encode_rows(int bits, turbo_role role, const float * x, void * blocks, int64_t n) {
    for (int64_t i = 0; i < n / TURBO_BLOCK; i++) {
        uint8_t index[TURBO_BLOCK];
        const uint16_t scale = turbo_quantise(bits, role, x + i * TURBO_BLOCK, index);
        turbo_pack(bits, scale, index, (char *) blocks + i * turbo_block_bytes(bits));
    }
}
