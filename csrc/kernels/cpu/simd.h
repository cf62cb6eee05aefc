// The vector operations of the product kernels, 64 bytes wide with AVX-512 VNNI and 32 with AVX2 (with or without
// AVX-VNNI).
//
// The width is that of the build's target (GGML_NATIVE, or x86-64-v3). On any other target PMTP_SIMD is not defined.
#pragma once

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && \
    defined(__AVX512VNNI__)
#define PMTP_SIMD 64
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define PMTP_SIMD 32
#endif

#ifdef PMTP_SIMD

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace pmtp::products {

constexpr int kBytes = PMTP_SIMD;
constexpr int kLaneRows = kBytes / 8;  // weight rows in a vector whose 64-bit lanes hold 8 values of a row each

template <class T> inline T load_as(const void * p) {
    T value;
    std::memcpy(&value, p, sizeof(T));
    return value;
}

// Fetches a block `ahead` bytes past p: the hardware's own prefetching stops at the end of each page.
template <int Size, int Ahead> inline void fetch_ahead(const void * p) {
    for (int line = 0; line < Size; line += 64) {
        _mm_prefetch((const char *) p + Ahead + line, _MM_HINT_T0);
    }
}

inline float half_to_float(uint16_t half) { return _cvtsh_ss(half); }

#if PMTP_SIMD == 64
#define PMTP_SIMD_VNNI

using Int = __m512i;
using Float = __m512;

inline Int load(const void * p) { return _mm512_loadu_si512(p); }
inline Int zero() { return _mm512_setzero_si512(); }
inline Float zero_float() { return _mm512_setzero_ps(); }
inline Int broadcast8(int x) { return _mm512_set1_epi8((char) x); }
inline Int broadcast32(int x) { return _mm512_set1_epi32(x); }
inline Int broadcast64(const void * p) { return _mm512_set1_epi64(load_as<long long>(p)); }
inline Float broadcast(float x) { return _mm512_set1_ps(x); }
inline Int and_bits(Int a, Int b) { return _mm512_and_si512(a, b); }
inline Int or_bits(Int a, Int b) { return _mm512_or_si512(a, b); }
inline Int xor_bits(Int a, Int b) { return _mm512_xor_si512(a, b); }
inline Int high_nibbles(Int a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(0x0f)); }
inline Int shift_left64(Int a, int bits) { return _mm512_slli_epi64(a, (unsigned) bits); }
inline Int add32(Int a, Int b) { return _mm512_add_epi32(a, b); }
inline Int sub32(Int a, Int b) { return _mm512_sub_epi32(a, b); }
inline Int mul32(Int a, Int b) { return _mm512_mullo_epi32(a, b); }
inline Float to_float(Int a) { return _mm512_cvtepi32_ps(a); }
inline Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
inline Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
inline Float fnma(Float a, Float b, Float c) { return _mm512_fnmadd_ps(a, b, c); }
// sum + four products of an unsigned and a signed byte a lane.
inline Int dot(Int sum, Int u8, Int s8) { return _mm512_dpbusd_epi32(sum, u8, s8); }
inline Int dot16(Int sum, Int a, Int b) { return _mm512_dpwssd_epi32(sum, a, b); }
inline float total(Float a) { return _mm512_reduce_add_ps(a); }

// kLaneRows bytes, each zero-extended to 64 bits.
inline Int widen8to64(uint64_t bytes) { return _mm512_cvtepu8_epi64(_mm_cvtsi64_si128((long long) bytes)); }
inline Int even_lanes_twice(Int a) { return _mm512_shuffle_epi32(a, (_MM_PERM_ENUM) 0xa0); }

// kLaneRows f16 numbers, each in the two lanes of its row.
inline Float pair_scales(const uint16_t * halves) {
    const __m256 x = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) halves));
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7),
                                 _mm512_castps256_ps512(x));
}

// Adds the two lanes of every row and stores the kLaneRows results.
inline void store_pairs(float * result, Float a) {
    const __m512 sum = _mm512_add_ps(a, _mm512_permute_ps(a, 0xb1));
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
    _mm256_storeu_ps(result, _mm512_castps512_ps256(_mm512_permutexvar_ps(even, sum)));
}

#else

using Int = __m256i;
using Float = __m256;

