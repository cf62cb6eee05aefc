// How many tokens to draft: fixed, or chosen every round to maximise the expected tokens per second.
//
// With acceptance rates a_1, a_2, ... of the draft positions (each given that the ones before it were accepted) a round
// of k drafts yields 1 + a_1 + a_1 a_2 + ... tokens and costs draft(k) + verify(k + 1) seconds.
#pragma once

#include "drafters/acceptance_rates.h"
#include "drafters/round_costs.h"

namespace pmtp {

// The number of drafts is chosen every round.
constexpr int kDraftAuto = -1;

// What "auto" has learnt. Kept with the model, so that a short generation need not learn it again.
struct DraftHistory {
    RoundCosts costs;
    AcceptanceRates rates;
    int current = 3;  // the k in use
    int unpaid = 0;   // rounds since it became 0
};

class DraftLength {
  public:
    // fixed: 0..kMaxDraft, or kDraftAuto, which goes on with `history`. learns: whether measured times count;
    // if not, the choice follows from the history and the outcomes alone, so that it repeats.
    DraftLength(int fixed, DraftHistory & history, bool learns);

    // The k of the next round, at most `limit`.
    int next(int limit);

    // The outcome of a round: `accepted` of the `drafted` tokens, `seconds` of drafting and verifying; 0: they tell
    // nothing, as where something else was evaluated too.
    void observe(int drafted, int accepted, double seconds);

    // Whether the choice waits for the time of such a round as next() last asked for.
    bool wants_time() const { return fixed_ == kDraftAuto && !known(trial_ >= 0 ? trial_ : history_.current); }

  private:
    double tokens(int k) const;     // expected of a round of k drafts
    double advantage(int k) const;  // of k over the current one: logarithm of the ratio of their tokens per second
    double hope(int k) const;       // the same, if its cost is as low as it may well be
    bool known(int k) const;
    void decide();
    void begin_trial(int k);
    bool tries_head() const;

    int fixed_;
    DraftHistory & history_;
    bool learns_;
    int trial_ = -1;          // a k that may be better than the current one and is used to find out; -1: none
    int trial_length_ = 0;    // rounds, of the last trial
    int since_decision_ = 0;  // rounds
    int last_ = -1;           // drafts of the last round
    int undrafted_;           // rounds in a row without drafts
};

}  // namespace pmtp
