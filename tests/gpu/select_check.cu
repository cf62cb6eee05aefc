// Compares the kernels of csrc/kernels/choice/cuda/select.cu with plain loops, on values with ties, infinities and
// NaNs. Built and run by test_select.py.
#include "device.cuh"
#include "kernels/choice/cuda/select.cuh"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace {

int failures = 0;

uint32_t order_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// values: 0 normal, 1 few distinct ones, 2 with infinities and NaNs, 3 all -inf or NaN
std::vector<float> draw(size_t n, int values, std::mt19937 & random) {
    std::normal_distribution<float> normal(0, 5);
    std::vector<float> x(n);
    for (float & v : x) {
        v = normal(random);
        if (values == 1) {
            v = std::round(v);
        }
        if (values == 2 && random() % 64 == 0) {
            const float odd[] = { INFINITY, -INFINITY, NAN, -NAN, 0.0f, -0.0f };
            v = odd[random() % 6];
        }
        if (values == 3) {
            v = random() % 2 ? -INFINITY : NAN;
        }
    }
    return x;
}

std::vector<int32_t> run(const std::vector<float> & x, size_t n_out,
                         bool (*launch)(const float *, int32_t *, size_t, size_t)) {
    const DeviceArray<float> device_x(x);
    const DeviceArray<int32_t> out(n_out);
    if (!launch(device_x.get(), out.get(), x.size(), n_out)) {
        printf("refused: %zu values, %zu results\n", x.size(), n_out);
        failures++;
    }
    return out.host();
}

constexpr int kNone = -7;

void check_arg_max(size_t n, size_t n_rows, int values, std::mt19937 & random) {
    const std::vector<float> x = draw(n * n_rows, values, random);
    const auto out = run(x, n_rows, [](const float * v, int32_t * i, size_t size, size_t rows) {
        return pmtp_cuda_arg_max(v, i, (int64_t) (size / rows), (int64_t) rows, kNone, nullptr);
    });
    for (size_t row = 0; row < n_rows; row++) {
        int32_t expected = kNone;
        float best = -INFINITY;
        for (size_t i = 0; i < n; i++) {
            const float v = x[row * n + i];
            if (v > best) {
                best = v;
                expected = (int32_t) i;
            }
        }
        // 0 and -0 are equal; the kernel's total order puts 0 first
        if (out[row] != expected &&
            !(out[row] >= 0 && expected >= 0 && x[row * n + out[row]] == x[row * n + expected])) {
            printf("arg_max of %zu, kind %d: %d, expected %d\n", n, values, out[row], expected);
            failures++;
        }
    }
}

void check_top_k(size_t n, size_t k, int values, std::mt19937 & random) {
    const std::vector<float> x = draw(n, values, random);
    const auto out = run(x, k, [](const float * v, int32_t * i, size_t size, size_t count) {
        return pmtp_cuda_top_k(v, i, (int64_t) size, 1, (int64_t) count, nullptr);
    });
    std::vector<int32_t> expected(n);
    for (size_t i = 0; i < n; i++) {
        expected[i] = (int32_t) i;
    }
    std::stable_sort(expected.begin(), expected.end(),
                     [&](int32_t a, int32_t b) { return order_of(x[a]) > order_of(x[b]); });
    if (!std::equal(out.begin(), out.end(), expected.begin())) {
        printf("top_k of %zu, k %zu, kind %d differs\n", n, k, values);
        failures++;
    }
}

}  // namespace

int main() {
    std::mt19937 random(7);
    for (int values = 0; values < 4; values++) {
        for (size_t n : { 3, 2048, 4098, 4096, 65536, 262144 }) {
            check_arg_max(n, 1, values, random);
            check_arg_max(n, 5, values, random);
        }
        for (size_t n : { 1, 31, 64, 2048, 4095, 4096 }) {
            check_top_k(n, 1, values, random);
            check_top_k(n, std::min<size_t>(n, 32), values, random);
            check_top_k(n, n, values, random);
        }
    }
    int32_t * none = nullptr;
    failures += pmtp_cuda_arg_max(nullptr, none, 0, 1, 0, nullptr);
    failures += pmtp_cuda_top_k(nullptr, none, 4097, 1, 1, nullptr);
    failures += pmtp_cuda_top_k(nullptr, none, 64, 2, 1, nullptr);
    printf(failures == 0 ? "ok\n" : "%d failures\n", failures);
    return failures != 0;
}