inline Int load(const void * p) { return _mm256_loadu_si256((const __m256i *) p); }
inline Int zero() { return _mm256_setzero_si256(); }
inline Float zero_float() { return _mm256_setzero_ps(); }
inline Int broadcast8(int x) { return _mm256_set1_epi8((char) x); }
inline Int broadcast32(int x) { return _mm256_set1_epi32(x); }
inline Int broadcast64(const void * p) { return _mm256_set1_epi64x(load_as<long long>(p)); }
inline Float broadcast(float x) { return _mm256_set1_ps(x); }
inline Int and_bits(Int a, Int b) { return _mm256_and_si256(a, b); }
inline Int or_bits(Int a, Int b) { return _mm256_or_si256(a, b); }
inline Int xor_bits(Int a, Int b) { return _mm256_xor_si256(a, b); }
inline Int high_nibbles(Int a) { return _mm256_and_si256(_mm256_srli_epi16(a, 4), _mm256_set1_epi8(0x0f)); }
inline Int shift_left64(Int a, int bits) { return _mm256_slli_epi64(a, bits); }
inline Int add32(Int a, Int b) { return _mm256_add_epi32(a, b); }
inline Int sub32(Int a, Int b) { return _mm256_sub_epi32(a, b); }
inline Int mul32(Int a, Int b) { return _mm256_mullo_epi32(a, b); }
inline Float to_float(Int a) { return _mm256_cvtepi32_ps(a); }
inline Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
inline Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
inline Float fnma(Float a, Float b, Float c) { return _mm256_fnmadd_ps(a, b, c); }
#ifdef __AVXVNNI__
#define PMTP_SIMD_VNNI
inline Int dot(Int sum, Int u8, Int s8) { return _mm256_dpbusd_avx_epi32(sum, u8, s8); }
#else
// The sum of two products must fit 16 bits: |u8| <= 128 where |s8| <= 127.
inline Int dot(Int sum, Int u8, Int s8) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(u8, s8), _mm256_set1_epi16(1)));
}
#endif

inline Int add16(Int a, Int b) { return _mm256_add_epi16(a, b); }
inline Int pairs16(Int u8, Int s8) { return _mm256_maddubs_epi16(u8, s8); }
inline Int both_halves(Int a) { return _mm256_or_si256(a, _mm256_slli_epi32(a, 16)); }
inline Int dot16(Int sum, Int a, Int b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
inline float total(Float a) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

inline Int widen8to64(uint64_t bytes) { return _mm256_cvtepu8_epi64(_mm_cvtsi64_si128((long long) bytes)); }
inline Int even_lanes_twice(Int a) { return _mm256_shuffle_epi32(a, 0xa0); }

inline Float pair_scales(const uint16_t * halves) {
    const __m128 x = _mm_cvtph_ps(_mm_loadl_epi64((const __m128i *) halves));
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(x), _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}

inline void store_pairs(float * result, Float a) {
    const __m256 sum = _mm256_add_ps(a, _mm256_permute_ps(a, 0xb1));
    const __m256 even = _mm256_permutevar8x32_ps(sum, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
    _mm_storeu_ps(result, _mm256_castps256_ps128(even));
}

#endif

// The factor that add_scaled_dots() takes, from a number below 64 in each 32-bit lane.
#ifdef PMTP_SIMD_VNNI
inline Int dots_scale(Int scale) { return scale; }
#else
inline Int dots_scale(Int scale) { return both_halves(scale); }
#endif

// sum + scale times the products of 4-bit weights with 32 values, 8 of which each w[i] meets in every 64-bit lane.
inline Int add_scaled_dots(Int sum, const Int (&w)[4], const int8_t * values, Int scale) {
#ifdef PMTP_SIMD_VNNI
    Int dots = zero();
    for (int i = 0; i < 4; i++) {
        dots = dot(dots, w[i], broadcast64(values + 8 * i));
    }
    return add32(sum, mul32(dots, scale));
#else  // eight products of 15 and 127 still fit 16 bits
    Int pairs = pairs16(w[0], broadcast64(values));
    for (int i = 1; i < 4; i++) {
        pairs = add16(pairs, pairs16(w[i], broadcast64(values + 8 * i)));
    }
    return dot16(sum, pairs, scale);
#endif
}

}  // namespace pmtp::products

#endif  // PMTP_SIMD
