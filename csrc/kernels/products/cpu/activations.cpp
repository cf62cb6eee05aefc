#include "kernels/products/cpu/activations.h"

#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"

#include <cstring>

namespace pmtp::products {
namespace {

constexpr size_t padded(size_t n) { return (n + 63) / 64 * 64; }

}  // namespace

// A row: values, scales, then corrections (k32) or sums16 and sums32 (k256); each part a multiple of 64 bytes.
size_t Activations::bytes(Block block, int64_t n_in, int64_t n_rows) {
    const size_t n = padded((size_t) n_in);
    const size_t scales = padded(n / (size_t) block * sizeof(float) + sizeof(float));
    const size_t sums =
        block == Block::k32 ? scales : padded(n / 16 * sizeof(int16_t)) + padded(n / 32 * sizeof(int16_t));
    return (size_t) n_rows * (n + scales + sums);
}

Activations::Activations(void * buffer, Block block, int64_t n_in)
    : buffer_((char *) buffer),
      block_(block),
      n_in_(n_in) {}

Row Activations::row(int64_t row, float * result) const {
    const size_t n = padded((size_t) n_in_);
    const char * values = at(row);
    const char * scales = values + n;
    const char * sums = scales + padded(n / (size_t) block_ * sizeof(float) + sizeof(float));
    return { (const int8_t *) values,
             (const float *) scales,
             (const int32_t *) sums,
             (const int16_t *) sums,
             (const int16_t *) (sums + padded(n / 16 * sizeof(int16_t))),
             result };
}

#ifdef PMTP_SIMD

namespace {

float largest(const float * x, int n) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 max = _mm256_setzero_ps();
    for (int i = 0; i < n; i += 8) {
        max = _mm256_max_ps(max, _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)));
    }
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(max), _mm256_extractf128_ps(max, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

// Rounds 32 values to q; returns the sums of its two halves.
void round32(const float * x, __m256 inverse, int8_t * q, int (&sums)[2]) {
    const auto part = [&](int i) { return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inverse)); };
    const __m256i low = _mm256_packs_epi32(part(0), part(1));
    const __m256i high = _mm256_packs_epi32(part(2), part(3));
    // The packs work on 128-bit lanes, so the groups of four are restored to their order.
    const __m256i bytes =
        _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *) q, bytes);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    fours = _mm256_add_epi32(fours, _mm256_shuffle_epi32(fours, 0x4e));
    fours = _mm256_add_epi32(fours, _mm256_shuffle_epi32(fours, 0xb1));
    sums[0] = _mm256_extract_epi32(fours, 0);
    sums[1] = _mm256_extract_epi32(fours, 4);
}

}  // namespace

void Activations::quantize(const float * x, int64_t row, int64_t begin, int64_t end) const {
    const Row r = this->row(row, nullptr);
    int8_t * values = (int8_t *) r.values;
    float * scales = (float *) r.scales;
    const int size = (int) block_;
    for (int64_t b = begin; b < end; b++) {
        const float max = largest(x + b * size, size);
        const float scale = max / 127.0f;
        const __m256 inverse = _mm256_set1_ps(max != 0.0f ? 127.0f / max : 0.0f);
        int sums[2];
        if (block_ == Block::k32) {
            round32(x + b * size, inverse, values + b * size, sums);
            scales[b] = cpu::rounded_to_half(scale);
            ((int32_t *) r.corrections)[b] = -4 * (sums[0] + sums[1]);
            continue;
        }
        for (int64_t i = b * 8; i < (b + 1) * 8; i++) {
            round32(x + 32 * i, inverse, values + 32 * i, sums);
            ((int16_t *) r.sums16)[2 * i] = (int16_t) sums[0];
            ((int16_t *) r.sums16)[2 * i + 1] = (int16_t) sums[1];
            ((int16_t *) r.sums32)[i] = (int16_t) (sums[0] + sums[1]);
        }
        scales[b] = scale;
    }
    if (end == n_blocks() && n_in_ % 64 != 0) {
        std::memset(values + n_in_, 0, 32);
        scales[end] = 0.0f;
    }
}

#else

void Activations::quantize(const float *, int64_t, int64_t, int64_t) const {}

#endif

}  // namespace pmtp::products
