// How many tokens to draft: fixed, or chosen every round to maximise the expected tokens per second.
//
// With acceptance rates a_1, a_2, ... of the draft positions (each given that the ones before it were accepted) a round of k
// drafts yields 1 + a_1 + a_1 a_2 + ... tokens and costs draft(k) + verify(k + 1) seconds.
#pragma once

#include "pyllama_mtp.h"

#include <array>

namespace pmtp {

constexpr int kAutoLimit = 8;  // "auto" drafts no more: beyond this an extra draft has never paid

// What rounds of k drafts cost, relative to each other. Kept with the model, so that a short generation need not learn it again.
class RoundCosts {
  public:
    // step: the first guess of what one more draft adds to a round, in units of a round without drafts.
    explicit RoundCosts(double step = 0.15) : step_(step) {}

    void observe(int k, double seconds);

    // Share of first drafts that were accepted lately: what the next text is believed to be like.
    double first_rate() const { return first_rate_; }
    void observe_first(bool accepted);

    RoundCosts unlearned() const { return RoundCosts(step_); }

    // Cost of a round of k drafts in units of a round without drafts; a k that was not measured lies on a line with those that were.
    double relative(int k) const { return cost(k) / cost(0); }
    bool measured(int k) const { return n_[k] >= 4; }
    bool settled(int k) const { return n_[k] >= 12; }  // well enough to tell neighbouring k apart

  private:

    double cost(int k) const;

    double step_;
    double first_rate_ = 0.7;
    int rounds_ = 0;
    double level_ = 0;                            // logarithm of the machine's present speed: all k share its drift
    std::array<double, kAutoLimit + 1> shape_{};  // logarithm of a round's cost less level_
    std::array<int, kAutoLimit + 1> n_{};         // times seen; 0 again after a long time without
    std::array<int, kAutoLimit + 1> last_{};      // round in which it was seen
};

class DraftLength {
  public:
    // fixed: 0..PMTP_MAX_DRAFT, or PMTP_DRAFT_AUTO. costs: what rounds cost. learns: whether measured times update them; if not, the choice
    // follows from the outcomes alone, so that it repeats.
    DraftLength(int fixed, RoundCosts & costs, bool learns) : fixed_(fixed), costs_(costs), learns_(learns) {}

    // The k of the next round, at most `limit`.
    int next(int limit);

    // The outcome of a round: `accepted` of the `drafted` tokens, `seconds` of drafting and verifying.
    void observe(int drafted, int accepted, double seconds);

  private:
    double tokens(int k) const;                                    // expected of a round of k drafts
    double gain(int k) const { return tokens(k) / costs_.relative(k); }  // times plain decoding
    double rate(int position) const;
    int choose() const;
    int explore() const;
    int probe_interval() const;

    int fixed_;
    RoundCosts & costs_;
    bool learns_;
    int current_ = 3;
    int rounds_ = 0;
    int dwell_ = 0;                                  // rounds since current_ last changed
    int since_probe_ = 0;                            // rounds without drafts since the head was last tried
    int backoff_ = 1;
    int burst_ = 0;                                  // successful probes in a row
    std::array<double, kAutoLimit> accepted_{};      // outcomes of each position, older ones forgotten
    std::array<double, kAutoLimit> tried_{};
};

}  // namespace pmtp
