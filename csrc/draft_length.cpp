#include "draft_length.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace pmtp {

namespace {

constexpr int kAutoLimit = 8;          // beyond this an extra draft has never paid
constexpr double kRateWeight = 0.06;   // of the newest outcome in a rate: a memory of some 16 rounds
constexpr double kCostWeight = 0.10;
constexpr double kStepCost = 0.2;      // first guess: what one more draft adds to a round, in units of the known round's cost
constexpr double kHysteresis = 1.02;   // gain that another k must promise, so that noise does not make k oscillate
constexpr int kReviewInterval = 8;     // rounds between two reviews of k
constexpr int kProbeInterval = 64;     // rounds between two probes while drafting does not pay

}  // namespace

int DraftLength::next(int limit) {
    if (fixed_ != PMTP_DRAFT_AUTO) {
        return std::min(fixed_, limit);
    }
    const int bound = std::min(limit, kAutoLimit);
    if (rounds_ % kReviewInterval == 0) {
        current_ = best(kAutoLimit);
    }
    // Without drafts nothing is learnt about the head: look again now and then, for less than 2 % of the time.
    const int k = current_ == 0 && rounds_ % kProbeInterval == kProbeInterval - 1 ? 1 : current_;
    return std::min(k, bound);
}

void DraftLength::observe(int drafted, int accepted, double seconds) {
    rounds_++;
    for (int i = 0; i < std::min(drafted, accepted + 1); i++) {  // the positions that were put to the test
        rate_[i] += kRateWeight * ((i < accepted ? 1.0 : 0.0) - rate_[i]);
    }
    double & known = seconds_[drafted];
    known = known == 0 ? seconds : known + kCostWeight * (std::min(seconds, 3 * known) - known);
}

double DraftLength::cost(int k) const {
    int nearest = -1;
    for (int i = 0; i <= PMTP_MAX_DRAFT; i++) {
        if (seconds_[i] > 0 && (nearest < 0 || std::abs(i - k) < std::abs(nearest - k))) {
            nearest = i;
        }
    }
    return nearest < 0 ? 1 + kStepCost * k : seconds_[nearest] * (1 + kStepCost * k) / (1 + kStepCost * nearest);
}

int DraftLength::best(int limit) const {
    const auto tokens_per_second = [&](int k) {
        double tokens = 1, product = 1;
        for (int i = 0; i < k; i++) {
            product *= rate_[i];
            tokens += product;
        }
        return tokens / cost(k);
    };
    int choice = std::min(current_, limit);
    double gain = tokens_per_second(choice) * kHysteresis;
    for (int k = 0; k <= limit; k++) {
        if (k != choice && tokens_per_second(k) > gain) {
            choice = k;
            gain = tokens_per_second(k);
        }
    }
    return choice;
}

}  // namespace pmtp
