// The vectors of the CPU's kernels: 64 bytes wide with AVX-512, 32 with AVX2, else 16.
//
// The width is that of the build's target (GGML_NATIVE, or x86-64-v3). Floats are the compiler's own vector extension,
// so that they have operators on every target. Integers and what mixes the two are intrinsics of the first two widths,
// for which PMTP_SIMD is defined.
#pragma once

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define PMTP_SIMD 64
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define PMTP_SIMD 32
#endif

#ifdef PMTP_SIMD
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

#define PMTP_INLINE inline __attribute__((always_inline))
// Before a loop over what shall stay in registers.
#define PMTP_UNROLL _Pragma("GCC unroll 16")

namespace pmtp::cpu {

#ifdef PMTP_SIMD
constexpr int kBytes = PMTP_SIMD;
#else
constexpr int kBytes = 16;
#endif
constexpr int kLanes = kBytes / 4;

typedef float Float __attribute__((vector_size(kBytes)));
typedef int32_t Int32 __attribute__((vector_size(kBytes)));

template <class T> PMTP_INLINE T load_as(const void * p) {
    T value;
    std::memcpy(&value, p, sizeof(T));
    return value;
}

PMTP_INLINE Float load_floats(const float * p) { return load_as<Float>(p); }
// kLanes signed bytes. (GCC 12 takes a conversion of vectors from 8 to 32 bits apart, lane by lane.)
PMTP_INLINE Float load_bytes(const int8_t * p) {
#if PMTP_SIMD == 64
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *) p)));
#elif PMTP_SIMD == 32
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *) p)));
#else
    typedef int8_t Int8 __attribute__((vector_size(kLanes)));
    return __builtin_convertvector(__builtin_convertvector(load_as<Int8>(p), Int32), Float);
#endif
}
PMTP_INLINE void store(float * p, Float a) { std::memcpy(p, &a, sizeof(a)); }
PMTP_INLINE Float zero_float() { return Float{}; }
PMTP_INLINE Float broadcast(float x) { return x - Float{}; }
PMTP_INLINE Int32 bits_of(Float a) { return load_as<Int32>(&a); }
PMTP_INLINE Float float_of(Int32 bits) { return load_as<Float>(&bits); }

// a * b + c, rounded once where the target can: not left to the compiler, which might round it otherwise elsewhere.
PMTP_INLINE Float fma(Float a, Float b, Float c) {
#if PMTP_SIMD == 64
    return _mm512_fmadd_ps(a, b, c);
#elif PMTP_SIMD == 32
    return _mm256_fmadd_ps(a, b, c);
#else
    return a * b + c;
#endif
}

// Lanes 2i + (2i + 1) of a, then of b.
PMTP_INLINE Float add_pairs(Float a, Float b) {
#if PMTP_SIMD == 64
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#elif PMTP_SIMD == 32
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#else
    return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
#endif
}

// Lane i of the result: the sum of a[i]'s lanes. a is overwritten.
PMTP_INLINE Float totals(Float (&a)[kLanes]) {
    for (int n = kLanes / 2; n > 0; n /= 2) {
        for (int i = 0; i < n; i++) {
            a[i] = add_pairs(a[2 * i], a[2 * i + 1]);
        }
    }
    return a[0];
}

#if PMTP_SIMD == 64
PMTP_INLINE float total(Float a) { return _mm512_reduce_add_ps(a); }
PMTP_INLINE float maximum(Float a) { return _mm512_reduce_max_ps(a); }
// A bit a lane.
PMTP_INLINE unsigned lanes_that_differ(Float a, Float b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ); }
#elif PMTP_SIMD == 32
PMTP_INLINE float total(Float a) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}
PMTP_INLINE float maximum(Float a) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}
PMTP_INLINE unsigned lanes_that_differ(Float a, Float b) {
    return (unsigned) _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NEQ_UQ));
}
#else
PMTP_INLINE float total(Float a) { return (a[0] + a[2]) + (a[1] + a[3]); }
PMTP_INLINE float maximum(Float a) {
    const float x = a[0] > a[1] ? a[0] : a[1], y = a[2] > a[3] ? a[2] : a[3];
    return x > y ? x : y;
}
PMTP_INLINE unsigned lanes_that_differ(Float a, Float b) {
    unsigned bits = 0;
    for (int i = 0; i < kLanes; i++) {
        bits |= (unsigned) (a[i] != b[i]) << i;
    }
    return bits;
}
#endif

