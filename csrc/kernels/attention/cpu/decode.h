// Rows of the cache to floats, inlined into the attention kernel where AVX-512 makes a block a dozen instructions; the
// same floats as turbo_decode's.
#pragma once

#include "kernels/attention/plan.h"
#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"
#include "turboquant/codebook.h"
#include "turboquant/turboquant.h"

namespace pmtp::attention {

using namespace cpu;

#if PMTP_SIMD == 64

// A table look-up takes the low four bits of each lane's index, so the bits above need no masking. Tables of 2-bit
// indices repeat four times: then the next two bits do not matter either.
struct Codebooks {
    __m512 turbo4, turbo3_low, turbo3_high, turbo2;

    Codebooks() {
        float table[4][16];
        for (int i = 0; i < 16; i++) {
            table[0][i] = i < 8 ? -turbo4_levels[7 - i] : turbo4_levels[i - 8];
            table[1][i] = -turbo3_levels[3 - i % 4];
            table[2][i] = turbo3_levels[i % 4];
            table[3][i] = i % 4 < 2 ? -turbo2_levels[1 - i % 4] : turbo2_levels[i % 4 - 2];
        }
        turbo4 = _mm512_loadu_ps(table[0]);
        turbo3_low = _mm512_loadu_ps(table[1]);
        turbo3_high = _mm512_loadu_ps(table[2]);
        turbo2 = _mm512_loadu_ps(table[3]);
    }
};

PMTP_INLINE __m512i widen(const uint8_t * bytes) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *) bytes));
}

PMTP_INLINE void decode64(const block_turbo4 & block, const Codebooks & books, float * x) {
    const __m512 table = _mm512_mul_ps(books.turbo4, _mm512_set1_ps(half_to_float(block.scale)));
    for (int i = 0; i < 2; i++) {
        const __m512i bytes = widen(block.nibbles + 16 * i);
        _mm512_storeu_ps(x + 16 * i, _mm512_permutexvar_ps(bytes, table));
        _mm512_storeu_ps(x + 32 + 16 * i, _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), table));
    }
}

PMTP_INLINE void decode64(const block_turbo3 & block, const Codebooks & books, float * x) {
    const __m512 scale = _mm512_set1_ps(half_to_float(block.scale));
    const __m512 low = _mm512_mul_ps(books.turbo3_low, scale), high = _mm512_mul_ps(books.turbo3_high, scale);
    const __m512i bytes = widen(block.low_bits);
    uint64_t high_bits;
    std::memcpy(&high_bits, block.high_bit, sizeof(high_bits));
    for (int i = 0; i < 4; i++) {
        const __m512i index = _mm512_srli_epi32(bytes, 2 * i);
        const __m512 value = _mm512_permutexvar_ps(index, low);
        _mm512_storeu_ps(x + 16 * i,
                         _mm512_mask_permutexvar_ps(value, (__mmask16) (high_bits >> (16 * i)), index, high));
    }
}

PMTP_INLINE void decode64(const block_turbo2 & block, const Codebooks & books, float * x) {
    const __m512 table = _mm512_mul_ps(books.turbo2, _mm512_set1_ps(half_to_float(block.scale)));
    const __m512i bytes = widen(block.low_bits);
    for (int i = 0; i < 4; i++) {
        _mm512_storeu_ps(x + 16 * i, _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 2 * i), table));
    }
}

template <class Block> PMTP_INLINE void decode_blocks(const char * row, const Codebooks & books, float * x, int n) {
    for (int i = 0; i < n; i += TURBO_BLOCK) {
        decode64(((const Block *) row)[i / TURBO_BLOCK], books, x + i);
    }
}

// n values, a multiple of 64.
PMTP_INLINE void decode(const Cells & cells, const Codebooks & books, const char * row, float * x, int n) {
    switch (cells.turbo_bits) {
        case 4: decode_blocks<block_turbo4>(row, books, x, n); break;
        case 3: decode_blocks<block_turbo3>(row, books, x, n); break;
        case 2: decode_blocks<block_turbo2>(row, books, x, n); break;
        default: cells.decode(row, x, n);
    }
}

#else

struct Codebooks {};

inline void decode(const Cells & cells, const Codebooks &, const char * row, float * x, int n) {
    if (cells.turbo_bits != 0) {
        turbo_decode(cells.turbo_bits, row, x, n);
    } else {
        cells.decode(row, x, n);
    }
}

#endif

}  // namespace pmtp::attention
