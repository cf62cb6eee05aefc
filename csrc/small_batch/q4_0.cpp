#include "q4_0.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && defined(__AVX512VNNI__)
#define PMTP_AVX512_VNNI
#include <immintrin.h>
#endif

namespace pmtp::small_batch {

Activations::Activations(void * buffer, int n_rows, int64_t n_in) : n_in_(n_in) {
    values_ = (int8_t *) buffer;
    scales_ = (float *) (values_ + n_rows * n_in);
    corrections_ = (int32_t *) (scales_ + n_rows * (n_in / kBlock));
}

#ifdef PMTP_AVX512_VNNI

bool q4_0_available() { return true; }

void Activations::quantize(const float * x, int row, int64_t begin, int64_t end) const {
    for (int64_t b = begin; b < end; b++) {
        const __m512 x0 = _mm512_loadu_ps(x + b * kBlock);
        const __m512 x1 = _mm512_loadu_ps(x + b * kBlock + 16);
        const float max = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(x0), _mm512_abs_ps(x1)));
        const float scale = max / 127.0f;
        const __m512 inverse = _mm512_set1_ps(max != 0.0f ? 127.0f / max : 0.0f);
        const __m512i q0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, inverse));
        const __m512i q1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, inverse));
        int8_t * values = values_ + row * n_in_ + b * kBlock;
        _mm_storeu_si128((__m128i *) values, _mm512_cvtsepi32_epi8(q0));
        _mm_storeu_si128((__m128i *) (values + 16), _mm512_cvtsepi32_epi8(q1));
        scales_[row * (n_in_ / kBlock) + b] = _cvtsh_ss(_cvtss_sh(scale, _MM_FROUND_TO_NEAREST_INT));
        corrections_[row * (n_in_ / kBlock) + b] = -4 * _mm512_reduce_add_epi32(_mm512_add_epi32(q0, q1));
    }
}

