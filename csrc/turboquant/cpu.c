// Row functions with the CPU's vector instructions; the same bytes and floats as reference.c.
#include "turboquant/codec.h"

#if defined(__AVX2__) && defined(__FMA__)
#include "turboquant/encode_simd.h"
#define TURBO_ENCODE_ROWS turbo_encode_rows_simd
#else
#define TURBO_ENCODE_ROWS turbo_encode_rows
#endif

void turbo_encode(int bits, turbo_role role, const float * x, void * blocks, int64_t n) {
#define ENCODE(bits) TURBO_ENCODE_ROWS(bits, role, x, blocks, n)
    TURBO_WITH_BITS(bits, ENCODE)
#undef ENCODE
}

#if defined(__AVX512F__)

typedef __m512 turbo_vector;
#define TURBO_WIDTH 16
#define turbo_store _mm512_storeu_ps
#define turbo_load _mm512_loadu_ps
#define turbo_multiply_add _mm512_fmadd_ps
#define turbo_zero _mm512_setzero_ps
#define turbo_reduce _mm512_reduce_add_ps

static TURBO_INLINE turbo_vector turbo_codebook(int bits) {
    const int half = 1 << (bits - 1);
    const float * levels = turbo_levels(bits);
    float table[16] = { 0 };
    for (int i = 0; i < half; i++) {
        table[half + i] = levels[i];
        table[half - 1 - i] = -levels[i];
    }
    return _mm512_loadu_ps(table);
}

// Values 16 part .. 16 part + 15 of a block, less its scale.
static TURBO_INLINE turbo_vector turbo_part(int bits, const void * block, int part, turbo_vector codebook) {
    __m128i index;
    if (bits == 4) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *) ((const block_turbo4 *) block)->nibbles + part % 2);
        index = _mm_and_si128(part < 2 ? bytes : _mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
        return _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(index), codebook);
    }
    const uint8_t * low =
        bits == 3 ? ((const block_turbo3 *) block)->low_bits : ((const block_turbo2 *) block)->low_bits;
    index = _mm_and_si128(_mm_srl_epi16(_mm_loadu_si128((const __m128i *) low), _mm_cvtsi32_si128(2 * part)),
                          _mm_set1_epi8(3));
    __m512i wide = _mm512_cvtepu8_epi32(index);
    if (bits == 3) {
        uint16_t high;
        memcpy(&high, ((const block_turbo3 *) block)->high_bit + 2 * part, sizeof(high));
        wide = _mm512_mask_or_epi32(wide, high, wide, _mm512_set1_epi32(4));
    }
    return _mm512_permutexvar_ps(wide, codebook);
}

static TURBO_INLINE turbo_vector turbo_scale(const void * block) {
    return _mm512_set1_ps(turbo_float(*(const uint16_t *) block));
}
static TURBO_INLINE turbo_vector turbo_times(turbo_vector a, turbo_vector b) { return _mm512_mul_ps(a, b); }

#elif defined(__AVX2__) && defined(__FMA__)

typedef __m256 turbo_vector;
#define TURBO_WIDTH 8
#define turbo_store _mm256_storeu_ps
#define turbo_load _mm256_loadu_ps
#define turbo_multiply_add _mm256_fmadd_ps
#define turbo_zero _mm256_setzero_ps

static TURBO_INLINE float turbo_reduce(turbo_vector x) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// The positive levels; an index below the middle is the mirrored one, negated.
static TURBO_INLINE turbo_vector turbo_codebook(int bits) {
    float table[8] = { 0 };
    memcpy(table, turbo_levels(bits), sizeof(float) << (bits - 1));
    return _mm256_loadu_ps(table);
}

