#include "draft_length.h"

#include <algorithm>
#include <cmath>

namespace pmtp {

namespace {

constexpr double kMemory = 0.97;        // of outcomes, a round: some 30 rounds
constexpr double kProbeMemory = 0.85;   // of outcomes, a probe: a few that succeed must be enough
constexpr double kBeliefWeight = 0.05;  // of the newest outcome in what the next text is believed to be like
constexpr double kPriorWeight = 2.0;    // outcomes that a belief counts for; a later position is believed like the one before it
constexpr double kLevelWeight = 0.1;    // of the newest time in the machine's speed
constexpr double kShapeWeight = 0.01;   // at least, of the newest time in a k's relative cost
constexpr double kOutlier = 0.3;        // larger deviations (logarithm) are cut
constexpr double kHysteresis = 1.03;    // gain that another k must promise, so that noise does not make k oscillate
constexpr double kUrgent = 1.15;        // gain that is taken at once
constexpr int kDwell = 6;               // rounds that a k is kept otherwise
constexpr double kProbeShare = 0.005;   // of the time may go into trying a head that does not pay
constexpr int kMaxBackoff = 4;
constexpr int kSoon = 1 << 20;
constexpr int kProbeBurst = 8;          // probes in a row after which the matter is settled
constexpr int kFirstLook = 6;           // rounds before other costs are measured
constexpr int kForget = 1000;           // rounds after which a cost that was not met again is measured anew

}  // namespace

void RoundCosts::observe(int k, double seconds) {
    if (k > kAutoLimit || !(seconds > 0)) {
        return;
    }
    const double value = std::log(seconds);
    if (rounds_++ == 0) {
        level_ = value;
    }
    if (n_[k] <= 1) {  // the first round of a k also builds its graphs
        shape_[k] = value - level_;
    } else {
        const double error = std::clamp(value - level_ - shape_[k], -kOutlier, kOutlier);
        level_ += kLevelWeight * error;
        shape_[k] += std::max(kShapeWeight, 1.0 / n_[k]) * (1 - kLevelWeight) * error;
    }
    n_[k]++;
    last_[k] = rounds_;
    for (int i = 1; i <= kAutoLimit; i++) {
        n_[i] = rounds_ - last_[i] > kForget ? 0 : n_[i];
    }
}

void RoundCosts::observe_first(bool accepted) { first_rate_ += kBeliefWeight * (accepted - first_rate_); }

double RoundCosts::cost(int k) const {
    if (measured(k)) {
        return std::exp(shape_[k]);
    }
    int below = -1, above = -1;
    for (int i = 0; i <= kAutoLimit; i++) {
        if (measured(i)) {
            below = i < k ? i : below;
            above = i > k && above < 0 ? i : above;
        }
    }
    const auto guess = [this](int from, int to) { return std::exp(shape_[from]) * (1 + step_ * to) / (1 + step_ * from); };
    if (below < 0 && above < 0) {
        return 1 + step_ * k;
    }
    if (below < 0 || above < 0) {
        return guess(std::max(below, above), k);
    }
    const double low = std::exp(shape_[below]), high = std::exp(shape_[above]);
    return low + (high - low) * (k - below) / (above - below);
}

int DraftLength::next(int limit) {
    if (fixed_ != PMTP_DRAFT_AUTO) {
        return std::min(fixed_, limit);
    }
    if (const int k = choose(); k != current_) {
        current_ = k;
        dwell_ = 0;
        since_probe_ = rounds_ > 0 ? 0 : kSoon;  // what is only believed is tried at once
        backoff_ = 1;
    }
    if (const int k = explore(); k >= 0) {
        return std::min(k, limit);
    }
    if (current_ == 0 && since_probe_ >= probe_interval()) {  // without drafts nothing is learnt about the head
        return std::min(1, limit);
    }
    return std::min(current_, std::min(limit, kAutoLimit));
}

void DraftLength::observe(int drafted, int accepted, double seconds) {
    if (fixed_ != PMTP_DRAFT_AUTO) {
        return;
    }
    rounds_++;
    dwell_++;
    if (learns_) {
        costs_.observe(drafted, seconds);
    }
    if (drafted == 0) {
        since_probe_++;
        return;
    }
    if (current_ == 0) {  // a probe: go on at once while it succeeds, but a head may be right and still not pay
        burst_ = accepted > 0 ? burst_ + 1 : 0;
        const bool again = burst_ % kProbeBurst != 0;
        backoff_ = again ? 1 : std::min(2 * backoff_, kMaxBackoff);
        since_probe_ = again ? probe_interval() : 0;
    }
    if (learns_) {
        costs_.observe_first(accepted > 0);
    }
    const double memory = current_ == 0 ? kProbeMemory : kMemory;
    for (int i = 0; i < kAutoLimit; i++) {  // what was not tried fades too, so that it is tried again one day
        accepted_[i] *= memory;
        tried_[i] *= memory;
        if (i < drafted && i <= accepted) {
            accepted_[i] += i < accepted;
            tried_[i] += 1;
        }
    }
}

double DraftLength::rate(int position) const {
    double rate = costs_.first_rate();
    for (int i = 0; i <= position; i++) {
        rate = (accepted_[i] + kPriorWeight * rate) / (tried_[i] + kPriorWeight);
    }
    return rate;
}

double DraftLength::tokens(int k) const {
    double tokens = 1, product = 1;
    for (int i = 0; i < k; i++) {
        product *= rate(i);
        tokens += product;
    }
    return tokens;
}

// The k that promises most of those whose cost is known.
int DraftLength::choose() const {
    int best = current_;
    for (int k = 0; k <= kAutoLimit; k++) {
        if ((!learns_ || costs_.measured(k)) && gain(k) > gain(best)) {
            best = k;
        }
    }
    const double promise = gain(best) / gain(current_);
    return promise < kHysteresis || (promise < kUrgent && dwell_ < kDwell) ? current_ : best;
}

// A k whose cost has to be measured: the round without drafts, which everything is compared with, or a neighbour of the current k that
// would be the better choice if its cost were as low as it can be. -1: none.
int DraftLength::explore() const {
    if (!learns_ || rounds_ < kFirstLook) {
        return -1;
    }
    if (!costs_.measured(0)) {
        return 0;
    }
    if (current_ == 0 || !costs_.measured(current_)) {
        return -1;
    }
    const double cost = costs_.relative(current_);
    const double step = (cost - 1) / current_;
    const auto promising = [&](int k, double least_cost) {
        return costs_.measured(k) ? !costs_.settled(k) && gain(k) * kHysteresis > gain(current_)
                                  : tokens(k) / least_cost > kHysteresis * gain(current_);
    };
    if (current_ < kAutoLimit && promising(current_ + 1, cost)) {
        return current_ + 1;
    }
    return current_ > 1 && promising(current_ - 1, std::max(1.0, cost - 2 * step)) ? current_ - 1 : -1;
}

// Rounds between two tries of a head that does not pay: as many as keep their cost below its share of the time.
int DraftLength::probe_interval() const {
    const double loss = std::max(0.0, costs_.relative(1) - 1);
    return backoff_ * std::clamp((int) (loss / kProbeShare), 16, 256);
}

}  // namespace pmtp
