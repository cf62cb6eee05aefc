#include "kernels/products/cpu/activations.h"

#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"

#include <algorithm>
#include <cstring>

namespace pmtp::products {
namespace {

constexpr size_t kLine = 64;

constexpr size_t padded(size_t n) { return (n + kLine - 1) / kLine * kLine; }

// Of a record.
struct Size {
    int n_values;
    size_t values, scales, sums, sums32;  // bytes
};

constexpr Size size_of(Coding coding) {
    switch (coding) {
        case Coding::zero_point:
        case Coding::wide_zero_point: return { 32, 32, sizeof(float), sizeof(int32_t), 0 };
        case Coding::plain: return { cpu::kBytes, cpu::kBytes, cpu::kBytes / 32 * sizeof(float), 0, 0 };
        case Coding::super: return { 256, 256, sizeof(float), 16 * sizeof(int16_t), 8 * sizeof(int16_t) };
        default: return { 32, 32 * sizeof(float), 0, 0, 0 };
    }
}

int64_t records(Coding coding, int64_t n_in) {
    const int n = size_of(coding).n_values;
    return (n_in + n - 1) / n;
}

}  // namespace

// A line more than what is used: ggml does not align the buffer.
size_t Activations::bytes(Coding coding, int64_t n_in, int64_t n_rows) {
    const Size size = size_of(coding);
    const size_t n = (size_t) (n_rows * records(coding, n_in));
    return kLine + padded(n * size.values) + padded(n * size.scales) + padded(n * size.sums) + padded(n * size.sums32);
}

Activations::Activations(void * buffer, Coding coding, int64_t n_in, int64_t n_rows)
    : coding_(coding),
      n_in_(n_in),
      n_rows_(n_rows),
      n_records_(records(coding, n_in)),
      n_tiles_(std::max<int64_t>(1, (n_rows + kTileRows - 3) / (kTileRows - 1))) {
    const Size size = size_of(coding);
    const size_t n = (size_t) (n_rows * n_records_);
    values_ = (char *) padded((size_t) buffer);
    scales_ = values_ + padded(n * size.values);
    sums_ = scales_ + padded(n * size.scales);
    sums32_ = sums_ + padded(n * size.sums);
}

// The first n_rows % n_tiles tiles have a row more than the others.
int64_t Activations::first_row(int64_t tile) const {
    return n_rows_ / n_tiles_ * tile + std::min(tile, n_rows_ % n_tiles_);
}

int64_t Activations::tile_of(int64_t row) const {
    const int64_t width = n_rows_ / n_tiles_, n_wide = n_rows_ % n_tiles_;
    return row < n_wide * (width + 1) ? row / (width + 1) : n_wide + (row - n_wide * (width + 1)) / width;
}

Tile Activations::tile(int64_t i, float * result, int64_t stride, const int32_t * places) const {
    const Size size = size_of(coding_);
    const int64_t first = first_row(i);
    const size_t at = (size_t) (first * n_records_);
    return { (int) (first_row(i + 1) - first),
             values_ + at * size.values,
             (const float *) (scales_ + at * size.scales),
             (const int32_t *) (sums_ + at * size.sums),
             (const int16_t *) (sums_ + at * size.sums),
             (const int16_t *) (sums32_ + at * size.sums32),
             places == nullptr ? result + first * stride : result,
             stride,
             places == nullptr ? nullptr : places + first };
}

void Activations::encode(const float * x, size_t stride, int i, int n, const int32_t * rows) const {
    const int64_t n_all = n_rows_ * n_records_, end = n_all * (i + 1) / n;
    for (int64_t done = n_all * i / n; done < end;) {
        const int64_t row = done / n_records_, begin = done % n_records_;
        const int64_t of_row = std::min(n_records_ - begin, end - done);
        const int64_t from = rows == nullptr ? row : rows[row];
        encode_row((const float *) ((const char *) x + from * stride), row, begin, begin + of_row);
        done += of_row;
    }
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

struct Scale {
    float value;
    __m256 inverse;
};

Scale scale_of(const float * x, int n) {
    const float max = largest(x, n);
    return { max / 127.0f, _mm256_set1_ps(max != 0.0f ? 127.0f / max : 0.0f) };
}

// 32 values as bytes.
__m256i round32(const float * x, __m256 inverse) {
    const auto part = [&](int i) { return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inverse)); };
    const __m256i low = _mm256_packs_epi32(part(0), part(1));
    const __m256i high = _mm256_packs_epi32(part(2), part(3));
    // The packs work on 128-bit lanes, so the groups of four are restored to their order.
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// The sums of 32 bytes' two halves.
struct Sums {
    int halves[2];
};

Sums sums_of(__m256i bytes) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    fours = _mm256_add_epi32(fours, _mm256_shuffle_epi32(fours, 0x4e));
    fours = _mm256_add_epi32(fours, _mm256_shuffle_epi32(fours, 0xb1));
    return { { _mm256_extract_epi32(fours, 0), _mm256_extract_epi32(fours, 4) } };
}

