#include "engine/speculate.h"

#include "base/calls.h"
#include "base/error.h"
#include "llama/hooks/reserve.h"

#include <algorithm>
#include <chrono>
#include <new>

namespace pmtp {

namespace {

// Adds the time until its destruction to a counter of seconds.
class Timer {
  public:
    explicit Timer(double & seconds) : seconds_(seconds), begin_(Clock::now()) {}
    ~Timer() { seconds_ += std::chrono::duration<double>(Clock::now() - begin_).count(); }

  private:
    using Clock = std::chrono::steady_clock;
    double & seconds_;
    Clock::time_point begin_;
};

SamplingParams sampling_params(const pmtp_generation_params & p, const std::vector<int32_t> & end_tokens) {
    SamplingParams s;
    s.warp = { p.temperature, p.top_p, p.min_p, p.top_k };
    s.presence_penalty = p.presence_penalty;
    s.frequency_penalty = p.frequency_penalty;
    s.repetition_penalty = p.repetition_penalty;
    s.min_tokens = p.min_tokens;
    s.n_logprobs = p.n_logprobs;
    s.logit_bias.assign(p.logit_bias, p.logit_bias + p.n_logit_bias);
    s.end_tokens = end_tokens;
    s.mask = p.mask;
    s.mask_user = p.mask_user;
    return s;
}

}  // namespace

Generation::Generation(Session & session, Drafter * drafter, DraftHistory & history, const int32_t * prompt,
                       int n_prompt, const pmtp_generation_params & params, std::vector<int32_t> end_tokens,
                       int n_vocab)
    : session_(session),
      drafter_(drafter),
      prompt_(prompt, prompt + n_prompt),
      end_tokens_(std::move(end_tokens)),
      max_tokens_(std::min(params.max_tokens, session.n_ctx() - n_prompt)),
      seed_(params.seed),
      sampler_(sampling_params(params, end_tokens_), n_vocab, prompt, n_prompt),
      // Where the seed must give the text again, and where live timings choose k and so must not choose the text.
      acceptance_((pmtp_acceptance) params.acceptance, sampler_.params().warp, params.seed,
                  params.reproducible != 0 || params.num_speculative_tokens == PMTP_DRAFT_AUTO,
                  session.finds_candidates(),
                  { params.synthetic_acceptance, params.synthetic_acceptance + params.n_synthetic_acceptance }),
      table_{ history.costs.unlearned() },
      // With the coupled rule k does not change the text, so live timings may choose it. With the others the seed,
      // given or drawn, must give the text again.
      draft_length_(drafter == nullptr ? 0 : params.num_speculative_tokens,
                    acceptance_.rule() == PMTP_ACCEPTANCE_COUPLED ? history : table_,
                    acceptance_.rule() == PMTP_ACCEPTANCE_COUPLED) {
    if (n_prompt >= session.n_ctx()) {
        throw Error(Status::context_overflow, format("the prompt has %d tokens, the context holds %d and needs room "
                                                     "for one more: shorten the prompt or load the "
                                                     "model with a larger n_ctx",
                                                     n_prompt, session.n_ctx()));
    }
    session_.abort = false;
    stats_.prompt_tokens = n_prompt;
    stats_.acceptance = acceptance_.rule();
}

void Generation::step(pmtp_burst & burst) {
    burst = {};
    if (finish_ != PMTP_FINISH_NONE) {
        throw Error(Status::invalid_argument, "the generation has ended");
    }
    sampler_.clear_logprobs();
    const uint64_t reserve_used = pmtp_reserve_used();
    try {
        if (session_.abort || ending()) {
            finish_ = PMTP_FINISH_CANCELLED;
        } else if (sampler_.generated().empty()) {
            prefill(burst);
        } else {
            round(burst);
        }
        if (pmtp_reserve_used() != reserve_used) {
            throw std::bad_alloc();
        }
    } catch (...) {
        finish_ = PMTP_FINISH_CANCELLED;
        throw;
    }
    burst.finish = finish_;
    burst.logprobs = sampler_.logprobs().empty() ? nullptr : sampler_.logprobs().data();
}

void Generation::prefill(pmtp_burst & burst) {
    const Timer timer(stats_.prompt_seconds);
    if (!started_) {
        stats_.cached_prompt_tokens = session_.reuse_prefix(prompt_.data(), (int) prompt_.size());
        started_ = true;
    }
    const int done = (int) session_.tokens().size();
    const int size = std::min((int) prompt_.size() - done, session_.n_batch());
    const bool last = done + size == (int) prompt_.size();
    if (!session_.evaluate(prompt_.data() + done, size, last ? 1 : 0, wanted(1))) {
        finish_ = PMTP_FINISH_CANCELLED;
        return;
    }
    if (last) {
        accept(burst);
    }
}

void Generation::round(pmtp_burst & burst) {
    const Timer timer(stats_.decode_seconds);
    const double before = stats_.draft_seconds + stats_.verify_seconds;
    const int k = draft_length_.next(remaining() - 1);
    if (!draft(k) || !verify()) {
        finish_ = PMTP_FINISH_CANCELLED;
        return;
    }
    burst.is_round = 1;
    for (size_t i = 0; i < drafts_.size(); i++) {
        burst.drafted[i] = drafts_[i].token;
    }
    {
        const Timer sampling(stats_.sample_seconds);
        accept(burst);
    }
    session_.truncate(n_base_ + 1 + burst.n_accepted);
    draft_length_.observe(k, burst.n_accepted, stats_.draft_seconds + stats_.verify_seconds - before);
    record(burst);
}

bool Generation::draft(int k) {
    drafts_.clear();
    n_base_ = (int) session_.tokens().size();
    if (k == 0) {
        return true;
    }
    const Timer timer(stats_.draft_seconds);
    return drafter_->draft({ sampler_.generated().back(), n_base_, session_.state(state_row_), k, acceptance_.draw(),
                             sampler_.params().warp, seed_, acceptance_.draft_counter() },
                           drafts_);
}

bool Generation::verify() {
    const Timer timer(stats_.verify_seconds);
    batch_.assign(1, sampler_.generated().back());
    for (const Draft & draft : drafts_) {
        batch_.push_back(draft.token);
    }
    return session_.evaluate(batch_.data(), (int) batch_.size(), (int) batch_.size(), wanted((int) batch_.size()));
}

// Row i of the evaluated batch gives the token after draft i. The first one that is not the next draft is the bonus
// token.
void Generation::accept(pmtp_burst & burst) {
    burst.n_drafted = (int) drafts_.size();
    rows_.clear();
    for (int row = 0; row <= burst.n_drafted; row++) {
        rows_.push_back(session_.output(row));
    }
    acceptance_.begin(sampler_, drafts_, rows_);
    for (bool accepted = true; accepted && finish_ == PMTP_FINISH_NONE;) {
        const Choice choice = acceptance_.next(sampler_);
        state_row_ = burst.n_emitted;
        emit(choice.token, burst);
        accepted = choice.accepted;
        burst.n_accepted += accepted;
    }
}

void Generation::emit(int32_t token, pmtp_burst & burst) {
    burst.emitted[burst.n_emitted++] = token;
    stats_.completion_tokens++;
    const bool ends = std::find(end_tokens_.begin(), end_tokens_.end(), token) != end_tokens_.end();
    if (ends) {
        finish_ = PMTP_FINISH_STOP;
    } else if (remaining() == 0) {
        finish_ = PMTP_FINISH_LENGTH;
    }
}

void Generation::record(const pmtp_burst & burst) {
    stats_.rounds++;
    stats_.drafted += burst.n_drafted;
    stats_.accepted += burst.n_accepted;
    if (burst.n_drafted > 0) {
        stats_.drafting_rounds++;
        stats_.drafting_rounds_emitted += burst.n_emitted;
    }
    for (int i = 0; i < burst.n_drafted; i++) {
        stats_.drafted_per_position[i]++;
        stats_.accepted_per_position[i] += i < burst.n_accepted;
    }
}

void Generation::truncate(int n) {
    if (n < 0 || n > stats_.completion_tokens) {
        throw Error(Status::invalid_argument, format("cannot keep %d of %d tokens", n, stats_.completion_tokens));
    }
    sampler_.truncate(n);
    session_.truncate((int) prompt_.size() + n);
    stats_.completion_tokens = n;
    finish_ = PMTP_FINISH_STOP;
}

void Generation::cancel() { session_.abort = true; }

Wanted Generation::wanted(int n_rows) const {
    return sampler_.wanted(n_rows, acceptance_.couples() ? &seed_ : nullptr);
}

int Generation::remaining() const { return max_tokens_ - stats_.completion_tokens; }

}  // namespace pmtp
