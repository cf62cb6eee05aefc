// The target's distribution of the next token: the grammar's mask, logit_bias, penalties, then the warp. Keeps the
// completion that they look at.
#pragma once

#include "sampling/distribution.h"
#include "sampling/grammar.h"
#include "sampling/logprobs.h"

#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

namespace pmtp {

struct LogitBias {
    int32_t token;
    float bias;
};

struct SamplingParams {
    Warp warp;
    double presence_penalty = 0.0;
    double frequency_penalty = 0.0;
    double repetition_penalty = 1.0;
    int min_tokens = 0;
    int n_logprobs = -1;
    std::vector<LogitBias> logit_bias;
    std::vector<int32_t> end_tokens;  // forbidden before min_tokens
};

// What of the target's output the choice of tokens needs.
struct Wanted {
    enum Kind {
        logits,         // all of it
        most_probable,  // the most probable token
        candidates,     // the tokens that can be chosen, if they are few
    };
    Kind kind = logits;
    // Unless logits: of each row; nullptr: it has no mask. The most probable token needs neither.
    std::vector<ChoiceParams> params;
    std::vector<const uint32_t *> masks;

    // Makes it enough for its own rows and for those of another.
    void add(Wanted && other);
    bool masked() const;
};

// The target's output for one position. Where less is wanted, the logits may have stayed on their device.
struct TargetRow {
    float * logits;                       // f32[n_vocab] or nullptr; overwritten
    int32_t most_probable = -1;           // if there are no logits; < 0: none of them was a number
    Candidates * candidates = nullptr;    // if there are no logits; overwritten
    bool noisy = false;                   // how they were ranked
    std::function<float *()> fetch = {};  // the logits after all, if the candidates do not suffice; throws Error
    const uint32_t * mask = nullptr;      // of the grammar; candidates are allowed ones already
    // Of a greedy choice whose mask was left out: the mask, if the grammar refuses this token; throws Error.
    std::function<const uint32_t *(int32_t)> refusal = {};
};

class Sampler {
  public:
    // The next token's distribution, and what its logprobs need.
    struct Row {
        Distribution p;
        float * logits = nullptr;        // nullptr where candidates were enough
        double log_sum = 0;              // logarithm of the sum of e^logit, unmodified
        std::vector<Candidate> changed;  // unmodified logits of the tokens that bias or penalties changed
        std::vector<TokenLogprob> best;  // the n_logprobs largest
        const uint32_t * mask = nullptr;
        std::vector<float> few;  // logits of the allowed tokens, where they are few
        std::vector<int32_t> few_ids;
    };

    Sampler(SamplingParams params, int n_vocab, const int32_t * prompt, int n_prompt);

    // What is enough to choose the next n_rows tokens. noise: the seed, where tokens are the most probable ones under
    // noise keyed by their position (the coupled rule), else nullptr. grammar: with the rows' masks.
    Wanted wanted(int n_rows, const uint64_t * noise, const Grammar & grammar) const;

    // Fills `row` for the token at index prompt + generated of the text. The target's logits are read until the row's
    // last use. Throws Error if every token is forbidden, or the logits are not numbers.
    void prepare(const TargetRow & target, Row & row);

    // Appends a token that was chosen from `row`.
    void commit(const Row & row, int32_t token);

    // Forgets all but the first n generated tokens, and logprobs of the others.
    void truncate(int n);

    int64_t position() const { return n_prompt_ + (int64_t) generated_.size(); }  // of the next token in the text
    const std::vector<int32_t> & generated() const { return generated_; }

    // (1 + n_logprobs) entries per committed token since the last clear_logprobs().
    const std::vector<TokenLogprob> & logprobs() const { return logprobs_; }
    void clear_logprobs() { logprobs_.clear(); }

    const SamplingParams & params() const { return params_; }

  private:
    bool has_penalties() const {
        return params_.repetition_penalty != 1.0 || params_.presence_penalty != 0.0 || params_.frequency_penalty != 0.0;
    }
    [[noreturn]] void throw_no_choice(const Row & row) const;
    bool must_end(const uint32_t * mask, int n_allowed) const;
    void apply_bias_and_penalties(Row & row, int n_allowed);
    bool assign(Row & row, int n_allowed);
    void report_best(Row & row);

    SamplingParams params_;
    int n_vocab_;
    int n_prompt_;
    std::vector<int32_t> generated_;
    struct Seen {
        bool in_prompt = false;
        int generated = 0;
    };
    std::unordered_map<int32_t, Seen> seen_;
    std::vector<Candidate> largest_;
    std::vector<TokenLogprob> logprobs_;
};

}  // namespace pmtp
