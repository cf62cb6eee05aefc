// Compares the kernels of csrc/turboquant/cuda with the reference codec, byte for byte, and with a rotation in float64.
// Built and run by test_kernels.py.
#include "device.cuh"
#include "turboquant/cuda/kernels.cuh"

#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

using namespace pmtp::turboquant;

namespace {

int failures = 0;

void expect(bool condition, const char * what, int bits, int role, int64_t n) {
    if (!condition) {
        printf("%s: %d bits, role %d, rows of %lld\n", what, bits, role, (long long) n);
        failures++;
    }
}

// Normal values of magnitudes from the smallest floats to the largest; blocks of zeros, of one value, of equal ones,
// and with an infinity.
std::vector<float> draw(int64_t n_blocks, std::mt19937 & random) {
    std::normal_distribution<float> normal;
    std::vector<float> x(n_blocks * TURBO_BLOCK);
    for (int64_t b = 0; b < n_blocks; b++) {
        float * block = x.data() + b * TURBO_BLOCK;
        const float magnitude = b % 2 ? 1.0f : std::exp((float) (b % 120 - 60) * 1.4f);
        for (int i = 0; i < TURBO_BLOCK; i++) {
            block[i] = normal(random) * magnitude;
        }
        if (b % 17 == 0) {
            std::fill(block, block + TURBO_BLOCK - 1, 0.0f);
        }
        if (b % 29 == 0) {
            std::fill(block, block + TURBO_BLOCK, 6e4f);
        }
        if (b % 31 == 0) {
            block[5] = -INFINITY;
        }
        if (b % 37 == 0) {
            std::fill(block, block + TURBO_BLOCK, 0.0f);
        }
    }
    return x;
}

int block_bytes(int bits) {
    return bits == 4 ? sizeof(block_turbo4) : bits == 3 ? sizeof(block_turbo3) : sizeof(block_turbo2);
}

// Rows of n values, 3 matrices (heads) of kRows rows. Rows of one head lie between those of the others, as in a KV
// cache.
constexpr int64_t kRows = 37, kHeads = 3;

void check_codec(int bits, turbo_role role, int64_t n, std::mt19937 & random) {
    const int64_t n_values = n * kRows * kHeads, row = n / TURBO_BLOCK * block_bytes(bits);
    const std::vector<float> x = draw(n_values / TURBO_BLOCK, random);
    std::vector<uint8_t> expected(row * kRows * kHeads);
    turbo_encode_ref(bits, role, x.data(), expected.data(), n_values);
    const Shape shape{ n, kRows, kHeads, 1 };
    const int64_t x_row = n * (int64_t) sizeof(float);
    const Strides x_strides{ x_row * kHeads, x_row, 0 }, strides{ row * kHeads, row, 0 };
    const DeviceArray<float> device_x(x);

    const DeviceArray<uint8_t> copied(expected.size());
    encode(bits, role, device_x.get(), x_strides, copied.get(), strides, {}, shape, nullptr);
    expect(copied.host() == expected, "copied rows", bits, role, n);

    std::vector<int64_t> numbers(kRows);
    for (int64_t i = 0; i < kRows; i++) {
        numbers[i] = (i * 5 + 3) % kRows;
    }
    const std::vector<int32_t> narrow(numbers.begin(), numbers.end());
    const DeviceArray<int64_t> device_numbers(numbers);
    const DeviceArray<int32_t> device_narrow(narrow);
    const RowNumbers either[] = { { (const char *) device_numbers.get(), true, { 8, 0, 0 } },
                                  { (const char *) device_narrow.get(), false, { 4, 0, 0 } } };
    for (const RowNumbers & to : either) {
        const DeviceArray<uint8_t> set(expected.size());
        encode(bits, role, device_x.get(), { x_row * kHeads, 0, 0 }, set.get(), { row * kHeads, 0, 0 }, to,
               { n * kHeads, kRows, 1, 1 }, nullptr);
        const std::vector<uint8_t> bytes = set.host();
        bool same = true;
        for (int64_t i = 0; i < kRows; i++) {
            same = same && std::memcmp(bytes.data() + numbers[i] * row * kHeads, expected.data() + i * row * kHeads,
                                       row * kHeads) == 0;
        }
        expect(same, to.wide ? "rows set by i64" : "rows set by i32", bits, role, n);
    }

    std::vector<float> values(n_values), by_head(n_values);
    turbo_decode_ref(bits, expected.data(), values.data(), n_values);
    for (int64_t i = 0; i < kRows * kHeads; i++) {  // [n, heads, rows] to [n, rows, heads]
        std::copy_n(values.begin() + i * n, n, by_head.begin() + (i % kHeads * kRows + i / kHeads) * n);
    }
    const DeviceArray<uint8_t> blocks(expected);
    const DeviceArray<float> whole(n_values);
    decode(bits, blocks.get(), {}, whole.get(), {}, { n_values, 1, 1, 1 }, nullptr);
    const DeviceArray<half> halves(n_values);
    decode(bits, blocks.get(), strides, halves.get(), { 2 * n, 2 * n * kRows, 0 }, shape, nullptr);
    const std::vector<float> floats = whole.host();
    const std::vector<half> rounded = halves.host();
    bool same = true, same_rounded = true;
    for (int64_t i = 0; i < n_values; i++) {
        const half h = __float2half_rn(by_head[i]);
        same = same && (floats[i] == values[i] || (std::isnan(floats[i]) && std::isnan(values[i])));
        same_rounded = same_rounded && std::memcmp(&h, &rounded[i], sizeof(h)) == 0;
    }
    expect(same, "decoded floats", bits, role, n);
    expect(same_rounded, "decoded halves", bits, role, n);
}

template <typename T> void check_rotation(int n, std::mt19937 & random) {
    constexpr int kRotated = 9;
    std::normal_distribution<float> normal;
    std::vector<T> x(n * kRotated);
    for (T & v : x) {
        v = (T) normal(random);
    }
    std::vector<float> signs(n);
    for (float & s : signs) {
        s = random() % 2 ? 0.125f : -0.125f;
    }
    const DeviceArray<T> device_x(x);
    const DeviceArray<float> device_signs(signs), y(x.size());
    rotate(device_x.get(), device_signs.get(), y.get(), n, kRotated, nullptr);
    const std::vector<float> rotated = y.host();
    double worst = 0;
    for (int row = 0; row < kRotated; row++) {
        for (int i = 0; i < n; i++) {
            double sum = 0;
            for (int j = 0; j < n; j++) {
                const int negative = __builtin_popcount(i & j) % 2 + (signs[i] < 0) + (signs[j] < 0);
                sum += (negative % 2 ? -1 : 1) * (double) (float) x[row * n + j];
            }
            worst = std::max(worst, std::abs(sum / std::sqrt((double) n) - rotated[row * n + i]));
        }
    }
    expect(worst < 3e-6, "rotation", 0, 0, n);
}

}  // namespace

int main() {
    std::mt19937 random(3);
    for (const int bits : { 2, 3, 4 }) {
        for (const turbo_role role : { TURBO_KEY, TURBO_VALUE }) {
            for (const int64_t n : { 64, 128, 256, 512 }) {
                check_codec(bits, role, n, random);
            }
        }
    }
    for (const int n : { 64, 128, 256, 512 }) {
        check_rotation<float>(n, random);
        check_rotation<half>(n, random);
    }
    printf(failures == 0 ? "ok\n" : "%d failures\n", failures);
    return failures != 0;
}
