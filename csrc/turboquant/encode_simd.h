// codec.h's encoder with AVX-512 or AVX2. It rounds what codec.h rounds, in the same order, and so writes the same
// bytes: the grid's scales are tried side by side, one in every lane, so that a lane adds its products as codec.h's
// loops do.
//
// The vectors have nothing in common with kernels/cpu/simd.h: C, and codec.h's 16 lanes on every target, because the
// lanes are the order of its sums.
#pragma once

#include "turboquant/codec.h"

#include <immintrin.h>

// Scales that turbo_search_scale tries first.
#define TURBO_GRID 15

// TURBO_LANES floats. turbo_above: value where x > edge, elsewhere otherwise.
#if defined(__AVX512F__)

typedef __m512 turbo_lanes;

static TURBO_INLINE turbo_lanes turbo_lanes_load(const float * p) { return _mm512_loadu_ps(p); }
static TURBO_INLINE void turbo_lanes_store(float * p, turbo_lanes x) { _mm512_storeu_ps(p, x); }
static TURBO_INLINE turbo_lanes turbo_lanes_set(float x) { return _mm512_set1_ps(x); }
static TURBO_INLINE turbo_lanes turbo_lanes_add(turbo_lanes a, turbo_lanes b) { return _mm512_add_ps(a, b); }
static TURBO_INLINE turbo_lanes turbo_lanes_times(turbo_lanes a, turbo_lanes b) { return _mm512_mul_ps(a, b); }
static TURBO_INLINE turbo_lanes turbo_above(turbo_lanes x, turbo_lanes edge, turbo_lanes value, turbo_lanes otherwise) {
    return _mm512_mask_mov_ps(otherwise, _mm512_cmp_ps_mask(x, edge, _CMP_GT_OQ), value);
}

#else

typedef struct {
    __m256 low, high;
} turbo_lanes;

static TURBO_INLINE turbo_lanes turbo_lanes_load(const float * p) {
    return (turbo_lanes) { _mm256_loadu_ps(p), _mm256_loadu_ps(p + 8) };
}
static TURBO_INLINE void turbo_lanes_store(float * p, turbo_lanes x) {
    _mm256_storeu_ps(p, x.low);
    _mm256_storeu_ps(p + 8, x.high);
}
static TURBO_INLINE turbo_lanes turbo_lanes_set(float x) {
    return (turbo_lanes) { _mm256_set1_ps(x), _mm256_set1_ps(x) };
}
static TURBO_INLINE turbo_lanes turbo_lanes_add(turbo_lanes a, turbo_lanes b) {
    return (turbo_lanes) { _mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high) };
}
static TURBO_INLINE turbo_lanes turbo_lanes_times(turbo_lanes a, turbo_lanes b) {
    return (turbo_lanes) { _mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high) };
}
static TURBO_INLINE turbo_lanes turbo_above(turbo_lanes x, turbo_lanes edge, turbo_lanes value, turbo_lanes otherwise) {
    return (turbo_lanes) {
        _mm256_blendv_ps(otherwise.low, value.low, _mm256_cmp_ps(x.low, edge.low, _CMP_GT_OQ)),
        _mm256_blendv_ps(otherwise.high, value.high, _mm256_cmp_ps(x.high, edge.high, _CMP_GT_OQ)),
    };
}

#endif

// The level of |x| where its edges are edge[e].
static TURBO_INLINE turbo_lanes turbo_level(int bits, turbo_lanes x, const turbo_lanes * edge) {
    const float * levels = turbo_levels(bits);
    turbo_lanes c = turbo_lanes_set(levels[0]);
    for (int e = 0; e + 1 < 1 << (bits - 1); e++) {
        c = turbo_above(x, edge[e], turbo_lanes_set(levels[e + 1]), c);
    }
    return c;
}

// turbo_products of the grid's scales, in the lanes of scale. absolute: |x|, [64].
static TURBO_INLINE void turbo_grid_products(int bits, const float * absolute, turbo_lanes scale, turbo_lanes * xc,
                                             turbo_lanes * cc) {
    turbo_lanes edge[7];
    for (int e = 0; e + 1 < 1 << (bits - 1); e++) {
        edge[e] = turbo_lanes_times(turbo_lanes_set(turbo_edges(bits)[e]), scale);
    }
    *xc = *cc = turbo_lanes_set(0);
    for (int j = 0; j < TURBO_LANES; j++) {
        turbo_lanes lane_xc = turbo_lanes_set(0), lane_cc = turbo_lanes_set(0);
        for (int i = j; i < TURBO_BLOCK; i += TURBO_LANES) {
            const turbo_lanes x = turbo_lanes_set(absolute[i]);
            const turbo_lanes c = turbo_level(bits, x, edge);
            lane_xc = turbo_lanes_add(lane_xc, turbo_lanes_times(x, c));
            lane_cc = turbo_lanes_add(lane_cc, turbo_lanes_times(c, c));
        }
        *xc = turbo_lanes_add(*xc, lane_xc);
        *cc = turbo_lanes_add(*cc, lane_cc);
    }
}

