// The target's distribution of the next token: mask, logit_bias, penalties, then the warp. Keeps the completion that
// they look at.
#pragma once

#include "sampling/distribution.h"
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

// As pmtp_mask_fn.
using MaskFunction = int (*)(void * user, const int32_t * generated, int32_t n_generated, uint32_t * allowed);

struct SamplingParams {
    Warp warp;
    double presence_penalty = 0.0;
    double frequency_penalty = 0.0;
    double repetition_penalty = 1.0;
    int min_tokens = 0;
    int n_logprobs = -1;
    std::vector<LogitBias> logit_bias;
    std::vector<int32_t> end_tokens;  // forbidden before min_tokens
    MaskFunction mask = nullptr;
    void * mask_user = nullptr;
};

// What of the target's output the choice of tokens needs.
struct Wanted {
    enum Kind {
        logits,         // all of it
        most_probable,  // the most probable token
        candidates,     // the tokens that can be chosen, if they are few
    };
    Kind kind = logits;
    std::vector<ChoiceParams> params;  // candidates: of each row
};

// The target's output for one position. Where less is wanted, the logits may have stayed on their device.
struct TargetRow {
    float * logits;                       // f32[n_vocab] or nullptr; overwritten
    int32_t most_probable = -1;           // if there are no logits; < 0: none of them was a number
    Candidates * candidates = nullptr;    // if there are no logits; overwritten
    bool noisy = false;                   // how they were ranked
    std::function<float *()> fetch = {};  // the logits after all, if the candidates do not suffice; throws Error
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
    };

    Sampler(SamplingParams params, int n_vocab, const int32_t * prompt, int n_prompt);

    // What is enough to choose the next n_rows tokens. noise: the seed, where tokens are the most probable ones under
    // noise keyed by their position (the coupled rule), else nullptr.
    Wanted wanted(int n_rows, const uint64_t * noise) const;

    // Fills `row` for the token at index prompt + generated of the text. The target's logits are read until the row's
    // last use. Throws Error if the mask callback fails, every token is forbidden, or the logits are not numbers.
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
    bool allows(int32_t token) const { return ((allowed_[token / 32] >> (token % 32)) & 1) != 0; }
    void apply_mask(float * logits);
    void apply_bias_and_penalties(Row & row);
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
    std::vector<uint32_t> allowed_;
    std::vector<Candidate> largest_;
    std::vector<TokenLogprob> logprobs_;
};

}  // namespace pmtp
