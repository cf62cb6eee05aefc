// One completion: its prompt, what was generated, and what of it waits to be evaluated. Knows tokens, never text.
//
// Leviathan, Kalman, Matias, "Fast Inference from Transformers via Speculative Decoding" (arXiv 2211.17192), with the
// rules of sampling/acceptance.h.
#pragma once

#include "base/error.h"
#include "drafters/draft_length.h"
#include "drafters/drafter.h"
#include "engine/batch.h"
#include "engine/target.h"
#include "sampling/acceptance.h"
#include "sampling/sampler.h"

#include <array>
#include <atomic>
#include <chrono>
#include <climits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace pmtp {

// By the numbers of pmtp_finish.
enum class Finish { none, stop, length, cancelled, failed };

struct SequenceParams {
    SamplingParams sampling;
    GrammarCallbacks grammar;
    int max_tokens = 1;
    uint64_t seed = 0;
    bool reproducible = true;
    Rule rule = Rule::automatic;
    int drafts = kDraftAuto;
    std::vector<double> synthetic;  // see Acceptance
    int n_prompt_logprobs = -1;     // with each prompt token; -1: none
    std::vector<int> branches;      // lengths of the prompt's beginnings after which others may go on differently
};

// As pmtp_stats.
struct Statistics {
    int prompt_tokens = 0, cached_prompt_tokens = 0, completion_tokens = 0;
    Rule rule = Rule::automatic;
    int rounds = 0, drafted = 0, accepted = 0, drafting_rounds = 0, drafting_rounds_emitted = 0;
    std::array<int, kMaxDraft> drafted_per_position{}, accepted_per_position{};
    double queue_seconds = 0, prompt_seconds = 0, decode_seconds = 0;
    double draft_seconds = 0, verify_seconds = 0, sample_seconds = 0;
};

class Sequence;
using SharedSequence = std::shared_ptr<Sequence>;

// As pmtp_burst.
struct Burst {
    SharedSequence sequence;
    int n_prompt = 0;
    bool is_round = false;
    int n_drafted = 0, n_accepted = 0, n_emitted = 0;
    Finish finish = Finish::none;
    std::array<int32_t, kMaxDraft> drafted{};
    std::array<int32_t, kMaxDraft + 1> emitted{};
};

// What a sequence does in a step: evaluates n_prompt tokens of its prompt, or drafts k tokens and verifies them.
struct Turn {
    Sequence * sequence;
    int n_prompt = 0;
    int k = 0;
    int first_output = 0, n_outputs = 0;  // in the batch
    DraftPlace unseen = {};               // its drafts, where the host has not seen them
};

// Wall time of a step's parts, as far as the host spends it. round: of drafts and their verification, whoever computes
// them; 0: not known.
struct StepSeconds {
    double draft = 0, verify = 0, sample = 0, all = 0, round = 0;
};

class Sequence : public std::enable_shared_from_this<Sequence> {
  public:
    Sequence(std::vector<int32_t> prompt, SequenceParams params, int n_vocab, bool finds_candidates);
    Sequence(const Sequence &) = delete;
    Sequence & operator=(const Sequence &) = delete;

    // From any thread. cancel(): it ends with the next step. leave(): likewise, and nobody wants to hear of it.
    void cancel() { cancelled_ = true; }
    void leave() { left_ = cancelled_ = true; }
    bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
    bool left() const { return left_; }

    // Begins in a slot that holds the first n_cached tokens. n_reserved: pages that it may come to need. history: the
    // drafter's, which must outlive the sequence, or nullptr if there is none.
    void begin(int slot, int n_cached, int n_reserved, DraftHistory * history);

    int slot() const { return slot_; }  // -1: none
    int n_cached() const { return n_cached_; }
    int n_reserved() const { return n_reserved_; }
    int n_most() const { return (int) prompt_.size() + max_tokens_; }  // tokens
    const std::vector<int32_t> & prompt() const { return prompt_; }
    std::vector<int32_t> cached_tokens() const;
    const std::vector<int> & branches() const { return branches_; }
    // Rows of logits are then wanted for the whole prompt, so what the cache holds of it is of no use.
    bool reports_prompt() const { return n_prompt_logprobs_ >= 0; }
    // Positions of the prompt where a step ends, so that what the cache holds then can be saved.
    void set_stops(std::vector<int> stops) { stops_ = std::move(stops); }
    int next_stop() const { return stops_.empty() ? INT_MAX : stops_.front(); }
    void pass_stop() { stops_.erase(stops_.begin()); }

