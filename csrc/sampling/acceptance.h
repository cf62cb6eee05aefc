// The acceptance rules: which drafts stay, and which token follows them. Whatever the head drafts, the completion has
// exactly the target's distribution; docs/exactness.md says what each rule promises beyond that.
//
//  coupled           The token at a position is the arg-max of log p + g with Gumbel noise g keyed by (seed, position,
//  token): exact sampling that
//                    does not know whether anything was drafted. A draft is accepted if it is that token. (Daliri,
//                    Musco, Suresh, "Coupling without Communication and Drafter-Invariant Speculative Decoding", arXiv
//                    2408.07978.)
//  rejection         A draft x drawn from q is accepted with probability min(1, p(x) / q(x)); the first rejected one is
//  replaced by a draw from
//                    max(p - q, 0), normalised. (Leviathan, Kalman, Matias, arXiv 2211.17192; Chen et al., arXiv
//                    2302.01318.)
//  rejection_greedy  The same with greedy drafts: q is 1 at the draft.
//  block             Accepts the longest prefix by the drafts' joint probability. (Sun et al., "Block Verification
//  Accelerates Speculative
//                    Decoding", arXiv 2403.10444, algorithm 2.)
#pragma once

#include "sampling/draft.h"
#include "sampling/sampler.h"

#include <vector>

namespace pmtp {

// By the numbers of pmtp_acceptance.
enum class Rule { automatic, coupled, rejection, rejection_greedy, block };

struct Choice {
    int32_t token;
    bool accepted;  // it is the row's draft, and the next row counts
};

class Acceptance {
  public:
    // rule: AUTO is resolved; see above. finds_candidates: a device does for the target's rows. synthetic:
    // forced rates (see pmtp_sequence_params), or empty.
    Acceptance(Rule rule, const Warp & warp, uint64_t seed, bool reproducible, bool finds_candidates,
               std::vector<double> synthetic);

    Rule rule() const { return rule_; }  // never AUTO

    // How drafts have to be drawn for this rule, and the counter of the next round's draws.
    Draw draw() const;
    uint64_t draft_counter() const { return round_ * kDraws; }

    // Whether the target's tokens are drawn under the noise of their positions.
    bool couples() const { return rule_ == Rule::coupled || !synthetic_.empty(); }

    // Begins a round with its drafts. rows: the target's output for each draft and one more.
    void begin(Sampler & sampler, const std::vector<Draft> & drafts, const std::vector<TargetRow> & rows);

    // Chooses and commits the next row's token. Not after one that was not accepted.
    Choice next(Sampler & sampler);

  private:
    // Counters that a round may use.
    static constexpr uint64_t kDraws = kMaxDraft + 1;

    Choice choose(const Sampler & sampler, int row);
    Choice choose_coupled(const Sampler & sampler, int row);
    Choice choose_by_rejection(int row);
    Choice choose_of_block(int row);
    Choice choose_synthetic(const Sampler & sampler, int row);
    void accept_block(Sampler & sampler);
    int32_t draw_residual(int row, double share);

    bool has_draft(int row) const { return row < (int) drafts_->size(); }
    double uniform(Purpose purpose, int row) const { return pmtp::uniform(seed_, purpose, draft_counter() + row); }

    Rule rule_;
    uint64_t seed_;
    std::vector<double> synthetic_;
    uint64_t round_ = 0;
    const std::vector<Draft> * drafts_ = nullptr;
    std::vector<TargetRow> target_;
    std::vector<Sampler::Row> rows_;
    std::vector<double> joint_;  // block: the joint probability ratio after that many drafts, at most 1
    std::vector<WeightedToken> residual_;
    int row_ = 0;
    int n_accepted_ = 0;  // block and synthetic: decided at the beginning
};

}  // namespace pmtp
