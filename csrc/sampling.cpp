#include "sampling.h"

#include "error.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace pmtp {

namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();

uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

int32_t arg_max(const float * logits, int n) {
    int32_t best = 0;
    for (int i = 1; i < n; i++) {
        if (logits[i] > logits[best]) {
            best = i;
        }
    }
    return best;
}

const auto more_probable = [](const auto & a, const auto & b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
};

}  // namespace

Noise::Noise(uint64_t seed, int64_t position) : key_(mix(mix(seed + 0x9e3779b97f4a7c15ull) + (uint64_t) position)) {}

uint64_t Noise::bits(int32_t token) const { return mix(key_ + ((uint64_t) token + 1) * 0x9e3779b97f4a7c15ull); }

double Noise::uniform(uint64_t bits) { return ((double) (bits >> 11) + 0.5) * 0x1p-53; }

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
    if (params_.n_logprobs >= 0) {
        raw_.assign(logits, logits + n_vocab_);
    }
    if (params_.mask != nullptr) {
        apply_mask(logits);
    }
    apply_bias_and_penalties(logits);
    const int32_t token = choose(logits);
    if (params_.n_logprobs >= 0) {
        report(raw_.data(), token);
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

void Sampler::apply_bias_and_penalties(float * logits) const {
    for (const pmtp_logit_bias & b : params_.logit_bias) {
        logits[b.token] += b.bias;
    }
    if ((int) generated_.size() < params_.min_tokens) {
        for (int32_t token : params_.end_tokens) {
            logits[token] = kForbidden;
        }
    }
    const bool penalised =
        params_.repetition_penalty != 1.0 || params_.presence_penalty != 0.0 || params_.frequency_penalty != 0.0;
    if (!penalised) {
        return;
    }
    for (const auto & [token, count] : counts_) {
        double logit = logits[token];
        logit = logit > 0 ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
        logit -= count * params_.frequency_penalty + (count > 0 ? params_.presence_penalty : 0.0);
        logits[token] = (float) logit;
    }
}

int32_t Sampler::choose(const float * logits) {
    const int32_t best = arg_max(logits, n_vocab_);
    const float max = logits[best];
    if (!std::isfinite(max)) {
        throw Error(PMTP_ERROR_INTERNAL, format("no token can be chosen: the largest logit is %f", max));
    }
    if (params_.temperature == 0.0 || params_.top_k == 1) {
        return best;
    }
    const Noise noise(params_.seed, n_prompt_ + (int64_t) generated_.size());
    const bool truncated = params_.min_p > 0.0 || (params_.top_k > 0 && params_.top_k < n_vocab_) || params_.top_p < 1.0;
    if (!truncated) {
        return choose_from_all(logits, noise, max);
    }

    const float floor = params_.min_p > 0.0 ? (float) (max + params_.temperature * std::log(params_.min_p)) : kForbidden;
    candidates_.clear();
    for (int i = 0; i < n_vocab_; i++) {
        if (logits[i] >= floor && logits[i] > kForbidden) {
            candidates_.push_back({ logits[i], i });
        }
    }
    if (params_.top_k > 0 && params_.top_k < (int) candidates_.size()) {
        std::nth_element(candidates_.begin(), candidates_.begin() + params_.top_k, candidates_.end(),
                         more_probable);
        candidates_.resize(params_.top_k);
    }
    if (params_.top_p < 1.0) {
        keep_top_p();
    }
    int32_t choice = best;
    double best_score = -std::numeric_limits<double>::infinity();
    for (const Candidate & c : candidates_) {
        const double score = ((double) c.logit - max) / params_.temperature + Noise::gumbel(noise.bits(c.token));
        if (score > best_score || (score == best_score && c.token < choice)) {
            best_score = score;
            choice = c.token;
        }
    }
    return choice;
}

// Over the whole vocabulary the two logarithms of a Gumbel number are taken only where they can win: g > d needs
// -log u < exp(-d), and 1 - u <= -log u.
int32_t Sampler::choose_from_all(const float * logits, const Noise & noise, float max) const {
    int32_t choice = -1;
    double best_score = -std::numeric_limits<double>::infinity();
    const double scale = 1.0 / params_.temperature;
    for (int i = 0; i < n_vocab_; i++) {
        if (logits[i] == kForbidden) {
            continue;
        }
        const uint64_t bits = noise.bits(i);
        const double z = ((double) logits[i] - max) * scale;
        if (1.0 - Noise::uniform(bits) > std::exp(z - best_score)) {
            continue;
        }
        const double score = z + Noise::gumbel(bits);
        if (score > best_score) {
            best_score = score;
            choice = i;
        }
    }
    return choice;
}

// Keeps the smallest set of most probable candidates whose share of all candidates' mass is top_p or more.
void Sampler::keep_top_p() {
    float max = kForbidden;
    for (const Candidate & c : candidates_) {
        max = std::max(max, c.logit);
    }
    const auto weight = [&](const Candidate & c) { return std::exp(((double) c.logit - max) / params_.temperature); };
    double total = 0;
    for (const Candidate & c : candidates_) {
        total += weight(c);
    }
    // The set is small as a rule: sort a few of the largest, and more only if they do not cover top_p.
    double mass = 0;
    size_t sorted = 0;
    for (size_t step = 64; sorted < candidates_.size(); step *= 8) {
        const size_t end = std::min(candidates_.size(), sorted + step);
        std::partial_sort(candidates_.begin() + sorted, candidates_.begin() + end, candidates_.end(), more_probable);
        for (; sorted < end; sorted++) {
            mass += weight(candidates_[sorted]);
            if (mass >= params_.top_p * total) {
                candidates_.resize(sorted + 1);
                return;
            }
        }
    }
}

void Sampler::report(const float * raw, int32_t token) {
    const float max = *std::max_element(raw, raw + n_vocab_);
    double sum = 0;
    for (int i = 0; i < n_vocab_; i++) {
        sum += std::exp((double) raw[i] - max);
    }
    const double log_sum = max + std::log(sum);
    const auto entry = [&](int32_t t) { return pmtp_token_logprob{ t, (float) (raw[t] - log_sum) }; };
    logprobs_.push_back(entry(token));
    candidates_.clear();
    for (int i = 0; i < n_vocab_; i++) {
        candidates_.push_back({ raw[i], i });
    }
    const int n = std::min(params_.n_logprobs, n_vocab_);
    std::partial_sort(candidates_.begin(), candidates_.begin() + n, candidates_.end(),
                      more_probable);
    for (int i = 0; i < n; i++) {
        logprobs_.push_back(entry(candidates_[i].token));
    }
}

}  // namespace pmtp