    bool in_prompt() const { return sampler_.generated().empty(); }
    int prompt_left() const { return (int) prompt_.size() - n_cached_; }
    int most_drafts() const { return max_tokens_ - stats_.completion_tokens - 1; }  // that can be of use
    DraftLength & draft_length() { return *draft_length_; }
    const AcceptanceRates & rates() const { return rates_; }
    bool is_restricted() const { return grammar_.restricts(); }  // what it may draft
    bool lets_clock_decide() const { return clock_decides_; }    // how many tokens to draft
    bool was_cut() const { return was_cut_; }  // its last drafts, whose time tells nothing of their number then

    // What the last turn reported is of no use any more.
    void clear_reports();

    // A turn, in this order. Drafting needs the state of the last accepted row.
    DraftTurn draft_turn(int k);
    void constrain();  // the grammar cuts drafts that it refuses, and fills masks if they are needed; throws Error
    void put(Batch & batch, Turn & turn);
    Wanted wanted(const Turn & turn) const;
    void accept(Target & target, const Turn & turn, bool keeps_state, Burst & burst);
    void record(const Turn & turn, const Burst & burst, const StepSeconds & seconds);

    // Ends it; the slot stays its own until release().
    void end(Finish finish) { finish_ = finish; }
    void fail(Status status, const char * message) noexcept;
    void release() { slot_ = -1; }
    void forget_cached() { n_cached_ = 0; }
    Finish finish() const { return finish_; }
    Status status() const { return status_; }
    const char * error() const { return failed_ ? error_.c_str() : ""; }  // from any thread

    // Takes back all but the first n tokens of the completion and ends it. Throws Error(invalid_argument).
    void truncate(int n);

    // Makes statistics readable by any thread, as of now, or reads them.
    void publish();
    Statistics published() const;
    const std::vector<TokenLogprob> & logprobs() const { return sampler_.logprobs(); }
    // (1 + n_prompt_logprobs) entries for each prompt token, but the first, that the last turn could judge.
    const std::vector<TokenLogprob> & prompt_logprobs() const { return prompt_logprobs_; }
    int n_prompt_reported() const { return (int) prompt_logprobs_.size() / (1 + n_prompt_logprobs_); }

    void * owner = nullptr;  // the handle of this sequence outside the engine

  private:
    bool needs_no_masks() const;
    void report_prompt(Target & target, const Turn & turn);
    void choose(Burst & burst);
    void emit(int32_t token, Burst & burst);

    const std::vector<int32_t> prompt_;
    const std::vector<int32_t> end_tokens_;
    const std::vector<int> branches_;
    const int max_tokens_;
    const uint64_t seed_;
    Sampler sampler_;
    Grammar grammar_;
    Acceptance acceptance_;
    const bool on_device_;  // candidates of the target's rows are found
    const int drafts_wanted_;
    const int n_prompt_logprobs_;
    std::vector<TokenLogprob> prompt_logprobs_;  // of the last turn
    int n_judged_ = 1;                           // prompt tokens that were reported; the first has no probability
    std::vector<Candidate> largest_;
    bool clock_decides_ = false;
    DraftHistory table_;  // a table of costs, where live timings may not choose k
    std::optional<DraftLength> draft_length_;
    AcceptanceRates rates_;

    std::atomic<bool> cancelled_{ false }, left_{ false };
    int slot_ = -1, n_cached_ = 0, n_reserved_ = 0;
    std::vector<int> stops_;
    std::vector<Draft> drafts_;    // up to the first one that the grammar refuses
    int n_verified_ = 0;           // of them that are evaluated
    bool was_cut_ = false;         // more were drafted
    std::vector<TargetRow> rows_;  // of the target, in a turn
    std::vector<float> state_;     // f32[n_embd] of the last accepted row
    Finish finish_ = Finish::none;
    Status status_{};
    std::string error_;
    std::atomic<bool> failed_{ false };  // and error_ stays
    Statistics stats_;
    const std::chrono::steady_clock::time_point made_ = std::chrono::steady_clock::now();
    mutable std::mutex mutex_;  // of what follows
    Statistics published_;
};

}  // namespace pmtp