namespace {

// As ggml repacks it: 8 scales, then for each half of the 16 packed bytes of a block those 8 bytes of all 8 rows. The low nibbles are
// values 0..15 of a row, the high ones 16..31, in two's complement: value = (nibble ^ 8) - 8.
struct Block {
    uint16_t scales[kColumns];
    uint8_t packed[2][64];
};
static_assert(sizeof(Block) == 144);

// How far ahead of the weights in use the next ones are fetched: a dozen blocks. The hardware's own prefetching loses half of the
// bandwidth here, because it stops at the end of each page.
constexpr int kFetchAhead = 12 * sizeof(Block);

// G groups times N rows. 64-bit lane r of a decoded vector holds 8 successive values of weight row r; VNNI adds them four by four, so
// a row's sum lies in two neighbouring 32-bit lanes until the end. The correction for the nibbles' offset of 8 is split between them.
template <int G, int N>
void mul(const Block * weights, int64_t stride_blocks, const Activations & x, int first_row, int64_t n_blocks, float * result, size_t stride) {
    const __m512i nibble = _mm512_set1_epi8(0x0f);
    const __m512i offset = _mm512_set1_epi8(0x08);
    const __m512i pairs = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    constexpr int kAndXor = 0x6a;  // (a & b) ^ c

    const int8_t * values[N];
    const float * scales[N];
    const int32_t * corrections[N];
    for (int n = 0; n < N; n++) {
        values[n] = x.values(first_row + n);
        scales[n] = x.scales(first_row + n);
        corrections[n] = x.corrections(first_row + n);
    }
    __m512 sums[G][N];
    for (int g = 0; g < G; g++) {
        for (int n = 0; n < N; n++) {
            sums[g][n] = _mm512_setzero_ps();
        }
    }
    for (int64_t b = 0; b < n_blocks; b++) {
        __m512i w[G][4];
        __m512 scale[G];
        for (int g = 0; g < G; g++) {
            const Block & block = weights[g * stride_blocks + b];
            for (size_t line = 0; line < sizeof(Block); line += 64) {
                _mm_prefetch((const char *) &block + kFetchAhead + line, _MM_HINT_T0);
            }
            const __m512i p0 = _mm512_loadu_si512(block.packed[0]);
            const __m512i p1 = _mm512_loadu_si512(block.packed[1]);
            w[g][0] = _mm512_ternarylogic_epi32(p0, nibble, offset, kAndXor);
            w[g][1] = _mm512_ternarylogic_epi32(p1, nibble, offset, kAndXor);
            w[g][2] = _mm512_ternarylogic_epi32(_mm512_srli_epi16(p0, 4), nibble, offset, kAndXor);
            w[g][3] = _mm512_ternarylogic_epi32(_mm512_srli_epi16(p1, 4), nibble, offset, kAndXor);
            const __m256 s = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) block.scales));
            scale[g] = _mm512_permutexvar_ps(pairs, _mm512_castps256_ps512(s));
        }
        for (int n = 0; n < N; n++) {
            const long long * v = (const long long *) (values[n] + b * kBlock);
            const __m512i v0 = _mm512_set1_epi64(v[0]);
            const __m512i v1 = _mm512_set1_epi64(v[1]);
            const __m512i v2 = _mm512_set1_epi64(v[2]);
            const __m512i v3 = _mm512_set1_epi64(v[3]);
            const __m512i correction = _mm512_set1_epi32(corrections[n][b]);
            const __m512 d = _mm512_set1_ps(scales[n][b]);
            for (int g = 0; g < G; g++) {
                __m512i sum = _mm512_dpbusd_epi32(correction, w[g][0], v0);
                sum = _mm512_dpbusd_epi32(sum, w[g][1], v1);
                sum = _mm512_dpbusd_epi32(sum, w[g][2], v2);
                sum = _mm512_dpbusd_epi32(sum, w[g][3], v3);
                sums[g][n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(scale[g], d), sums[g][n]);
            }
        }
    }
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    for (int g = 0; g < G; g++) {
        for (int n = 0; n < N; n++) {
            const __m512 pair = _mm512_add_ps(sums[g][n], _mm512_shuffle_ps(sums[g][n], sums[g][n], 0xb1));
            _mm256_storeu_ps(result + (first_row + n) * stride + g * kColumns, _mm512_castps512_ps256(_mm512_permutexvar_ps(even, pair)));
        }
    }
}

// Several rows share the loads of the activations between two groups; one row is bound by memory and reads one stream.
template <int N> void mul_groups(const Block * weights, const Activations & x, int first_row, int64_t n_blocks, int64_t first, int64_t last,
                                 float * result, size_t stride) {
    constexpr int G = N == 1 ? 1 : 2;
    int64_t g = first;
    for (; g + G <= last; g += G) {
        mul<G, N>(weights + g * n_blocks, n_blocks, x, first_row, n_blocks, result + g * kColumns, stride);
    }
    for (; g < last; g++) {
        mul<1, N>(weights + g * n_blocks, n_blocks, x, first_row, n_blocks, result + g * kColumns, stride);
    }
}

}  // namespace

void q4_0_mul(const void * weights, const Activations & x, int n_rows, int64_t n_blocks, int64_t first, int64_t last, float * result,
              size_t stride) {
    const Block * blocks = (const Block *) weights;
    using Mul = void (*)(const Block *, const Activations &, int, int64_t, int64_t, int64_t, float *, size_t);
    static constexpr Mul by_rows[] = { mul_groups<1>, mul_groups<2>, mul_groups<3>, mul_groups<4>, mul_groups<5>,
                                       mul_groups<6>, mul_groups<7>, mul_groups<8>, mul_groups<9> };
    by_rows[n_rows - 1](blocks, x, 0, n_blocks, first, last, result, stride);
}

#else

bool q4_0_available() { return false; }

void Activations::quantize(const float *, int, int64_t, int64_t) const {}

void q4_0_mul(const void *, const Activations &, int, int64_t, int64_t, int64_t, float *, size_t) {}

#endif

}  // namespace pmtp::small_batch
