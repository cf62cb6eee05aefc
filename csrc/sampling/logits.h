// Scans over a vocabulary's logits. Blocks are looked at with vector instructions first; few need a closer look.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace pmtp {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();
// No logit is lower but that of a forbidden token.
constexpr float kLowest = std::numeric_limits<float>::lowest();
constexpr int kScanBlock = 64;

struct Candidate {
    float logit;
    int32_t index;
};

// The order of candidates: by logit, equal ones by index, so that no two are equal.
inline bool more_probable(const Candidate & a, const Candidate & b) {
    return a.logit != b.logit ? a.logit > b.logit : a.index < b.index;
}

// e^x for x <= 0 to a relative error of 2e-7, in a form that compilers turn into vector instructions: 2^n times a
// polynomial of degree 6 for the fraction (Taylor coefficients of 2^f on [-1/2, 1/2]). Below -87 it is 0 to within
// 1e-38; so is a NaN.
inline float exp_nonpositive(float x) {
    const float t = std::max(-87.0f, x) * 1.44269504f;
    const float n = (t + 12582912.0f) - 12582912.0f;  // to the nearest integer
    const float f = t - n;
    float p = 1.5403530e-4f;
    p = p * f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    const int32_t exponent = ((int32_t) n + 127) << 23;
    float scale;
    std::memcpy(&scale, &exponent, sizeof(scale));
    return p * scale;
}

float largest(const float * x, int n);

// Index of the largest logit, the first of equal ones. NaNs are passed over; 0 if there is nothing else.
int32_t arg_max(const float * logits, int n);

// Sum of e^((logit - max) * scale); a forbidden token counts nothing.
double exp_sum(const float * logits, int n, float max, float scale);

// Visits (index, logit) of every logit that is not below `floor`, which the visitor may raise.
template <typename Visit> void for_each_at_least(const float * logits, int n, const float & floor, Visit visit) {
    for (int begin = 0; begin < n; begin += kScanBlock) {
        const int size = std::min(kScanBlock, n - begin);
        if (largest(logits + begin, size) < floor) {
            continue;
        }
        for (int i = begin; i < begin + size; i++) {
            if (logits[i] >= floor) {
                visit(i, logits[i]);
            }
        }
    }
}

// Replaces `out` by the k largest logits that are not below `floor`, as a heap whose root is the least of them.
void gather_largest(const float * logits, int n, int k, float floor, std::vector<Candidate> & out);

}  // namespace pmtp
