// Logarithms of probabilities, of the target's unmodified logits.
#pragma once

#include "sampling/logits.h"

#include <cstdint>
#include <vector>

namespace pmtp {

struct TokenLogprob {
    int32_t token;
    float logprob;
};

// Appends the n most probable tokens of f32[n_vocab], the best first. Returns the logarithm of the sum of e^logit.
// largest: scratch.
double append_best(const float * logits, int n_vocab, int n, std::vector<Candidate> & largest,
                   std::vector<TokenLogprob> & out);

}  // namespace pmtp
