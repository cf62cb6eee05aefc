#include "drafters/draft_length.h"

#include <algorithm>
#include <cmath>

namespace pmtp {

namespace {

// Advantage that another k must have, so that noise does not make k oscillate.
constexpr double kMargin = 0.015;
// Standard deviations by which the cost of plain decoding, whose speed is promised, may be lower than believed.
constexpr double kPlain = 2.0;
// The same for the cost of another k.
constexpr double kOther = 1.0;
// Advantage that is not kept waiting.
constexpr double kUrgent = 0.1;
// Times that a cost must have been measured to be known.
constexpr int kKnown = 3;
// Rounds of the shortest trial, whose first round is not measured.
constexpr int kShortest = kKnown + 1;
// Rounds of the longest trial.
constexpr int kLongest = 100;
// Share of the time that may go into trying a head that does not pay.
constexpr double kProbeShare = 0.01;
// Rounds without drafts before the first try.
constexpr int kSoonest = 16;
// Rounds without drafts before a try that is cheap.
constexpr int kLatest = 100;
// Part of the time without drafts after which the head is tried between these two.
constexpr int kPatience = 4;
// Promise of better rates, a logarithm, that calls for another try at once.
constexpr double kPromise = 0.5;
// Rounds without drafts that a new text counts as, so that the head is tried at its beginning.
constexpr int kAtOnce = 1 << 20;

}  // namespace

DraftLength::DraftLength(int fixed, DraftHistory & history, bool learns)
    : fixed_(fixed),
      history_(history),
      learns_(learns),
      undrafted_(kAtOnce) {  // a new text may be another kind of text
    if (fixed_ == kDraftAuto) {
        history_.rates = history_.rates.faded();
    }
}

int DraftLength::next(int limit) {
    if (fixed_ != kDraftAuto) {
        return std::min(fixed_, limit);
    }
    decide();
    return std::min(trial_ >= 0 ? trial_ : tries_head() ? 1 : history_.current, limit);
}

void DraftLength::observe(int drafted, int accepted, double seconds) {
    if (fixed_ != kDraftAuto) {
        return;
    }
    if (learns_ && drafted == last_ && seconds > 0) {
        history_.costs.observe(drafted, seconds);
    }
    if (drafted > 0) {
        history_.rates.observe(drafted, accepted);
    }
    last_ = drafted;
    undrafted_ = drafted == 0 ? undrafted_ + 1 : 0;
    history_.unpaid = history_.current == 0 ? history_.unpaid + 1 : 0;
    since_decision_++;
}

double DraftLength::tokens(int k) const {
    double tokens = 1, product = 1;
    for (int i = 0; i < k; i++) {
        product *= history_.rates.at(i);
        tokens += product;
    }
    return tokens;
}

double DraftLength::advantage(int k) const {
    const int current = history_.current;
    return std::log(tokens(k) / tokens(current) * history_.costs.relative(current) / history_.costs.relative(k));
}

double DraftLength::hope(int k) const {
    const int current = history_.current;
    if (!learns_) {
        return advantage(k);
    }
    const double more_tokens = std::log(tokens(k) / tokens(current));
    const double hope = advantage(k) + (k == 0 ? kPlain : kOther) * history_.costs.doubt(k, current);
    return k > current ? std::min(hope, more_tokens) : hope;  // more drafts do not cost less
}

bool DraftLength::known(int k) const { return !learns_ || history_.costs.count(k) >= kKnown; }

// Ends a trial for better or worse, then begins one with the k that may be best.
void DraftLength::decide() {
    if (trial_ >= 0) {
        const bool over = since_decision_ >= trial_length_ || (since_decision_ >= kShortest && hope(trial_) < kMargin);
        if (!over || !known(trial_)) {
            return;
        }
        history_.current = advantage(trial_) > kMargin ? trial_ : history_.current;
        trial_ = -1;
        since_decision_ = 0;
    }
    if (!known(history_.current)) {
        return;
    }
    if (!known(0)) {  // what all else is compared with
        return begin_trial(0);
    }
    int best = history_.current;
    for (int k = 0; k <= kAutoLimit; k++) {
        best = hope(k) > hope(best) ? k : best;
    }
    // The better both are known, the longer a trial takes, and the pause before it.
    if (since_decision_ >= trial_length_ ? hope(best) > kMargin : advantage(best) > kUrgent) {
        begin_trial(best);
    }
}

void DraftLength::begin_trial(int k) {
    trial_ = k;
    trial_length_ = std::clamp(history_.costs.count(k), kShortest, kLongest);
    since_decision_ = 0;
}

// Whether to draft a token although drafting does not pay: without drafts nothing is learnt about the head. The longer
// it has not paid, the longer it is left alone; where even a head that is always right would not pay, always.
bool DraftLength::tries_head() const {
    if (history_.current != 0) {
        return false;
    }
    bool can_pay = false;
    for (int k = 1; k <= kAutoLimit; k++) {
        can_pay |= k + 1 > history_.costs.relative(k);
    }
    if (!can_pay) {
        return false;
    }
    const int least = std::max(kSoonest, (int) ((history_.costs.relative(1) - 1) / kProbeShare));
    const int pause = std::clamp(history_.unpaid / kPatience, least, std::max(least, kLatest));
    return undrafted_ >= pause || history_.rates.promise() > kPromise;
}

}  // namespace pmtp
