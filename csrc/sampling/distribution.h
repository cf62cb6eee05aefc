// Logits warped by temperature, min_p, top_k and top_p: the distribution that tokens are drawn from.
#pragma once

#include "sampling/candidates.h"
#include "sampling/logits.h"
#include "sampling/noise.h"

#include <cstdint>
#include <vector>

namespace pmtp {

// Logits are divided by no lower temperature: the quotients would leave the range of floats. Below it, the limit is
// taken.
constexpr double kLeastTemperature = 1e-30;

// What turns logits into the distribution that is sampled. A temperature below kLeastTemperature is greedy.
struct Warp {
    double temperature = 1.0;
    double top_p = 1.0;
    double min_p = 0.0;
    int top_k = 0;

    bool greedy() const { return temperature < kLeastTemperature || top_k == 1; }
    bool truncates() const { return top_p < 1.0 || min_p > 0.0 || top_k > 0; }
    float scale() const;  // 1 / temperature, unless greedy
    ChoiceParams choice(uint64_t key, bool noisy) const;
};

struct WeightedToken {
    int32_t token;
    double p;
};

// The logits stay where they are; the support is a list of candidates, or everything down to a least candidate.
class Distribution {
  public:
    // logits: f32[n], which must stay until the last use and may be overwritten by remove(); ids: i32[n], the token of
    // each logit, or nullptr where the index is the token. Returns false if no logit is a number.
    bool assign(float * logits, const int32_t * ids, int n, const Warp & warp);

    // The same from the candidates of a whole row. Returns false if they do not suffice: then the row is needed. noisy:
    // they were ranked under the noise of the one draw() that may follow, and only the temperature warps.
    bool assign(Candidates & candidates, const Warp & warp, bool noisy);

    // All of the probability on one token whose logit is not known. For draws only.
    void assign_certain(int32_t token);

    int32_t most_probable() const { return token_of(best_); }

    // A token, exactly distributed: the arg-max of log p + Gumbel noise (Gumbel 1954; Yellott 1977). The least work,
    // since p need not be normalised and noise is drawn only where it can win.
    int32_t draw(const Noise & noise) const;

    // A token, exactly distributed, from one uniform number by the inverse of the cumulative distribution.
    int32_t draw(double u);

    // Sum of e^((logit - max) / temperature) over the support. Computed when it is first asked for.
    double total();

    // Probability of a token. ids, if there are any, must be ascending.
    double probability(int32_t token);

    // Every token of the support with its probability.
    void tabulate(std::vector<WeightedToken> & out);

    // Takes tokens out of the support, overwriting their logits. Likewise.
    void remove(const std::vector<WeightedToken> & tokens);

  private:
    int32_t token_of(int32_t index) const { return ids_ != nullptr ? ids_[index] : index; }
    double weight(float logit) const { return exp_nonpositive((logit - max_) * scale_); }
    bool supports(const Candidate & c) const {
        return c.logit > least_.logit || (c.logit == least_.logit && c.index <= least_.index);
    }
    template <typename Visit> void for_each(Visit visit) const;
    void restart(float * logits, const int32_t * ids, int n);
    void warp_with(const Warp & warp);
    int32_t index_of(int32_t token) const;
    bool keep_top_p(double top_p, double uncertainty);
    bool list_at_least(float floor, size_t limit);
    Candidate top_p_boundary(double wanted) const;

    float * logits_ = nullptr;
    const int32_t * ids_ = nullptr;
    int n_ = 0;
    int32_t best_ = 0;
    float max_ = 0;
    float scale_ = 1;  // 1 / temperature
    double temperature_ = 1;
    Candidate least_{};    // of the support
    bool listed_ = false;  // list_ holds the support
    std::vector<Candidate> list_;
    double total_ = -1;  // < 0: not known yet
};

}  // namespace pmtp