// Values 8 part .. 8 part + 7 of a block, less its scale.
static TURBO_INLINE turbo_vector turbo_part(int bits, const void * block, int part, turbo_vector codebook) {
    const int half = 1 << (bits - 1);
    __m256i index;
    if (bits == 4) {
        const __m128i bytes =
            _mm_loadl_epi64((const __m128i *) (((const block_turbo4 *) block)->nibbles + 8 * (part % 4)));
        index = _mm256_cvtepu8_epi32(_mm_and_si128(part < 4 ? bytes : _mm_srli_epi16(bytes, 4), _mm_set1_epi8(15)));
    } else {
        const uint8_t * low =
            bits == 3 ? ((const block_turbo3 *) block)->low_bits : ((const block_turbo2 *) block)->low_bits;
        const __m128i bytes = _mm_loadl_epi64((const __m128i *) (low + 8 * (part % 2)));
        index = _mm256_cvtepu8_epi32(
            _mm_and_si128(_mm_srl_epi16(bytes, _mm_cvtsi32_si128(2 * (part / 2))), _mm_set1_epi8(3)));
        if (bits == 3) {
            const __m256i high = _mm256_set1_epi32(((const block_turbo3 *) block)->high_bit[part]);
            const __m256i bit = _mm256_and_si256(_mm256_srlv_epi32(high, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
                                                 _mm256_set1_epi32(1));
            index = _mm256_or_si256(index, _mm256_slli_epi32(bit, 2));
        }
    }
    const __m256i negative = _mm256_cmpgt_epi32(_mm256_set1_epi32(half), index);
    const __m256i level = _mm256_and_si256(
        _mm256_xor_si256(index, _mm256_and_si256(negative, _mm256_set1_epi32(half - 1))), _mm256_set1_epi32(half - 1));
    const __m256 sign = _mm256_castsi256_ps(_mm256_slli_epi32(negative, 31));
    return _mm256_xor_ps(_mm256_permutevar8x32_ps(codebook, level), sign);
}

static TURBO_INLINE turbo_vector turbo_scale(const void * block) {
    return _mm256_set1_ps(turbo_float(*(const uint16_t *) block));
}
static TURBO_INLINE turbo_vector turbo_times(turbo_vector a, turbo_vector b) { return _mm256_mul_ps(a, b); }

#endif

#ifdef TURBO_WIDTH

static TURBO_INLINE void turbo_decode_rows(int bits, const void * blocks, float * x, int64_t n) {
    const turbo_vector codebook = turbo_codebook(bits);
    for (int64_t i = 0; i < n / TURBO_BLOCK; i++) {
        const char * block = (const char *) blocks + i * turbo_block_bytes(bits);
        const turbo_vector scale = turbo_scale(block);
        for (int part = 0; part < TURBO_BLOCK / TURBO_WIDTH; part++) {
            turbo_store(x + i * TURBO_BLOCK + part * TURBO_WIDTH,
                        turbo_times(scale, turbo_part(bits, block, part, codebook)));
        }
    }
}

static TURBO_INLINE float turbo_dot_rows(int bits, const void * blocks, const float * y, int64_t n) {
    const turbo_vector codebook = turbo_codebook(bits);
    turbo_vector sum = turbo_zero();
    for (int64_t i = 0; i < n / TURBO_BLOCK; i++) {
        const char * block = (const char *) blocks + i * turbo_block_bytes(bits);
        turbo_vector product = turbo_zero();
        for (int part = 0; part < TURBO_BLOCK / TURBO_WIDTH; part++) {
            product = turbo_multiply_add(turbo_part(bits, block, part, codebook),
                                         turbo_load(y + i * TURBO_BLOCK + part * TURBO_WIDTH), product);
        }
        sum = turbo_multiply_add(turbo_scale(block), product, sum);
    }
    return turbo_reduce(sum);
}

void turbo_decode(int bits, const void * blocks, float * x, int64_t n) {
#define DECODE(bits) turbo_decode_rows(bits, blocks, x, n)
    TURBO_WITH_BITS(bits, DECODE)
#undef DECODE
}

float turbo_dot(int bits, const void * blocks, const float * y, int64_t n) {
    float sum;
#define DOT(bits) sum = turbo_dot_rows(bits, blocks, y, n)
    TURBO_WITH_BITS(bits, DOT)
#undef DOT
    return sum;
}

#else

void turbo_decode(int bits, const void * blocks, float * x, int64_t n) { turbo_decode_ref(bits, blocks, x, n); }

float turbo_dot(int bits, const void * blocks, const float * y, int64_t n) {
    float sum = 0;
    for (int64_t i = 0; i < n / TURBO_BLOCK; i++) {
        float x[TURBO_BLOCK];
        turbo_decode_ref(bits, (const char *) blocks + i * turbo_block_bytes(bits), x, TURBO_BLOCK);
        for (int j = 0; j < TURBO_BLOCK; j++) {
            sum += x[j] * y[i * TURBO_BLOCK + j];
        }
    }
    return sum;
}

#endif
