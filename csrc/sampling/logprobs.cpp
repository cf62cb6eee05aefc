#include "sampling/logprobs.h"

#include <algorithm>
#include <cmath>

namespace pmtp {

double append_best(const float * logits, int n_vocab, int n, std::vector<Candidate> & largest,
                   std::vector<TokenLogprob> & out) {
    const float max = logits[arg_max(logits, n_vocab)];
    const double log_sum = max + std::log(exp_sum(logits, n_vocab, max, 1.0f));
    if (n > 0) {
        gather_largest(logits, n_vocab, n, kLowest, largest);
        std::sort_heap(largest.begin(), largest.end(), more_probable);
        for (const Candidate & c : largest) {
            out.push_back({ c.index, (float) (c.logit - log_sum) });
        }
    }
    return log_sum;
}

}  // namespace pmtp
