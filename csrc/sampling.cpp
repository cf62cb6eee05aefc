#include "sampling.h"

#include "error.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace pmtp {

namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();  // any logit but a forbidden one
constexpr double kLikely = 12;      // top_p looks first at candidates of at least e^-12 times the best one's probability
constexpr double kMaxGumbel = 38;   // -log(-log(1 - 2^-53)) = 36.7

uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

// Vocabularies are scanned in blocks whose maximum is found with vector instructions; few blocks need a closer look.
constexpr int kBlock = 64;

float block_max(const float * x, int n) {
    float lanes[16];
    std::fill_n(lanes, 16, kForbidden);
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int j = 0; j < 16; j++) {
            lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
        }
    }
    for (; i < n; i++) {
        lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
    }
    return *std::max_element(lanes, lanes + 16);
}

// Visits (index, logit) of every logit that is not below `floor`, which the visitor may raise.
template <typename Visit> void for_each_at_least(const float * logits, int n, const float & floor, Visit visit) {
    for (int begin = 0; begin < n; begin += kBlock) {
        const int size = std::min(kBlock, n - begin);
        if (block_max(logits + begin, size) < floor) {
            continue;
        }
        for (int i = begin; i < begin + size; i++) {
            if (logits[i] >= floor) {
                visit(i, logits[i]);
            }
        }
    }
}

int32_t arg_max(const float * logits, int n) {
    float best = kForbidden;
    int32_t index = 0;
    for (int begin = 0; begin < n; begin += kBlock) {
        const int size = std::min(kBlock, n - begin);
        if (block_max(logits + begin, size) > best) {
            for (int i = begin; i < begin + size; i++) {
                if (logits[i] > best) {
                    best = logits[i];
                    index = i;
                }
            }
        }
    }
    return index;
}

// e^x for x <= 0 to a relative error of 2e-7, in a form that compilers turn into vector instructions: 2^n times a polynomial of
// degree 6 for the fraction (Taylor coefficients of 2^f on [-1/2, 1/2]). Below -87 it is 0 to within 1e-38.
inline float exp_nonpositive(float x) {
    const float t = std::max(x, -87.0f) * 1.44269504f;
    const float n = (t + 12582912.0f) - 12582912.0f;  // to the nearest integer
    const float f = t - n;
    float p = 1.5403530e-4f;
    p = p * f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    const int32_t exponent = ((int32_t) n + 127) << 23;
    float scale;
    std::memcpy(&scale, &exponent, sizeof(scale));
    return p * scale;
}

// Sum of e^((logit - max) * scale).
double mass(const float * logits, int n, float max, float scale) {
    double total = 0;
    for (int begin = 0; begin < n; begin += kBlock) {
        const int size = std::min(kBlock, n - begin);
        float lanes[16] = {};
        int i = 0;
        for (; i + 16 <= size; i += 16) {
            for (int j = 0; j < 16; j++) {
                lanes[j] += exp_nonpositive((logits[begin + i + j] - max) * scale);
            }
        }
        for (; i < size; i++) {
            lanes[0] += exp_nonpositive((logits[begin + i] - max) * scale);
        }
        for (float lane : lanes) {
            total += lane;
        }
    }
    return total;
}

const auto more_probable = [](const auto & a, const auto & b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
};

}  // namespace

Noise::Noise(uint64_t seed, int64_t position) : key_(mix(mix(seed + 0x9e3779b97f4a7c15ull) + (uint64_t) position)) {}

uint64_t Noise::bits(int32_t token) const { return mix(key_ + ((uint64_t) token + 1) * 0x9e3779b97f4a7c15ull); }

double Noise::uniform(uint64_t bits) { return ((double) (bits >> 12) + 0.5) * 0x1p-52; }  // one bit less: + 0.5 is exact

double Noise::gumbel(uint64_t bits) { return -std::log(-std::log(uniform(bits))); }

