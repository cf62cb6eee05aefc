// Speculative decoding: draft, verify, accept, emit. Knows tokens, never text.
//
// Leviathan, Kalman, Matias, "Fast Inference from Transformers via Speculative Decoding" (arXiv 2211.17192), with the
// rules of acceptance.h.
#pragma once

#include "pyllama_mtp.h"
#include "sampling/acceptance.h"
#include "drafters/draft_length.h"
#include "drafters/drafter.h"
#include "sampling/sampler.h"
#include "engine/session.h"

#include <vector>

namespace pmtp {

class Generation {
  public:
    // drafter may be nullptr; history: the model's, updated by rounds; end_tokens end the generation. The owner of
    // these three must outlive the generation. Throws Error(context_overflow).
    Generation(Session & session, Drafter * drafter, DraftHistory & history, const int32_t * prompt, int n_prompt,
               const pmtp_generation_params & params, std::vector<int32_t> end_tokens, int n_vocab);

    // One batch of the prefill or one round; see pmtp_burst.
    void step(pmtp_burst & burst);

    // Takes back all but the first n tokens of the completion and ends the generation.
    void truncate(int n);

    void cancel();

    const pmtp_stats & stats() const { return stats_; }

  private:
    void prefill(pmtp_burst & burst);
    void round(pmtp_burst & burst);
    bool draft(int k);
    bool verify();
    void accept(pmtp_burst & burst);
    void emit(int32_t token, pmtp_burst & burst);
    void record(const pmtp_burst & burst);

    Wanted wanted(int n_rows) const;
    int remaining() const;

    Session & session_;
    Drafter * drafter_;
    const std::vector<int32_t> prompt_;
    const std::vector<int32_t> end_tokens_;
    const int max_tokens_;
    const uint64_t seed_;
    Sampler sampler_;
    Acceptance acceptance_;
    DraftHistory table_;  // a table of costs, where live timings may not choose k
    DraftLength draft_length_;

    bool started_ = false;
    pmtp_finish finish_ = PMTP_FINISH_NONE;
    int n_base_ = 0;     // tokens in the cache when the round began
    int state_row_ = 0;  // output row of the last evaluation whose state feeds the next draft
    std::vector<Draft> drafts_;
    std::vector<int32_t> batch_;   // the last token and the drafts
    std::vector<TargetRow> rows_;  // the verified batch's output
    pmtp_stats stats_{};
};

}  // namespace pmtp
