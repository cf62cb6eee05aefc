// The target's distribution and the choice of a token from it.
//
// Coupled sampling (Daliri, Musco, Suresh, "Coupling without Communication and Drafter-Invariant Speculative Decoding",
// arXiv 2408.07978): the token at position i is the arg-max over the warped distribution of log p + g, with Gumbel noise g keyed
// by (seed, i, token). That is exact sampling and does not know whether anything was drafted, so the same seed gives the same
// text with every drafter. A draft is accepted if and only if it equals that token.
#pragma once

#include "pyllama_mtp.h"

#include <cstdint>
#include <unordered_map>
#include <vector>

namespace pmtp {

// Standard Gumbel noise of a token at a position: a counter-based generator, the finaliser of SplitMix64 (Steele, Lea, Flood,
// "Fast splittable pseudorandom number generators", 2014) over a key of seed and position.
class Noise {
  public:
    Noise(uint64_t seed, int64_t position);
    uint64_t bits(int32_t token) const;
    static double uniform(uint64_t bits);  // (0, 1)
    static double gumbel(uint64_t bits);

  private:
    uint64_t key_;
};

// What turns logits into the distribution that is sampled. temperature 0: greedy.
struct Warp {
    double temperature = 1.0;
    double top_p = 1.0;
    double min_p = 0.0;
    int top_k = 0;

    bool greedy() const { return temperature == 0.0 || top_k == 1; }
};

// Picks a token from logits with given noise. Holds scratch memory only.
class Chooser {
  public:
    struct Candidate {
        float logit;
        int32_t token;  // or an index, where tokens are given by a table
    };

    // logits: f32[n]; ids: i32[n], the token of each logit, or nullptr where the index is the token.
    // Returns -1 if no logit is a number.
    int32_t choose(const float * logits, const int32_t * ids, int n, const Warp & warp, const Noise & noise);

    // The k largest logits that are not below `floor`, as a heap whose root is the least of them.
    const std::vector<Candidate> & gather_largest(const float * logits, int n, int k, float floor);

  private:
    void gather_at_least(const float * logits, int n, float floor);
    double candidate_mass(float max, float scale) const;
    bool keep_top_p(const Warp & warp, float max, float scale, double total);

    std::vector<Candidate> candidates_;
};

struct SamplingParams {
    Warp warp;
    uint64_t seed = 0;
    double presence_penalty = 0.0;
    double frequency_penalty = 0.0;
    double repetition_penalty = 1.0;
    int min_tokens = 0;
    int n_logprobs = -1;
    std::vector<pmtp_logit_bias> logit_bias;
    std::vector<int32_t> end_tokens;  // forbidden before min_tokens
    pmtp_mask_fn mask = nullptr;
    void * mask_user = nullptr;
};

class Sampler {
  public:
    Sampler(SamplingParams params, int n_vocab, const int32_t * prompt, int n_prompt);

    // The next token, at index prompt + generated of the text. logits: f32[n_vocab], overwritten.
    // Throws Error if the mask callback fails, forbids every token, or the logits are not numbers.
    int32_t sample(float * logits);

    // Forgets all but the first n generated tokens.
    void truncate(int n);

    const std::vector<int32_t> & generated() const { return generated_; }

    // (1 + n_logprobs) entries per sampled token since the last clear_logprobs().
    const std::vector<pmtp_token_logprob> & logprobs() const { return logprobs_; }
    void clear_logprobs() { logprobs_.clear(); }

    const SamplingParams & params() const { return params_; }

  private:
    void apply_mask(float * logits);
    void apply_bias_and_penalties(float * logits);
    double report_best(const float * raw);

    SamplingParams params_;
    int n_vocab_;
    int n_prompt_;
    std::vector<int32_t> generated_;
    std::unordered_map<int32_t, int> counts_;  // generated occurrences; 0 for tokens of the prompt alone
    Chooser chooser_;
    std::vector<uint32_t> allowed_;
    std::vector<Chooser::Candidate> changed_;           // unmodified logits of the tokens that bias or penalties changed
    std::vector<pmtp_token_logprob> logprobs_;
};

}  // namespace pmtp