#ifdef PMTP_SIMD

// Weight rows in a vector whose 64-bit lanes hold 8 values of a row each.
constexpr int kLaneRows = kBytes / 8;

// Fetches a block `ahead` bytes past p: the hardware's own prefetching stops at the end of each page. (Inlined before
// GCC takes a function that only prefetches for one without effects and drops its calls.)
template <int Size, int Ahead> PMTP_INLINE void fetch_ahead(const void * p) {
    for (int line = 0; line < Size; line += 64) {
        _mm_prefetch((const char *) p + Ahead + line, _MM_HINT_T0);
    }
}

// Into the second-level cache: what is read much later.
template <int Size> PMTP_INLINE void fetch_later(const void * p) {
    for (int line = 0; line < Size; line += 64) {
        _mm_prefetch((const char *) p + line, _MM_HINT_T1);
    }
}

#if PMTP_SIMD == 64

using Int = __m512i;

inline Int load(const void * p) { return _mm512_loadu_si512(p); }
inline Int zero() { return _mm512_setzero_si512(); }
inline Int broadcast8(int x) { return _mm512_set1_epi8((char) x); }
inline Int broadcast32(int x) { return _mm512_set1_epi32(x); }
inline Int broadcast64(const void * p) { return _mm512_set1_epi64(load_as<long long>(p)); }
inline Int and_bits(Int a, Int b) { return _mm512_and_si512(a, b); }
inline Int or_bits(Int a, Int b) { return _mm512_or_si512(a, b); }
inline Int xor_bits(Int a, Int b) { return _mm512_xor_si512(a, b); }
inline Int high_nibbles(Int a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(0x0f)); }
inline Int shift_left64(Int a, int bits) { return _mm512_slli_epi64(a, (unsigned) bits); }
inline Int add32(Int a, Int b) { return _mm512_add_epi32(a, b); }
inline Int sub32(Int a, Int b) { return _mm512_sub_epi32(a, b); }
inline Int mul32(Int a, Int b) { return _mm512_mullo_epi32(a, b); }
inline Float to_float(Int a) { return _mm512_cvtepi32_ps(a); }
inline Float fnma(Float a, Float b, Float c) { return _mm512_fnmadd_ps(a, b, c); }

inline Int add16(Int a, Int b) { return _mm512_add_epi16(a, b); }
inline Int shift_left32(Int a, int bits) { return _mm512_slli_epi32(a, (unsigned) bits); }
inline Int shift_right32(Int a, int bits) { return _mm512_srli_epi32(a, (unsigned) bits); }
inline Int absolute8(Int a) { return _mm512_abs_epi8(a); }
// a with the signs of `signs`; anything where that is 0.
inline Int signed8(Int a, Int signs) { return _mm512_mask_sub_epi8(a, _mm512_movepi8_mask(signs), zero(), a); }
// Sums of two products: of an unsigned and a signed byte each, which must fit 16 bits; of two 16-bit numbers each.
inline Int pairs16(Int u8, Int s8) { return _mm512_maddubs_epi16(u8, s8); }
inline Int pairs32(Int a, Int b) { return _mm512_madd_epi16(a, b); }
inline Float round_to_integers(Float a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Int32 to_int(Float a) { return (Int32) _mm512_cvtps_epi32(a); }

// kLaneRows bytes, each zero-extended to 64 bits.
inline Int widen8to64(uint64_t bytes) { return _mm512_cvtepu8_epi64(_mm_cvtsi64_si128((long long) bytes)); }
inline Int even_lanes_twice(Int a) { return _mm512_shuffle_epi32(a, (_MM_PERM_ENUM) 0xa0); }

// The even, and the odd 32-bit lanes of a, then of b: mixed, in an order of lanes that is quick to make.
inline Int even_lanes(Int a, Int b) {
    return _mm512_permutex2var_epi32(a, _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
                                     b);
}
inline Int odd_lanes(Int a, Int b) {
    return _mm512_permutex2var_epi32(a, _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31),
                                     b);
}