// turbo_products of one scale.
static TURBO_INLINE void turbo_scale_products(int bits, const float * absolute, float scale, float * xc, float * cc) {
    turbo_lanes edge[7];
    for (int e = 0; e + 1 < 1 << (bits - 1); e++) {
        edge[e] = turbo_lanes_set(turbo_edges(bits)[e] * scale);
    }
    turbo_lanes lane_xc = turbo_lanes_set(0), lane_cc = turbo_lanes_set(0);
    for (int i = 0; i < TURBO_BLOCK; i += TURBO_LANES) {
        const turbo_lanes x = turbo_lanes_load(absolute + i);
        const turbo_lanes c = turbo_level(bits, x, edge);
        lane_xc = turbo_lanes_add(lane_xc, turbo_lanes_times(x, c));
        lane_cc = turbo_lanes_add(lane_cc, turbo_lanes_times(c, c));
    }
    float lanes_xc[TURBO_LANES], lanes_cc[TURBO_LANES];
    turbo_lanes_store(lanes_xc, lane_xc);
    turbo_lanes_store(lanes_cc, lane_cc);
    *xc = turbo_sum(lanes_xc);
    *cc = turbo_sum(lanes_cc);
}

// As turbo_search_scale.
static TURBO_INLINE float turbo_search_scale_simd(int bits, const float * x, const float * absolute, float * unbiased) {
    turbo_lanes lanes = turbo_lanes_set(0);
    for (int i = 0; i < TURBO_BLOCK; i += TURBO_LANES) {
        const turbo_lanes part = turbo_lanes_load(x + i);
        lanes = turbo_lanes_add(lanes, turbo_lanes_times(part, part));
    }
    float sums[TURBO_LANES];
    turbo_lanes_store(sums, lanes);
    const float squares = turbo_sum(sums);
    if (!(squares > 0) || !(squares < INFINITY)) {
        *unbiased = squares;
        return squares;
    }
    const float rms = sqrtf(squares / TURBO_BLOCK);
    float grid[TURBO_LANES], grid_xc[TURBO_LANES], grid_cc[TURBO_LANES];
    for (int step = 0; step < TURBO_LANES; step++) {  // a lane is left over
        grid[step] = rms * (0.72f + 0.045f * (float) step);
    }
    turbo_lanes xcs, ccs;
    turbo_grid_products(bits, absolute, turbo_lanes_load(grid), &xcs, &ccs);
    turbo_lanes_store(grid_xc, xcs);
    turbo_lanes_store(grid_cc, ccs);
    float met[TURBO_LANES];
    for (int step = 0; step < TURBO_LANES; step++) {
        met[step] = grid_xc[step] * grid_xc[step] / grid_cc[step];
    }
    int best = 0;
    for (int step = 1; step < TURBO_GRID; step++) {
        best = met[step] > met[best] ? step : best;
    }
    float scale = grid_xc[best] / grid_cc[best], xc, cc;
    for (int step = 0; step < 2; step++) {
        turbo_scale_products(bits, absolute, scale, &xc, &cc);
        scale = xc / cc;
    }
    turbo_scale_products(bits, absolute, scale, &xc, &cc);
    *unbiased = squares / xc;
    return scale;
}

static TURBO_INLINE void turbo_encode_rows_simd(int bits, turbo_role role, const float * x, void * blocks, int64_t n) {
    const int half = 1 << (bits - 1);
    for (int64_t b = 0; b < n / TURBO_BLOCK; b++, x += TURBO_BLOCK) {
        float absolute[TURBO_BLOCK], unbiased;
        for (int i = 0; i < TURBO_BLOCK; i++) {
            absolute[i] = fabsf(x[i]);
        }
        const float scale = turbo_search_scale_simd(bits, x, absolute, &unbiased);
        int32_t level[TURBO_BLOCK] = { 0 };
        for (int e = 0; e + 1 < half; e++) {
            const float edge = turbo_edges(bits)[e] * scale;
            for (int i = 0; i < TURBO_BLOCK; i++) {
                level[i] += absolute[i] > edge;
            }
        }
        uint8_t index[TURBO_BLOCK];
        for (int i = 0; i < TURBO_BLOCK; i++) {
            index[i] = (uint8_t) (x[i] < 0 ? half - 1 - level[i] : half + level[i]);
        }
        turbo_pack(bits, turbo_stored_scale(role, scale, unbiased), index,
                   (char *) blocks + b * turbo_block_bytes(bits));
    }
}
