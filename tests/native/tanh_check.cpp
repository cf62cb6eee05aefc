// Prints the largest error of tanh_values relative to float64 over all magnitudes, and whether the specials and every
// place in a vector are right; exits with 77 without kernels.
#include "kernels/cpu/simd.h"
#include "kernels/rows/cpu/tanh.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#ifdef PMTP_SIMD

int main() {
    std::vector<float> x;
    for (float magnitude = 1e-30f; magnitude < 1e30f; magnitude *= 1.0003f) {
        x.push_back(magnitude);
        x.push_back(-magnitude);
    }
    std::vector<float> result(x.size());
    pmtp::rows::tanh_values(x.data(), result.data(), (int64_t) x.size());
    double worst = 0;
    for (size_t i = 0; i < x.size(); i++) {
        const double exact = std::tanh((double) x[i]);
        const double error = std::fabs(result[i] - exact) / std::fabs(exact);
        worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
    float special[5] = { 0.0f, -0.0f, INFINITY, -INFINITY, NAN };
    pmtp::rows::tanh_values(special, special, 5);
    const bool specials = special[0] == 0 && !std::signbit(special[0]) && special[1] == 0 && std::signbit(special[1]) &&
                          special[2] == 1 && special[3] == -1 && std::isnan(special[4]);
    bool same = true;
    for (int n = 1; n < 19; n++) {
        std::vector<float> part(n);
        pmtp::rows::tanh_values(&x[x.size() / 2], part.data(), n);
        same = same && std::equal(part.begin(), part.end(), &result[x.size() / 2]);
    }
    std::printf("%g %d %d\n", worst, specials, same);
    return 0;
}

#else

int main() { return 77; }

#endif
