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

// So many allowed tokens are looked at one by one, and the row is left as it is.
constexpr int kFew = 4096;

int count(const uint32_t * mask, int n_words) {
    int n = 0;
    for (int i = 0; i < n_words; i++) {
        n += __builtin_popcount(mask[i]);
    }
    return n;
}

// Visits the tokens whose bits are set.
template <typename Visit> void for_each_token(const uint32_t * mask, int n_vocab, Visit visit) {
    for (int begin = 0; begin < n_vocab; begin += 32) {
        for (uint32_t bits = mask[begin / 32]; bits != 0; bits &= bits - 1) {
            if (const int32_t token = begin + __builtin_ctz(bits); token < n_vocab) {
                visit(token);
            }
        }
    }
}

void forbid(float * logits, const uint32_t * mask, int n_vocab) {
    for (int begin = 0; begin < n_vocab; begin += 32) {
        const uint32_t bits = mask[begin / 32];
        const int size = std::min(32, n_vocab - begin);
        if (bits == 0) {
            std::fill_n(logits + begin, size, kForbidden);
        } else if (bits != ~0u) {
            for (int i = 0; i < size; i++) {
                logits[begin + i] = (bits >> i & 1) != 0 ? logits[begin + i] : kForbidden;
            }
        }
    }
}

// What is finite stays finite in single precision.
float to_logit(double x) { return std::isfinite(x) ? (float) std::clamp<double>(x, kLowest, -kLowest) : (float) x; }

}  // namespace

Sampler::Sampler(SamplingParams params, int n_vocab, const int32_t * prompt, int n_prompt)
    : params_(std::move(params)),
      n_vocab_(n_vocab),
      n_prompt_(n_prompt) {
    params_.repetition_penalty = std::max(params_.repetition_penalty, kLeastRepetitionPenalty);
    if (params_.repetition_penalty != 1.0) {  // the only penalty that looks at the prompt
        for (int i = 0; i < n_prompt; i++) {
            seen_[prompt[i]].in_prompt = true;
        }
    }
}

Wanted Sampler::wanted(int n_rows, const uint64_t * noise, const Grammar & grammar) const {
    const Warp & warp = params_.warp;
    Wanted wanted;
    if (params_.n_logprobs >= 0 || !params_.logit_bias.empty() || has_penalties() ||
        (int) generated_.size() < params_.min_tokens) {
        return wanted;
    }
    const bool noisy = noise != nullptr && !warp.truncates() && !warp.greedy();
    if (!noisy && !warp.greedy() && (!warp.truncates() || warp.top_k > kCandidates)) {
        return wanted;
    }
    wanted.kind = warp.greedy() && !grammar.restricts() ? Wanted::most_probable : Wanted::candidates;
    for (int row = 0; row < n_rows; row++) {
        wanted.params.push_back(warp.choice(noisy ? Noise(*noise, Purpose::token, position() + row).key() : 0, noisy));
        wanted.masks.push_back(grammar.mask(row));
    }
    return wanted;
}

void Wanted::add(Wanted && other) {
    if (kind == logits || other.kind == logits) {
        *this = {};
        return;
    }
    kind = kind == other.kind ? kind : candidates;
    params.insert(params.end(), other.params.begin(), other.params.end());
    masks.insert(masks.end(), other.masks.begin(), other.masks.end());
}

bool Wanted::masked() const {
    return std::any_of(masks.begin(), masks.end(), [](const uint32_t * mask) { return mask != nullptr; });
}

void Sampler::prepare(const TargetRow & target, Row & row) {
    float * logits = target.logits;
    row.logits = logits;
    row.mask = target.mask;
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
    const int n_allowed = row.mask != nullptr ? count(row.mask, mask_words(n_vocab_)) : n_vocab_;
    apply_bias_and_penalties(row, n_allowed);
    bool chosen = assign(row, n_allowed);
    if (chosen && target.refusal) {
        if ((row.mask = target.refusal(row.p.most_probable())) != nullptr) {
            chosen = assign(row, count(row.mask, mask_words(n_vocab_)));
        }
    }
    if (!chosen) {
        throw_no_choice(row);
    }
}

bool Sampler::assign(Row & row, int n_allowed) {
    if (row.mask == nullptr || n_allowed > kFew) {
        if (row.mask != nullptr) {
            forbid(row.logits, row.mask, n_vocab_);
        }
        return row.p.assign(row.logits, nullptr, n_vocab_, params_.warp);
    }
    row.few.clear();
    row.few_ids.clear();
    for_each_token(row.mask, n_vocab_, [&](int32_t token) {
        row.few.push_back(row.logits[token]);
        row.few_ids.push_back(token);
    });
    return !row.few.empty() && row.p.assign(row.few.data(), row.few_ids.data(), (int) row.few.size(), params_.warp);
}

// Whose fault it is: the request's, unless the target's own logits are no numbers.
void Sampler::throw_no_choice(const Row & row) const {
    const bool allowed = row.mask == nullptr || count(row.mask, mask_words(n_vocab_)) > 0;
    for (size_t i = row.changed.size(); i-- > 0;) {  // a token may have been changed more than once
        row.logits[row.changed[i].index] = row.changed[i].logit;
    }
    if (allowed && !std::isfinite(row.logits[arg_max(row.logits, n_vocab_)])) {
        throw_no_numbers();
    }
    throw Error(
        Status::invalid_argument,
        "no token can be chosen: every one is forbidden by the grammar, logit_bias, or as an end before min_tokens");
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

// Whether the grammar allows nothing but an end, which then comes before min_tokens.
bool Sampler::must_end(const uint32_t * mask, int n_allowed) const {
    int n_ends = 0;
    for (auto i = params_.end_tokens.begin(); mask != nullptr && i != params_.end_tokens.end(); ++i) {
        n_ends += allows(mask, *i) && std::find(params_.end_tokens.begin(), i, *i) == i;
    }
    return mask != nullptr && n_ends == n_allowed;
}

void Sampler::apply_bias_and_penalties(Row & row, int n_allowed) {
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
    if ((int) generated_.size() < params_.min_tokens && !must_end(row.mask, n_allowed)) {
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