Sampler::Sampler(SamplingParams params, int n_vocab, const int32_t * prompt, int n_prompt)
    : params_(std::move(params)), n_vocab_(n_vocab), n_prompt_(n_prompt), allowed_((n_vocab + 31) / 32) {
    if (params_.repetition_penalty != 1.0) {  // the only penalty that looks at the prompt
        for (int i = 0; i < n_prompt; i++) {
            counts_.emplace(prompt[i], 0);
        }
    }
}

int32_t Sampler::sample(float * logits) {
    changed_.clear();
    size_t reported = 0;
    double log_sum = 0;
    if (params_.n_logprobs >= 0) {  // of the unmodified logits, so before anything changes them
        reported = logprobs_.size();
        log_sum = report_best(logits);
    }
    if (params_.mask != nullptr) {
        apply_mask(logits);
    }
    apply_bias_and_penalties(logits);
    const Noise noise(params_.seed, n_prompt_ + (int64_t) generated_.size());
    const int32_t token = chooser_.choose(logits, nullptr, n_vocab_, params_.warp, noise);
    if (token < 0) {
        throw Error(PMTP_ERROR_INTERNAL, "no token can be chosen: the target's logits are not numbers, or every token is forbidden");
    }
    if (params_.n_logprobs >= 0) {
        const auto changed = std::find_if(changed_.begin(), changed_.end(), [&](const auto & c) { return c.token == token; });
        logprobs_[reported] = { token, (float) ((changed != changed_.end() ? changed->logit : logits[token]) - log_sum) };
    }
    generated_.push_back(token);
    counts_[token]++;
    return token;
}

void Sampler::truncate(int n) {
    while ((int) generated_.size() > n) {
        counts_[generated_.back()]--;
        generated_.pop_back();
    }
}

void Sampler::apply_mask(float * logits) {
    std::fill(allowed_.begin(), allowed_.end(), 0);
    const int status = params_.mask(params_.mask_user, generated_.data(), (int32_t) generated_.size(), allowed_.data());
    if (status != 0) {
        throw Error(PMTP_ERROR_INTERNAL, format("the mask callback failed with status %d", status));
    }
    for (int i = 0; i < n_vocab_; i++) {
        if (((allowed_[i / 32] >> (i % 32)) & 1) == 0) {
            logits[i] = kForbidden;
        }
    }
}

void Sampler::apply_bias_and_penalties(float * logits) {
    const auto change = [&](int32_t token, float logit) {
        changed_.push_back({ logits[token], token });
        logits[token] = logit;
    };
    for (const pmtp_logit_bias & b : params_.logit_bias) {
        change(b.token, logits[b.token] + b.bias);
    }
    if (params_.repetition_penalty != 1.0 || params_.presence_penalty != 0.0 || params_.frequency_penalty != 0.0) {
        for (const auto & [token, count] : counts_) {
            double logit = logits[token];
            logit = logit > 0 ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
            logit -= count * params_.frequency_penalty + (count > 0 ? params_.presence_penalty : 0.0);
            change(token, (float) logit);
        }
    }
    if ((int) generated_.size() < params_.min_tokens) {
        for (int32_t token : params_.end_tokens) {
            change(token, kForbidden);
        }
    }
}

// Appends an entry for the chosen token, still open, and the n_logprobs best. Returns the logarithm of the sum of e^logit.
double Sampler::report_best(const float * raw) {
    const float max = raw[arg_max(raw, n_vocab_)];
    const double log_sum = max + std::log(mass(raw, n_vocab_, max, 1.0f));
    logprobs_.push_back({ -1, 0.0f });
    if (params_.n_logprobs > 0) {
        std::vector<Chooser::Candidate> best = chooser_.gather_largest(raw, n_vocab_, params_.n_logprobs, kLowest);
        std::sort_heap(best.begin(), best.end(), more_probable);
        for (const auto & c : best) {
            logprobs_.push_back({ c.token, (float) (c.logit - log_sum) });
        }
    }
    return log_sum;
}