// A lane each: the bits of the nearest f16 number, and the number that such bits are.
inline Int half_bits(Float a) { return _mm512_cvtepu16_epi32(_mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT)); }
inline Float of_half_bits(Int a) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)); }
// The 32-bit words at these indices, and each lane of a shifted by its own number of bits.
inline Int gather32(const void * words, Int indices) { return _mm512_i32gather_epi32(indices, words, 4); }
inline Int shift_right32(Int a, Int bits) { return _mm512_srlv_epi32(a, bits); }

// In that order: 8 f16 numbers, and where there are more lanes 8 others behind them. And back from it.
inline Float mixed_halves(const uint16_t * a, const uint16_t * b) {
    return _mm512_cvtph_ps(_mm256_set_m128i(load_as<__m128i>(b), load_as<__m128i>(a)));
}
inline Float unmixed(Float a) { return a; }

// kLaneRows f16 numbers, each in the two lanes of its row.
inline Float pair_scales(const uint16_t * halves) {
    const __m256 x = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) halves));
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7),
                                 _mm512_castps256_ps512(x));
}

// In both lanes of a pair: their sum.
inline Int add_neighbours(Int a) { return _mm512_add_epi32(a, _mm512_shuffle_epi32(a, (_MM_PERM_ENUM) 0xb1)); }

// Within groups of four lanes: the two halves exchanged; the lanes of each half exchanged; the lower, and the upper
// halves of a and b, lane by lane; the same by halves.
inline Int swap_pairs(Int a) { return _mm512_shuffle_epi32(a, (_MM_PERM_ENUM) 0x4e); }
inline Int swap_lanes(Int a) { return _mm512_shuffle_epi32(a, (_MM_PERM_ENUM) 0xb1); }
inline Int low_lanes(Int a, Int b) { return _mm512_unpacklo_epi32(a, b); }
inline Int high_lanes(Int a, Int b) { return _mm512_unpackhi_epi32(a, b); }
inline Int low_pairs(Int a, Int b) { return _mm512_unpacklo_epi64(a, b); }
inline Int high_pairs(Int a, Int b) { return _mm512_unpackhi_epi64(a, b); }
// The lanes of a group of a, then of b, as 16-bit numbers, which they must fit.
inline Int pack16(Int a, Int b) { return _mm512_packs_epi32(a, b); }
inline Float in_all_groups(__m128 a) { return _mm512_broadcast_f32x4(a); }
// The sum of all groups.
inline __m128 add_groups(Float a) {
    const __m256 halves = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}

// kLaneRows results, each in the first of its row's two lanes.
inline void store_even_lanes(float * result, Float a) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
    _mm256_storeu_ps(result, _mm512_castps512_ps256(_mm512_permutexvar_ps(even, a)));
}

// Adds the two lanes of every row and stores the kLaneRows results.
inline void store_pairs(float * result, Float a) {
    store_even_lanes(result, _mm512_add_ps(a, _mm512_permute_ps(a, 0xb1)));
}

#else

using Int = __m256i;

