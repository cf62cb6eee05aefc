#include "sampling/distribution.h"

#include <array>
#include <cmath>

namespace pmtp {

namespace {

// top_p looks first at candidates of at least e^-12 times the best one's probability.
constexpr double kLikely = 12;
// Longer supports are scanned, not listed.
constexpr size_t kListLimit = 32768;
// Where more than that must be sorted a histogram is faster.
constexpr size_t kSortLimit = 4096;
// More than -log(-log(1 - 2^-53)) = 36.7.
constexpr double kMaxGumbel = 38;
// Relative error of a sum over the vocabulary in single precision.
constexpr double kTotalError = 1e-5;
// Least 1 / temperature and top_p that devices are told: as zeros of single precision, forbidden logits would become no
// numbers, and no token would be enough.
constexpr double kLeastScale = 1e-30;
constexpr double kLeastShare = 1e-30;
constexpr Candidate kEverything = { kLowest, std::numeric_limits<int32_t>::max() };

// The least logit that min_p leaves.
float floor_of(float max, const Warp & warp) {
    return warp.min_p > 0.0 ? (float) std::max<double>(kLowest, max + warp.temperature * std::log(warp.min_p))
                            : kLowest;
}

}  // namespace

float Warp::scale() const { return (float) std::max(1.0 / temperature, kLeastScale); }

ChoiceParams Warp::choice(uint64_t key, bool noisy) const {
    if (greedy()) {
        return { 0, 1.0f, kForbidden, 1.0f, 0, false, 0 };
    }
    return { key, scale(), (float) std::log(min_p), (float) std::max(top_p, kLeastShare), top_k, noisy, 0 };
}

void Distribution::restart(float * logits, const int32_t * ids, int n) {
    logits_ = logits;
    ids_ = ids;
    n_ = n;
    best_ = arg_max(logits, n);
    max_ = logits[best_];
    total_ = -1;
    least_ = kEverything;
    listed_ = false;
    list_.clear();
}

bool Distribution::assign(float * logits, const int32_t * ids, int n, const Warp & warp) {
    restart(logits, ids, n);
    if (!std::isfinite(max_)) {
        return false;
    }
    warp_with(warp);
    return true;
}

bool Distribution::assign(Candidates & c, const Warp & warp, bool noisy) {
    constexpr float kBin = 1.0f / kCandidateBinsPerUnit;
    if (c.n < 1 || !std::isfinite(c.max)) {
        return false;
    }
    restart(c.logit, c.token, c.n);
    if (noisy) {  // the device ranked in single precision; what it left out must be further from the best one than its
                  // error
        const float error = 1e-4f * std::max(1.0f, warp.scale());
        warp_with({ warp.temperature });
        return c.n_bins * kBin > 2 * error;
    }
    const bool has_top_k = warp.top_k > 0 && warp.top_k <= c.n;
    const bool has_min_p = warp.min_p > 0.0 && (c.max - floor_of(c.max, warp)) * kCandidateBinsPerUnit < c.n_bins;
    if (warp.greedy() || has_top_k || has_min_p) {
        warp_with(warp);
        return true;
    }
    if (warp.top_k > 0 || warp.min_p > 0.0 || warp.top_p == 1.0) {
        return false;
    }
    warp_with({ warp.temperature });
    total_ = c.total;
    return keep_top_p(warp.top_p, kTotalError * c.total);
}

void Distribution::warp_with(const Warp & warp) {
    if (warp.greedy()) {
        temperature_ = 1;
        scale_ = 1;
        least_ = { max_, best_ };
        list_.push_back(least_);
        listed_ = true;
        return;
    }
    temperature_ = warp.temperature;
    scale_ = warp.scale();
    const float floor = floor_of(max_, warp);
    if (warp.top_k > 0 && warp.top_k < n_) {
        gather_largest(logits_, n_, warp.top_k, floor, list_);
        listed_ = true;
        least_ = list_.front();
    } else if (warp.min_p > 0.0) {
        least_.logit = floor;
        list_at_least(floor, kListLimit);
    }
    if (warp.top_p < 1.0 && !keep_top_p(warp.top_p, 0)) {
        listed_ = false;
        least_ = top_p_boundary(warp.top_p * total());
        list_.clear();
        total_ = -1;
    }
}

void Distribution::assign_certain(int32_t token) {
    logits_ = nullptr;
    ids_ = nullptr;
    n_ = 0;
    best_ = token;
    least_ = { 0, token };
    list_.assign(1, least_);
    listed_ = true;
    total_ = -1;
}

// Makes the list the support, if it is no longer than `limit`.
bool Distribution::list_at_least(float floor, size_t limit) {
    list_.clear();
    for (int begin = 0; begin < n_; begin += kScanBlock) {
        for_each_at_least(logits_ + begin, std::min(kScanBlock, n_ - begin), floor,
                          [&](int32_t i, float logit) { list_.push_back({ logit, begin + i }); });
        if (list_.size() > limit) {
            list_.clear();
            return false;
        }
    }
    listed_ = true;
    return true;
}

// Keeps the smallest set of most probable tokens whose share of the support so far is top_p or more. Returns false if
// that is a large set, or if an uncertain total leaves open which one it is.
bool Distribution::keep_top_p(double top_p, double uncertainty) {
    const double wanted = top_p * total();
    if (!listed_) {
        list_at_least((float) std::max<double>(least_.logit, max_ - kLikely * temperature_), kListLimit);
    }
    double covered = 0;
    size_t sorted = 0;
    for (size_t step = 64; sorted < std::min(list_.size(), kSortLimit); step *= 4) {  // as a rule the set is small
        const size_t end = std::min(list_.size(), sorted + step);
        std::partial_sort(list_.begin() + sorted, list_.begin() + end, list_.end(), more_probable);
        for (; sorted < end; sorted++) {
            covered += weight(list_[sorted].logit);
            if (std::abs(covered - wanted) < uncertainty) {
                return false;
            }
            if (covered >= wanted) {
                list_.resize(sorted + 1);
                least_ = list_.back();
                total_ = covered;
                return true;
            }
        }
    }
    return false;
}

// The least probable token of the smallest set of most probable ones that weighs `wanted`, for flat distributions: a
// histogram of weights finds the bucket that holds it, and only that bucket is sorted.
Candidate Distribution::top_p_boundary(double wanted) const {
    constexpr int kBuckets = 4096;
    // Weights below e^-87 are 0.
    constexpr float kWidth = 88.0f / kBuckets;
    const float per_bucket = scale_ / kWidth;
    const auto bucket = [&](float logit) { return (int) std::min(kBuckets - 1.0f, (max_ - logit) * per_bucket); };
    std::vector<double> weights(kBuckets);
    for (int begin = 0; begin < n_; begin += kScanBlock) {
        const int size = std::min(kScanBlock, n_ - begin);
        float weight_of[kScanBlock];
        int bucket_of[kScanBlock];
        for (int i = 0; i < size; i++) {  // vector instructions, apart from the scattered sums
            const float logit = logits_[begin + i];
            weight_of[i] = logit >= least_.logit ? exp_nonpositive((logit - max_) * scale_) : 0.0f;
            bucket_of[i] = bucket(std::max(logit, least_.logit));
        }
        for (int i = 0; i < size; i++) {
            weights[bucket_of[i]] += weight_of[i];
        }
    }
    int crossing = 0;
    double covered = 0;
    while (crossing < kBuckets - 1 && covered + weights[crossing] < wanted) {
        covered += weights[crossing++];
    }
    std::vector<Candidate> inside;
    for_each([&](const Candidate & c) {
        if (bucket(c.logit) == crossing) {
            inside.push_back(c);
        }
    });
    std::sort(inside.begin(), inside.end(), more_probable);
    for (const Candidate & c : inside) {
        covered += weight(c.logit);
        if (covered >= wanted) {
            return c;
        }
    }
    return least_;  // rounding: all of it
}

template <typename Visit> void Distribution::for_each(Visit visit) const {
    if (listed_) {
        for (const Candidate & c : list_) {
            visit(c);
        }
    } else {
        for_each_at_least(logits_, n_, least_.logit, [&](int32_t index, float logit) {
            if (supports({ logit, index })) {
                visit(Candidate{ logit, index });
            }
        });
    }
}

double Distribution::total() {
    if (total_ < 0) {
        total_ = 0;
        if (!listed_ && least_.logit == kLowest) {
            total_ = exp_sum(logits_, n_, max_, scale_);
        } else {
            for_each([&](const Candidate & c) { total_ += weight(c.logit); });
        }
    }
    return total_;
}

// -1: not among the candidates
int32_t Distribution::index_of(int32_t token) const {
    if (ids_ == nullptr) {
        return token;
    }
    const int32_t * found = std::lower_bound(ids_, ids_ + n_, token);
    return found != ids_ + n_ && *found == token ? (int32_t) (found - ids_) : -1;
}

double Distribution::probability(int32_t token) {
    const int32_t index = index_of(token);
    if (index < 0) {
        return 0.0;
    }
    const Candidate c = { logits_[index], index };
    return supports(c) ? weight(c.logit) / total() : 0.0;
}

void Distribution::tabulate(std::vector<WeightedToken> & out) {
    out.clear();
    const double norm = 1.0 / total();
    for_each([&](const Candidate & c) { out.push_back({ token_of(c.index), weight(c.logit) * norm }); });
}

void Distribution::remove(const std::vector<WeightedToken> & tokens) {
    for (const WeightedToken & w : tokens) {
        const int32_t index = index_of(w.token);
        if (index >= 0) {
            logits_[index] = kForbidden;
        }
    }
    list_.erase(
        std::remove_if(list_.begin(), list_.end(), [&](const Candidate & c) { return logits_[c.index] == kForbidden; }),
        list_.end());
    total_ = -1;
}

int32_t Distribution::draw(double u) {
    const double wanted = u * total();
    double covered = 0;
    if (!listed_ && least_.logit == kLowest) {
        for (int begin = 0; begin < n_; begin += kScanBlock) {
            const int size = std::min(kScanBlock, n_ - begin);
            const double block = exp_sum(logits_ + begin, size, max_, scale_);
            if (covered + block < wanted) {
                covered += block;
                continue;
            }
            for (int i = begin; i < begin + size; i++) {
                if (logits_[i] > kForbidden && (covered += weight(logits_[i])) >= wanted) {
                    return token_of(i);
                }
            }
        }
        return token_of(arg_max(logits_, n_));  // rounding left `wanted` above the sum
    }
    int32_t choice = best_;
    for_each([&](const Candidate & c) {
        if (covered < wanted) {
            covered += weight(c.logit);
            choice = c.index;
        }
    });
    return token_of(choice);
}

int32_t Distribution::draw(const Noise & noise) const {
    if (listed_ && list_.size() == 1) {
        return token_of(list_.front().index);
    }
    const double inverse = 1.0 / temperature_;
    double best_score = -std::numeric_limits<double>::infinity();
    int32_t choice = -1;
    // Noise is drawn only where it can win: g > d needs -log u < e^-d, where 1 - u <= -log u.
    const auto consider = [&](int32_t index) {
        const int32_t token = token_of(index);
        const uint64_t bits = noise.bits(token);
        const double z = ((double) logits_[index] - max_) * inverse;
        if (1.0 - Noise::uniform(bits) > std::exp(z - best_score)) {
            return;
        }
        const double score = z + Noise::gumbel(bits);
        if (score > best_score || (score == best_score && token < choice)) {
            best_score = score;
            choice = token;
        }
    };
    consider(best_);  // a good score from the start leaves little to the rest
    if (listed_) {
        for (const Candidate & c : list_) {
            consider(c.index);
        }
        return choice;
    }
    for (int begin = 0; begin < n_; begin += kScanBlock) {
        const int size = std::min(kScanBlock, n_ - begin);
        const float block_max = largest(logits_ + begin, size);
        const double z = ((double) block_max - max_) * inverse;
        if (block_max < least_.logit || z + kMaxGumbel < best_score) {
            continue;
        }
        // Hashes of a block against the least that can win anywhere in it, with vector instructions.
        const double losing = 1.0 - std::exp(z - best_score);  // of uniform numbers; a margin for rounding below
        if (losing > 0 && ids_ == nullptr) {
            const uint64_t threshold = (uint64_t) (std::max(0.0, losing - 1e-12) * 0x1p64);
            uint64_t reach = 0;
            for (int i = begin; i < begin + size; i++) {
                const uint64_t bits = noise.bits(i);
                reach = bits > reach ? bits : reach;
            }
            if (reach < threshold) {
                continue;
            }
        }
        for (int i = begin; i < begin + size; i++) {
            if (supports({ logits_[i], i })) {
                consider(i);
            }
        }
    }
    return choice;
}

}  // namespace pmtp
