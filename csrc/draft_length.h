// How many tokens to draft: fixed, or chosen every round to maximise the expected tokens per second.
#pragma once

#include "pyllama_mtp.h"

#include <array>

namespace pmtp {

// With acceptance rates a_1, a_2, ... of the draft positions (each given that the ones before it were accepted) a round of k
// drafts yields 1 + a_1 + a_1 a_2 + ... tokens and costs draft(k) + verify(k + 1) seconds. Rates are running means over recent
// outcomes, costs running means of measured times; a k that was not measured yet is estimated from its nearest neighbour.
// The token sampled at a position does not depend on k (sampling.h), so live timings cannot change the text.
class DraftLength {
  public:
    // fixed: 0..PMTP_MAX_DRAFT, or PMTP_DRAFT_AUTO.
    explicit DraftLength(int fixed) : fixed_(fixed) {}

    // The k of the next round, at most `limit`.
    int next(int limit);

    // The outcome of a round: `accepted` of the `drafted` tokens, `seconds` of drafting and verifying.
    void observe(int drafted, int accepted, double seconds);

  private:
    double cost(int k) const;
    int best(int limit) const;

    int fixed_;
    int rounds_ = 0;
    int current_ = 3;
    std::array<double, PMTP_MAX_DRAFT> rate_ = filled(0.7);
    std::array<double, PMTP_MAX_DRAFT + 1> seconds_{};  // measured cost of a round of k drafts, 0: never measured

    static constexpr std::array<double, PMTP_MAX_DRAFT> filled(double value) {
        std::array<double, PMTP_MAX_DRAFT> a{};
        for (double & x : a) {
            x = value;
        }
        return a;
    }
};

}  // namespace pmtp
