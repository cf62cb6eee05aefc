#include "sampling/sampler.h"

#include "base/error.h"

#include <algorithm>
#include <cmath>

namespace pmtp {

namespace {

[[noreturn]] void throw_no_numbers() {
    throw Error(Status::internal, "no token can be chosen: the target's logits are not numbers");
}

// Any smaller one has the same effect, and quotients would leave the range of floats.
constexpr double kLeastRepetitionPenalty = 1e-30;

// What is finite stays finite in single precision.
float to_logit(double x) { return std::isfinite(x) ? (float) std::clamp<double>(x, kLowest, -kLowest) : (float) x; }

}  // namespace

Sampler::Sampler(SamplingParams params, int n_vocab, const int32_t * prompt, int n_prompt)
    : params_(std::move(params)),
      n_vocab_(n_vocab),
      n_prompt_(n_prompt),
      allowed_((n_vocab + 31) / 32) {
    params_.repetition_penalty = std::max(params_.repetition_penalty, kLeastRepetitionPenalty);
    if (params_.repetition_penalty != 1.0) {  // the only penalty that looks at the prompt
        for (int i = 0; i < n_prompt; i++) {
            seen_[prompt[i]].in_prompt = true;
        }
    }
}

Wanted Sampler::wanted(int n_rows, const uint64_t * noise) const {
    const Warp & warp = params_.warp;
    Wanted wanted;
    if (params_.n_logprobs >= 0 || params_.mask != nullptr || !params_.logit_bias.empty() || has_penalties() ||
        (int) generated_.size() < params_.min_tokens) {
        return wanted;
    }
    if (warp.greedy()) {
        wanted.kind = Wanted::most_probable;
        return wanted;
    }
    const bool noisy = noise != nullptr && !warp.truncates();
    if (noisy || (warp.truncates() && warp.top_k <= kCandidates)) {
        wanted.kind = Wanted::candidates;
        for (int row = 0; row < n_rows; row++) {
            wanted.params.push_back(
                warp.choice(noisy ? Noise(*noise, Purpose::token, position() + row).key() : 0, noisy));
        }
    }
    return wanted;
}

void Sampler::prepare(const TargetRow & target, Row & row) {
    float * logits = target.logits;
    row.logits = logits;
    row.changed.clear();
    if (logits == nullptr && target.candidates != nullptr) {
        if (row.p.assign(*target.candidates, params_.warp, target.noisy)) {
            return;
        }
        row.logits = logits = target.fetch();
    }
    if (logits == nullptr) {
        if (target.most_probable < 0) {
            throw_no_numbers();
        }
        row.p.assign_certain(target.most_probable);
        return;
    }
    if (params_.n_logprobs >= 0) {  // of the unmodified logits, so before anything changes them
        report_best(row);
    }
    if (params_.mask != nullptr) {
        apply_mask(logits);
    }
    apply_bias_and_penalties(row);
    if (!row.p.assign(logits, nullptr, n_vocab_, params_.warp)) {
        throw_no_choice(row);
    }
}

// Whose fault it is: the request's, unless the target's own logits are no numbers.
void Sampler::throw_no_choice(const Row & row) const {
    bool allowed = params_.mask == nullptr;
    for (int i = 0; i < n_vocab_ && !allowed; i++) {
        allowed = allows(i);
    }
    for (size_t i = row.changed.size(); i-- > 0;) {  // a token may have been changed more than once
        row.logits[row.changed[i].index] = row.changed[i].logit;
    }
    if (allowed && !std::isfinite(row.logits[arg_max(row.logits, n_vocab_)])) {
        throw_no_numbers();
    }
    throw Error(
        Status::invalid_argument,
        "no token can be chosen: every one is forbidden by the mask, logit_bias, or as an end before min_tokens");
}

void Sampler::commit(const Row & row, int32_t token) {
    if (params_.n_logprobs >= 0) {
        const auto changed =
            std::find_if(row.changed.begin(), row.changed.end(), [&](const auto & c) { return c.index == token; });
        const float logit = changed != row.changed.end() ? changed->logit : row.logits[token];
        logprobs_.push_back({ token, (float) (logit - row.log_sum) });
        logprobs_.insert(logprobs_.end(), row.best.begin(), row.best.end());
    }
    Seen & seen = seen_[token];  // first, so that every generated token is among the seen ones if memory runs out
    generated_.push_back(token);
    seen.generated++;
}

void Sampler::truncate(int n) {
    const size_t entries = (size_t) std::max(0, 1 + params_.n_logprobs) * std::max(0, (int) generated_.size() - n);
    logprobs_.resize(logprobs_.size() - std::min(logprobs_.size(), entries));
    while ((int) generated_.size() > n) {
        const auto seen = seen_.find(generated_.back());
        if (--seen->second.generated == 0 && !seen->second.in_prompt) {
            seen_.erase(seen);
        }
        generated_.pop_back();
    }
}

void Sampler::apply_mask(float * logits) {
    std::fill(allowed_.begin(), allowed_.end(), 0);
    const int status = params_.mask(params_.mask_user, generated_.data(), (int32_t) generated_.size(), allowed_.data());
    if (status != 0) {
        throw Error(Status::internal, format("the mask callback failed with status %d", status));
    }
    for (int i = 0; i < n_vocab_; i++) {
        if (!allows(i)) {
            logits[i] = kForbidden;
        }
    }
}

void Sampler::apply_bias_and_penalties(Row & row) {
    float * logits = row.logits;
    const auto change = [&](int32_t token, double logit) {
        row.changed.push_back({ logits[token], token });
        logits[token] = to_logit(logit);
    };
    for (const LogitBias & b : params_.logit_bias) {
        change(b.token, (double) logits[b.token] + b.bias);
    }
    if (has_penalties()) {
        for (const auto & [token, seen] : seen_) {
            double logit = logits[token];
            logit = logit > 0 ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
            logit -= seen.generated * params_.frequency_penalty + (seen.generated > 0 ? params_.presence_penalty : 0.0);
            change(token, logit);
        }
    }
    if ((int) generated_.size() < params_.min_tokens) {
        for (int32_t token : params_.end_tokens) {
            change(token, kForbidden);
        }
    }
}

void Sampler::report_best(Row & row) {
    row.best.clear();
    row.log_sum = append_best(row.logits, n_vocab_, params_.n_logprobs, largest_, row.best);
}

}  // namespace pmtp
