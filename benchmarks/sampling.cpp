// What choosing a token costs on one core, in milliseconds, with 262144 logits of three kinds.
//
//   g++ -std=c++17 -O3 -march=native -I csrc benchmarks/sampling.cpp csrc/sampling/distribution.cpp
//   csrc/sampling/logits.cpp -o /tmp/sampling && /tmp/sampling

#include "sampling/distribution.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>

using namespace pmtp;

int main() {
    constexpr int n = 262144;
    constexpr int repeats = 41;
    struct Kind {
        const char * name;
        double spread;  // standard deviation of the bulk
        double peak;    // height of some 20 likely tokens above it
    };
    const Kind kinds[] = { { "peaked", 2.5, 14 }, { "gaussian", 3, 0 }, { "flat", 1, 0 } };
    struct Case {
        const char * name;
        Warp warp;
    };
    const Case cases[] = { { "greedy", { 0 } },
                           { "temperature 1", { 1.0 } },
                           { "temperature .6, top_p .95", { 0.6, 0.95 } },
                           { "temperature 1, top_p .95", { 1.0, 0.95 } },
                           { "temperature 3, top_p .95", { 3.0, 0.95 } },
                           { "temperature 1, top_k 64", { 1.0, 1.0, 0.0, 64 } },
                           { "temperature 1, min_p .05", { 1.0, 1.0, 0.05 } } };
    std::printf("%-10s %-28s %12s %12s\n", "logits", "options", "coupled", "by p/q");
    for (const Kind & kind : kinds) {
        std::vector<float> logits(n);
        std::mt19937 random(1);
        std::normal_distribution<double> normal;
        for (int i = 0; i < n; i++) {
            logits[i] = (float) (kind.spread * normal(random) + (i % 13000 == 77 ? kind.peak + 3 * normal(random) : 0));
        }
        for (const Case & c : cases) {
            double milliseconds[2];
            for (int by_ratio = 0; by_ratio < 2; by_ratio++) {
                Distribution p;
                std::vector<double> times;
                int64_t sum = 0;
                for (int i = 0; i < repeats; i++) {
                    const auto begin = std::chrono::steady_clock::now();
                    p.assign(logits.data(), nullptr, n, c.warp);
                    sum += by_ratio ? p.draw(uniform(i, Purpose::residual, 0)) : p.draw(Noise(i, Purpose::token, 5));
                    times.push_back(
                        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
                }
                std::sort(times.begin(), times.end());
                milliseconds[by_ratio] = sum >= 0 ? times[repeats / 2] : 0;
            }
            std::printf("%-10s %-28s %12.3f %12.3f\n", kind.name, c.name, milliseconds[0], milliseconds[1]);
        }
    }
}
