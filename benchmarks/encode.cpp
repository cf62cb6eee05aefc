// Time to encode one value of a TurboQuant cache, keys and values, beside the plain C reference; the four take turns.
// See README.md.
#include "turboquant/turboquant.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <vector>

namespace {

constexpr int kRow = 512, kRows = 512, kRuns = 31;

using Encode = void (*)(int bits, turbo_role role, const float * x, void * blocks, int64_t n);

double nanoseconds_per_value(Encode encode, int bits, turbo_role role, const std::vector<float> & x,
                             std::vector<char> & blocks) {
    const auto start = std::chrono::steady_clock::now();
    for (int row = 0; row < kRows; row++) {
        encode(bits, role, x.data() + row * kRow, blocks.data(), kRow);
    }
    return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count() / x.size();
}

double median(std::vector<double> times) {
    std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
    return times[times.size() / 2];
}

}  // namespace

int main() {
    std::mt19937 random(0);
    std::normal_distribution<float> normal;
    std::vector<float> x(kRow * kRows);
    std::generate(x.begin(), x.end(), [&] { return normal(random); });
    std::vector<char> blocks(kRow * sizeof(float));
    for (int bits : { 4, 3, 2 }) {
        std::vector<double> times[4];
        for (int run = 0; run < kRuns; run++) {
            for (int i = 0; i < 4; i++) {
                times[i].push_back(nanoseconds_per_value(i < 2 ? turbo_encode : turbo_encode_ref, bits,
                                                         i % 2 ? TURBO_VALUE : TURBO_KEY, x, blocks));
            }
        }
        std::printf("turbo%d: key %.2f, value %.2f; reference: key %.2f, value %.2f ns\n", bits, median(times[0]),
                    median(times[1]), median(times[2]), median(times[3]));
    }
}