inline Int load(const void * p) { return _mm256_loadu_si256((const __m256i *) p); }
inline Int zero() { return _mm256_setzero_si256(); }
inline Int broadcast8(int x) { return _mm256_set1_epi8((char) x); }
inline Int broadcast32(int x) { return _mm256_set1_epi32(x); }
inline Int broadcast64(const void * p) { return _mm256_set1_epi64x(load_as<long long>(p)); }
inline Int and_bits(Int a, Int b) { return _mm256_and_si256(a, b); }
inline Int or_bits(Int a, Int b) { return _mm256_or_si256(a, b); }
inline Int xor_bits(Int a, Int b) { return _mm256_xor_si256(a, b); }
inline Int high_nibbles(Int a) { return _mm256_and_si256(_mm256_srli_epi16(a, 4), _mm256_set1_epi8(0x0f)); }
inline Int shift_left64(Int a, int bits) { return _mm256_slli_epi64(a, bits); }
inline Int add32(Int a, Int b) { return _mm256_add_epi32(a, b); }
inline Int sub32(Int a, Int b) { return _mm256_sub_epi32(a, b); }
inline Int mul32(Int a, Int b) { return _mm256_mullo_epi32(a, b); }
inline Float to_float(Int a) { return _mm256_cvtepi32_ps(a); }
inline Float fnma(Float a, Float b, Float c) { return _mm256_fnmadd_ps(a, b, c); }
inline Int add16(Int a, Int b) { return _mm256_add_epi16(a, b); }
inline Int shift_left32(Int a, int bits) { return _mm256_slli_epi32(a, bits); }
inline Int shift_right32(Int a, int bits) { return _mm256_srli_epi32(a, bits); }
inline Int absolute8(Int a) { return _mm256_abs_epi8(a); }
inline Int signed8(Int a, Int signs) { return _mm256_sign_epi8(a, signs); }
inline Int pairs16(Int u8, Int s8) { return _mm256_maddubs_epi16(u8, s8); }
inline Int pairs32(Int a, Int b) { return _mm256_madd_epi16(a, b); }
inline Float round_to_integers(Float a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Int32 to_int(Float a) { return (Int32) _mm256_cvtps_epi32(a); }
inline Int widen8to64(uint64_t bytes) { return _mm256_cvtepu8_epi64(_mm_cvtsi64_si128((long long) bytes)); }
inline Int even_lanes_twice(Int a) { return _mm256_shuffle_epi32(a, 0xa0); }

inline Int even_lanes(Int a, Int b) {
    return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88));
}
inline Int odd_lanes(Int a, Int b) {
    return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0xdd));
}
inline Float mixed_halves(const uint16_t * a, const uint16_t *) {
    return _mm256_cvtph_ps(_mm_shuffle_epi32(load_as<__m128i>(a), 0xd8));
}
inline Float unmixed(Float a) { return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(a), 0xd8)); }

inline Int half_bits(Float a) { return _mm256_cvtepu16_epi32(_mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT)); }
inline Float of_half_bits(Int a) {
    return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)));
}
inline Int gather32(const void * words, Int indices) { return _mm256_i32gather_epi32((const int *) words, indices, 4); }
inline Int shift_right32(Int a, Int bits) { return _mm256_srlv_epi32(a, bits); }

inline Float pair_scales(const uint16_t * halves) {
    const __m128 x = _mm_cvtph_ps(_mm_loadl_epi64((const __m128i *) halves));
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(x), _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}

inline Int add_neighbours(Int a) { return _mm256_add_epi32(a, _mm256_shuffle_epi32(a, 0xb1)); }

inline Int swap_pairs(Int a) { return _mm256_shuffle_epi32(a, 0x4e); }
inline Int swap_lanes(Int a) { return _mm256_shuffle_epi32(a, 0xb1); }
inline Int low_lanes(Int a, Int b) { return _mm256_unpacklo_epi32(a, b); }
inline Int high_lanes(Int a, Int b) { return _mm256_unpackhi_epi32(a, b); }
inline Int low_pairs(Int a, Int b) { return _mm256_unpacklo_epi64(a, b); }
inline Int high_pairs(Int a, Int b) { return _mm256_unpackhi_epi64(a, b); }
inline Int pack16(Int a, Int b) { return _mm256_packs_epi32(a, b); }
inline Float in_all_groups(__m128 a) { return _mm256_broadcast_ps(&a); }
inline __m128 add_groups(Float a) { return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)); }