void encode_plain(const float * x, int n, char * values, float * scales) {
#ifdef PMTP_SIMD_VNNI
    const __m256i offset = _mm256_set1_epi8((char) 0x80);
#else
    const __m256i offset = _mm256_setzero_si256();
#endif
    for (int i = 0; i < cpu::kBytes; i += 32) {
        __m256i bytes = _mm256_setzero_si256();
        float scale = 0.0f;
        if (i < n) {
            const Scale s = scale_of(x + i, 32);
            bytes = round32(x + i, s.inverse);
            scale = cpu::rounded_to_half(s.value);
        }
        _mm256_storeu_si256((__m256i *) (values + i), _mm256_xor_si256(bytes, offset));
        scales[i / 32] = scale;
    }
}

void encode_super(const float * x, char * values, float * scale, int16_t * sums16, int16_t * sums32) {
    const Scale s = scale_of(x, 256);
    for (int i = 0; i < 8; i++) {
        const __m256i bytes = round32(x + 32 * i, s.inverse);
        const Sums sums = sums_of(bytes);
        _mm256_storeu_si256((__m256i *) (values + 32 * i), bytes);
        sums16[2 * i] = (int16_t) sums.halves[0];
        sums16[2 * i + 1] = (int16_t) sums.halves[1];
        sums32[i] = (int16_t) (sums.halves[0] + sums.halves[1]);
    }
    *scale = s.value;
}

void encode_zero_point(const float * x, int zero_point, char * values, float * scale, int32_t * correction) {
    const Scale s = scale_of(x, 32);
    const __m256i bytes = round32(x, s.inverse);
    const Sums sums = sums_of(bytes);
    _mm256_storeu_si256((__m256i *) values, bytes);
    *scale = cpu::rounded_to_half(s.value);
    *correction = -zero_point * (sums.halves[0] + sums.halves[1]);
}

}  // namespace

// Records begin..end of a row that starts at x.
void Activations::encode_row(const float * x, int64_t row, int64_t begin, int64_t end) const {
    const Size size = size_of(coding_);
    const int64_t tile = tile_of(row);
    const int64_t first = first_row(tile), width = first_row(tile + 1) - first;
    for (int64_t r = begin; r < end; r++) {
        const size_t at = (size_t) (first * n_records_ + r * width + row - first);
        const float * from = x + r * size.n_values;
        char * values = values_ + at * size.values;
        float * scales = (float *) (scales_ + at * size.scales);
        char * sums = sums_ + at * size.sums;
        switch (coding_) {
            case Coding::zero_point: encode_zero_point(from, 8, values, scales, (int32_t *) sums); break;
            case Coding::wide_zero_point: encode_zero_point(from, 128, values, scales, (int32_t *) sums); break;
            case Coding::plain: encode_plain(from, (int) (n_in_ - r * size.n_values), values, scales); break;
            case Coding::super:
                encode_super(from, values, scales, (int16_t *) sums, (int16_t *) (sums32_ + at * size.sums32));
                break;
            case Coding::floats: std::memcpy(values, from, size.values); break;
        }
    }
}

#else

void Activations::encode_row(const float *, int64_t, int64_t, int64_t) const {}

#endif

}  // namespace pmtp::products
