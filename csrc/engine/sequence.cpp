#include "engine/sequence.h"

#include <algorithm>
#include <new>
#include <utility>

namespace pmtp {

Sequence::Sequence(std::vector<int32_t> prompt, SequenceParams params, int n_vocab, bool finds_candidates)
    : prompt_(std::move(prompt)),
      end_tokens_(params.sampling.end_tokens),
      branches_(std::move(params.branches)),
      max_tokens_(params.max_tokens),
      seed_(params.seed),
      sampler_(std::move(params.sampling), n_vocab, prompt_.data(), (int) prompt_.size()),
      grammar_(params.grammar, n_vocab),
      // Where the seed must give the text again, and where live timings choose k and so must not choose the text.
      acceptance_(params.rule, sampler_.params().warp, params.seed, params.reproducible || params.drafts == kDraftAuto,
                  finds_candidates, std::move(params.synthetic)),
      on_device_(finds_candidates),
      drafts_wanted_(params.drafts),
      n_prompt_logprobs_(params.n_prompt_logprobs) {
    stats_.prompt_tokens = (int) prompt_.size();
    stats_.rule = acceptance_.rule();
    drafts_.reserve(kMaxDraft);
    publish();
}

void Sequence::begin(int slot, int n_cached, int n_reserved, DraftHistory * history) {
    slot_ = slot;
    n_cached_ = stats_.cached_prompt_tokens = n_cached;
    n_reserved_ = n_reserved;
    stats_.queue_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - made_).count();
    // With the coupled rule k does not change the text, so live timings may choose it. With the others the seed,
    // given or drawn, must give the text again.
    clock_decides_ = history != nullptr && drafts_wanted_ == kDraftAuto && acceptance_.rule() == Rule::coupled;
    if (history != nullptr) {
        table_.costs = history->costs.unlearned();
    }
    draft_length_.emplace(history == nullptr ? 0 : drafts_wanted_, clock_decides_ ? *history : table_, clock_decides_);
    rates_ = history != nullptr ? history->rates : AcceptanceRates();
}

std::vector<int32_t> Sequence::cached_tokens() const {
    std::vector<int32_t> tokens(prompt_);
    tokens.insert(tokens.end(), sampler_.generated().begin(), sampler_.generated().end());
    tokens.resize(n_cached_);
    return tokens;
}

DraftTurn Sequence::draft_turn(int k) {
    return { slot_,
             sampler_.generated().back(),
             n_cached_,
             state_.data(),
             k,
             acceptance_.draw(),
             sampler_.params().warp,
             seed_,
             acceptance_.draft_counter(),
             &prompt_,
             &sampler_.generated(),
             &drafts_ };
}

// Drafts are cut without being evaluated. One that its mask refuses stays the last: its rejection belongs to the rules'
// distributions.
void Sequence::constrain() {
    n_verified_ = (int) drafts_.size();
    was_cut_ = false;
    if (!grammar_.restricts()) {
        return;
    }
    try {
        if (needs_no_masks() && grammar_.defer(drafts_)) {
            return;
        }
        n_verified_ = grammar_.fill(drafts_);
    } catch (...) {
        drafts_.clear();
        n_verified_ = 0;
        throw;
    }
    if (n_verified_ < (int) drafts_.size()) {
        was_cut_ = true;
        drafts_.resize(n_verified_ + !allows(grammar_.mask(n_verified_), drafts_[n_verified_].token));
    }
}

// The most probable token of all is that of the allowed ones, where it is among them. A device is told which those are
// beforehand, and before min_tokens it counts how many.
bool Sequence::needs_no_masks() const {
    const SamplingParams & params = sampler_.params();
    return !on_device_ && params.warp.greedy() && (int) sampler_.generated().size() >= params.min_tokens;
}

void Sequence::clear_reports() {
    sampler_.clear_logprobs();
    prompt_logprobs_.clear();
}

void Sequence::put(Batch & batch, Turn & turn) {
    turn.first_output = batch.n_outputs();
    if (turn.n_prompt > 0) {
        for (int i = 0; i < turn.n_prompt; i++) {
            batch.add(prompt_[n_cached_ + i], n_cached_ + i, slot_,
                      /*output*/ reports_prompt() || i + 1 == prompt_left());
        }
    } else {
        batch.add(sampler_.generated().back(), n_cached_, slot_, /*output*/ true);
        for (int i = 0; i < n_verified_; i++) {
            batch.add(drafts_[i].token, n_cached_ + 1 + i, slot_, /*output*/ true);
        }
        if (turn.unseen.tokens != nullptr) {
            batch.take_tokens(turn.unseen, n_verified_);
        }
    }
    turn.n_outputs = batch.n_outputs() - turn.first_output;
}

Wanted Sequence::wanted(const Turn & turn) const {
    if (turn.n_prompt > 0 && reports_prompt()) {
        return {};
    }
    return sampler_.wanted(turn.n_outputs, acceptance_.couples() ? &seed_ : nullptr, grammar_);
}