inline void store_even_lanes(float * result, Float a) {
    const __m256 even = _mm256_permutevar8x32_ps(a, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
    _mm_storeu_ps(result, _mm256_castps256_ps128(even));
}
inline void store_pairs(float * result, Float a) {
    store_even_lanes(result, _mm256_add_ps(a, _mm256_permute_ps(a, 0xb1)));
}

#endif

// sum + four products of an unsigned and a signed byte a lane. Without VNNI two of them must fit 16 bits: |u8| <= 128
// where |s8| <= 127.
#if PMTP_SIMD == 64 && defined(__AVX512VNNI__)
#define PMTP_SIMD_VNNI
inline Int dot(Int sum, Int u8, Int s8) { return _mm512_dpbusd_epi32(sum, u8, s8); }
inline Int dot16(Int sum, Int a, Int b) { return _mm512_dpwssd_epi32(sum, a, b); }
#elif PMTP_SIMD == 32 && defined(__AVXVNNI__)
#define PMTP_SIMD_VNNI
inline Int dot(Int sum, Int u8, Int s8) { return _mm256_dpbusd_avx_epi32(sum, u8, s8); }
inline Int dot16(Int sum, Int a, Int b) { return add32(sum, pairs32(a, b)); }
#else
inline Int dot(Int sum, Int u8, Int s8) { return add32(sum, pairs32(pairs16(u8, s8), broadcast32(0x00010001))); }
inline Int dot16(Int sum, Int a, Int b) { return add32(sum, pairs32(a, b)); }
#endif

// The low halves of a's 32-bit lanes, and above them those of b's.
inline Int low_halves(Int a, Int b) {
#if PMTP_SIMD == 64
    return _mm512_mask_blend_epi16(0xaaaaaaaa, a, shift_left32(b, 16));
#else
    return _mm256_blend_epi16(a, shift_left32(b, 16), 0xaa);
#endif
}

// start + the products of up to eight vectors of 4-bit weights with signed bytes, four of each vector a lane.
class NibbleDots {
  public:
#ifdef PMTP_SIMD_VNNI
    PMTP_INLINE void begin(Int start) { sum_ = start; }
    PMTP_INLINE void add(Int u4, Int s8) { sum_ = dot(sum_, u4, s8); }
    PMTP_INLINE void add_quad(Int u4, const int8_t * s8) {
#if PMTP_SIMD == 64
        // The compiler loads the broadcast by itself.
        __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum_) : "v"(u4), "m"(*(const int32_t *) s8));
#else
        add(u4, broadcast32(load_as<int32_t>(s8)));
#endif
    }
    PMTP_INLINE Int total() const { return sum_; }

  private:
#else  // sixteen products of 15 and 127 still fit 16 bits
    PMTP_INLINE void begin(Int start) { start_ = start, sum_ = zero(); }
    PMTP_INLINE void add(Int u4, Int s8) { sum_ = add16(sum_, pairs16(u4, s8)); }
    PMTP_INLINE void add_quad(Int u4, const int8_t * s8) {
#if PMTP_SIMD == 32
        // By itself the compiler broadcasts many activations ahead, and weights lose their registers.
        Int x;
        __asm__("vpbroadcastd %3, %1\n\tvpmaddubsw %1, %2, %1\n\tvpaddw %1, %0, %0"
                : "+x"(sum_), "=&x"(x)
                : "x"(u4), "m"(*(const int32_t *) s8));
#else
        add(u4, broadcast32(load_as<int32_t>(s8)));
#endif
    }
    PMTP_INLINE Int total() const { return add32(start_, pairs32(sum_, broadcast32(0x00010001))); }
    // The two halves of a lane, which sum up to total() less start.
    PMTP_INLINE Int halves() const { return sum_; }

  private:
    Int start_;
#endif
    Int sum_;
};

#endif  // PMTP_SIMD

}  // namespace pmtp::cpu