int32_t Chooser::choose(const float * logits, const int32_t * ids, int n, const Warp & warp, const Noise & noise) {
    const int32_t best = arg_max(logits, n);
    const float max = logits[best];
    if (!std::isfinite(max)) {
        return -1;
    }
    const auto token_of = [ids](int32_t index) { return ids != nullptr ? ids[index] : index; };
    if (warp.greedy()) {
        return token_of(best);
    }
    const double inverse = 1.0 / warp.temperature;
    const float scale = (float) inverse;
    double best_score = -std::numeric_limits<double>::infinity();
    int32_t choice = -1;
    // Noise is drawn only where it can win: g > d needs -log u < e^-d, where 1 - u <= -log u.
    const auto consider = [&](int32_t index, float logit) {
        const int32_t token = token_of(index);
        const uint64_t bits = noise.bits(token);
        const double z = ((double) logit - max) * inverse;
        if (1.0 - Noise::uniform(bits) > std::exp(z - best_score)) {
            return false;
        }
        const double score = z + Noise::gumbel(bits);
        if (score < best_score || (score == best_score && token > choice)) {
            return false;
        }
        best_score = score;
        choice = token;
        return true;
    };

    const float floor = warp.min_p > 0.0 ? (float) (max + warp.temperature * std::log(warp.min_p)) : kLowest;
    if (warp.top_k > 0 && warp.top_k < n) {
        gather_largest(logits, n, warp.top_k, floor);
        keep_top_p(warp, max, scale, candidate_mass(max, scale));
    } else if (warp.min_p > 0.0) {
        gather_at_least(logits, n, floor);
        keep_top_p(warp, max, scale, candidate_mass(max, scale));
    } else if (warp.top_p < 1.0) {
        const double total = mass(logits, n, max, scale);
        gather_at_least(logits, n, (float) (max - kLikely * warp.temperature));
        if (!keep_top_p(warp, max, scale, total)) {
            gather_at_least(logits, n, kLowest);
            keep_top_p(warp, max, scale, total);
        }
    } else {
        float reachable = kLowest;
        for_each_at_least(logits, n, reachable, [&](int32_t index, float logit) {
            if (consider(index, logit)) {
                reachable = (float) (max + (best_score - kMaxGumbel) * warp.temperature);
            }
        });
        return choice;
    }
    for (const Candidate & c : candidates_) {
        consider(c.token, c.logit);
    }
    return choice;
}

void Chooser::gather_at_least(const float * logits, int n, float floor) {
    candidates_.clear();
    for_each_at_least(logits, n, floor, [&](int32_t token, float logit) { candidates_.push_back({ logit, token }); });
}

const std::vector<Chooser::Candidate> & Chooser::gather_largest(const float * logits, int n, int k, float floor) {
    candidates_.clear();
    for_each_at_least(logits, n, floor, [&](int32_t token, float logit) {
        if ((int) candidates_.size() == k) {
            if (logit <= candidates_.front().logit) {
                return;
            }
            std::pop_heap(candidates_.begin(), candidates_.end(), more_probable);
            candidates_.pop_back();
        }
        candidates_.push_back({ logit, token });
        std::push_heap(candidates_.begin(), candidates_.end(), more_probable);
        if ((int) candidates_.size() == k) {
            floor = candidates_.front().logit;
        }
    });
    return candidates_;
}

double Chooser::candidate_mass(float max, float scale) const {
    double total = 0;
    for (const Candidate & c : candidates_) {
        total += exp_nonpositive((c.logit - max) * scale);
    }
    return total;
}

// Keeps the smallest set of most probable candidates whose share of `total` is top_p or more. Returns false, with all candidates
// kept, if they do not cover it.
bool Chooser::keep_top_p(const Warp & warp, float max, float scale, double total) {
    if (warp.top_p >= 1.0) {
        return true;
    }
    double covered = 0;
    size_t sorted = 0;
    for (size_t step = 64; sorted < candidates_.size(); step *= 4) {  // as a rule the set is small
        const size_t end = std::min(candidates_.size(), sorted + step);
        std::partial_sort(candidates_.begin() + sorted, candidates_.begin() + end, candidates_.end(), more_probable);
        for (; sorted < end; sorted++) {
            covered += exp_nonpositive((candidates_[sorted].logit - max) * scale);
            if (covered >= warp.top_p * total) {
                candidates_.resize(sorted + 1);
                return true;
            }
        }
    }
    return false;
}

}  // namespace pmtp
