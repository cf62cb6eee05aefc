#include "sampling/candidates.h"

#include "sampling/noise.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace pmtp {

void find_candidates(const float * logits, int n, const ChoiceParams & params, const uint32_t * mask,
                     Candidates & out) {
    constexpr float kNever = -std::numeric_limits<float>::infinity();
    std::vector<float> rank(n);
    out.max = kNever;
    for (int i = 0; i < n; i++) {
        const bool never = std::isnan(logits[i]) || (mask != nullptr && (mask[i / 32] >> (i % 32) & 1) == 0);
        rank[i] = never ? kNever : logits[i];
        if (params.noisy) {
            rank[i] = rank[i] * params.scale + (float) Noise::gumbel(token_bits(params.key, i));
        }
        out.max = std::max(out.max, rank[i]);
    }
    const auto distance = [&](int i) { return (out.max - rank[i]) * kCandidateBinsPerUnit; };
    std::vector<int> histogram(kCandidateBins);
    double total = 0;
    for (int i = 0; i < n; i++) {
        total += std::exp((double) (rank[i] - out.max) * params.scale);
        if (distance(i) < kCandidateBins) {
            histogram[(int) distance(i)]++;
        }
    }
    out.total = (float) total;
    out.n_bins = 0;
    for (int count = 0; out.n_bins < kCandidateBins && (count += histogram[out.n_bins]) <= kCandidates;) {
        out.n_bins++;
    }
    out.n = 0;
    for (int i = 0; i < n; i++) {
        if (distance(i) < out.n_bins) {
            out.token[out.n] = i;
            out.logit[out.n++] = logits[i];
        }
    }
}

}  // namespace pmtp
