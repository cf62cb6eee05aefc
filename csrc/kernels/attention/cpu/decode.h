// Rows of the cache to floats, inlined into the attention kernel where that is a dozen instructions a block; the same
// floats as ggml's decoders and turbo_decode.
#pragma once

#include "kernels/attention/cells.h"
#include "kernels/cpu/half.h"
#include "kernels/cpu/iq4.h"
#include "kernels/cpu/simd.h"
#include "turboquant/codebook.h"
#include "turboquant/turboquant.h"

namespace pmtp::attention {

using namespace cpu;

// A decoder of each type: decode(row, x, n) for n values, a multiple of 32.

struct DecodeF32 {
    void operator()(const char * row, float * x, int n) const { std::memcpy(x, row, n * sizeof(float)); }
};

struct DecodeF16 {
    PMTP_INLINE void operator()(const char * row, float * x, int n) const {
        for (int i = 0; i < n; i += kLanes) {
            store(x + i, load_halves((const uint16_t *) row + i));
        }
    }
};

struct DecodeBf16 {
    PMTP_INLINE void operator()(const char * row, float * x, int n) const {
        for (int i = 0; i < n; i += kLanes) {
            store(x + i, load_bfloats((const uint16_t *) row + i));
        }
    }
};

struct DecodeQ8_0 {
    PMTP_INLINE void operator()(const char * row, float * x, int n) const {
        for (int i = 0; i < n; i += 32, row += 34) {
            const Float scale = broadcast(half_to_float(load_as<uint16_t>(row)));
            for (int j = 0; j < 32; j += kLanes) {
                store(x + i + j, load_bytes((const int8_t *) row + 2 + j) * scale);
            }
        }
    }
};

#ifdef PMTP_SIMD
// Blocks of a scale and 16 bytes, each with value i and value i + 16 as indices of a codebook.
struct DecodeNibbles {
    __m128i codebook;
    PMTP_INLINE void operator()(const char * row, float * x, int n) const {
        const __m128i mask = _mm_set1_epi8(15);
        for (int i = 0; i < n; i += 32, row += 18) {
            const Float scale = broadcast(half_to_float(load_as<uint16_t>(row)));
            const __m128i bytes = _mm_loadu_si128((const __m128i *) (row + 2));
            alignas(16) int8_t values[32];
            _mm_store_si128((__m128i *) values, _mm_shuffle_epi8(codebook, _mm_and_si128(bytes, mask)));
            _mm_store_si128((__m128i *) (values + 16),
                            _mm_shuffle_epi8(codebook, _mm_and_si128(_mm_srli_epi16(bytes, 4), mask)));
            for (int j = 0; j < 32; j += kLanes) {
                store(x + i + j, load_bytes(values + j) * scale);
            }
        }
    }
};
#endif

struct DecodeOther {
    Decode decode;
    void operator()(const char * row, float * x, int n) const { decode(row, x, n); }
};

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

template <class Block> struct DecodeTurbo {
    Codebooks books;
    PMTP_INLINE void operator()(const char * row, float * x, int n) const {
        for (int i = 0; i < n; i += TURBO_BLOCK) {
            decode64(((const Block *) row)[i / TURBO_BLOCK], books, x + i);
        }
    }
};

#else

template <class Block> struct DecodeTurbo {
    void operator()(const char * row, float * x, int n) const {
        turbo_decode(sizeof(Block) == 34 ? 4 : sizeof(Block) == 26 ? 3 : 2, row, x, n);
    }
};

#endif

// Calls f with the decoder of the cells' type.
template <class F> PMTP_INLINE void with_decoder(const Cells & cells, F f) {
    switch (cells.format) {
        case Format::f32: f(DecodeF32{}); break;
        case Format::f16: f(DecodeF16{}); break;
        case Format::bf16: f(DecodeBf16{}); break;
        case Format::q8_0: f(DecodeQ8_0{}); break;
#ifdef PMTP_SIMD
        case Format::q4_0:
            f(DecodeNibbles{ _mm_setr_epi8(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7) });
            break;
        case Format::iq4_nl: f(DecodeNibbles{ iq4_codebook<0>() }); break;
#endif
        case Format::turbo4: f(DecodeTurbo<block_turbo4>{}); break;
        case Format::turbo3: f(DecodeTurbo<block_turbo3>{}); break;
        case Format::turbo2: f(DecodeTurbo<block_turbo2>{}); break;
        default: f(DecodeOther{ cells.decode }); break;
    }
}

}  // namespace pmtp::attention