void Sequence::accept(Target & target, const Turn & turn, bool keeps_state, Burst & burst) {
    burst.n_prompt = turn.n_prompt;
    burst.is_round = turn.n_prompt == 0;
    const bool is_prompt = turn.n_prompt > 0;
    if (is_prompt && reports_prompt()) {
        report_prompt(target, turn);
    }
    if (!is_prompt || turn.n_prompt == prompt_left()) {
        const int end = turn.first_output + turn.n_outputs, first = is_prompt ? end - 1 : turn.first_output;
        rows_.clear();
        for (int i = first; i < end; i++) {
            rows_.push_back(target.row(i));
            rows_.back().mask = grammar_.mask(i - first);
            if (grammar_.deferred()) {
                rows_.back().refusal = [this, row = i - first](int32_t token) { return grammar_.refusal(row, token); };
            }
        }
        choose(burst);
        if (keeps_state) {
            const float * state = target.state(first + burst.n_emitted - 1);
            state_.assign(state, state + llama_model_n_embd(llama_get_model(target.context())));
        }
    }
    n_cached_ += turn.n_prompt > 0 ? turn.n_prompt : 1 + burst.n_accepted;
}

// Row i judges the prompt token behind the one that it was computed from. Where the cache was lost, the prompt begins
// anew, and what was reported is not reported again.
void Sequence::report_prompt(Target & target, const Turn & turn) {
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(target.context())));
    for (int i = 0; i < turn.n_outputs; i++) {
        const int judged = n_cached_ + i + 1;
        if (judged < n_judged_ || judged >= (int) prompt_.size()) {
            continue;
        }
        const float * logits = target.row(turn.first_output + i).logits;
        const int32_t token = prompt_[judged];
        const size_t own = prompt_logprobs_.size();
        prompt_logprobs_.push_back({ token, 0 });
        const double log_sum = append_best(logits, n_vocab, n_prompt_logprobs_, largest_, prompt_logprobs_);
        prompt_logprobs_[own].logprob = (float) (logits[token] - log_sum);
        n_judged_ = judged + 1;
    }
}

// Row i of the evaluated batch gives the token after draft i. The first one that is not the next draft is the bonus
// token.
void Sequence::choose(Burst & burst) {
    burst.n_drafted = (int) drafts_.size();
    for (int i = 0; i < burst.n_drafted; i++) {
        burst.drafted[i] = drafts_[i].token;
    }
    acceptance_.begin(sampler_, drafts_, rows_);
    for (bool accepted = true; accepted && finish_ == Finish::none;) {
        const Choice choice = acceptance_.next(sampler_);
        emit(choice.token, burst);
        accepted = choice.accepted;
        burst.n_accepted += accepted;
    }
    grammar_.commit(burst.emitted.data(), burst.n_emitted);
}

void Sequence::emit(int32_t token, Burst & burst) {
    burst.emitted[burst.n_emitted++] = token;
    stats_.completion_tokens++;
    if (std::find(end_tokens_.begin(), end_tokens_.end(), token) != end_tokens_.end()) {
        finish_ = Finish::stop;
    } else if (stats_.completion_tokens == max_tokens_) {
        finish_ = Finish::length;
    }
}

void Sequence::record(const Turn & turn, const Burst & burst, const StepSeconds & seconds) {
    if (turn.n_prompt > 0) {
        stats_.prompt_seconds += seconds.all;
        return;
    }
    stats_.decode_seconds += seconds.all;
    stats_.draft_seconds += seconds.draft;
    stats_.verify_seconds += seconds.verify;
    stats_.sample_seconds += seconds.sample;
    if (!burst.is_round) {
        return;
    }
    stats_.rounds++;
    stats_.drafted += burst.n_drafted;
    stats_.accepted += burst.n_accepted;
    if (burst.n_drafted > 0) {
        stats_.drafting_rounds++;
        stats_.drafting_rounds_emitted += burst.n_emitted;
        rates_.observe(burst.n_drafted, burst.n_accepted);
    }
    for (int i = 0; i < burst.n_drafted; i++) {
        stats_.drafted_per_position[i]++;
        stats_.accepted_per_position[i] += i < burst.n_accepted;
    }
}

void Sequence::fail(Status status, const char * message) noexcept {
    finish_ = Finish::failed;
    if (failed_) {
        return;
    }
    status_ = status;
    try {
        error_ = message;
    } catch (const std::bad_alloc &) {
        error_ = "out of memory";  // short enough to lie in the string itself
    }
    failed_ = true;
}

void Sequence::truncate(int n) {
    if (n < 0 || n > stats_.completion_tokens) {
        throw Error(Status::invalid_argument, format("cannot keep %d of %d tokens", n, stats_.completion_tokens));
    }
    sampler_.truncate(n);
    n_cached_ = std::min(n_cached_, (int) prompt_.size() + n);
    stats_.completion_tokens = n;
    finish_ = Finish::stop;
    publish();
}

void Sequence::publish() {
    const std::lock_guard lock(mutex_);
    published_ = stats_;
}

Statistics Sequence::published() const {
    const std::lock_guard lock(mutex_);
    return published_;
}

}  // namespace pmtp
