#include "drafters/round_costs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pmtp {

namespace {

// Standard deviation of the first guess's level, a logarithm of seconds: it may be anything.
constexpr double kLevelDoubt = 3.0;
// Standard deviation of what drafting at all adds to a logarithm of costs.
constexpr double kFirstDoubt = 0.3;
// Standard deviation of the slope of the logarithm, over log(1 + k).
constexpr double kSlopeDoubt = 0.3;
// Standard deviation of each step by itself: a batch of one more row may need one more pass of a kernel.
constexpr double kStepDoubt = 0.07;
// Standard deviation of a time's logarithm before any time was seen.
constexpr double kSpread = 0.07;
// The least that it is taken for afterwards.
constexpr double kLeastSpread = 0.005;
// Drift of the machine's speed from one time to the next, in units of the times' spread.
constexpr double kLevelDrift = 0.25;
// Drift of each k's cost by itself, since contexts grow.
constexpr double kCostDrift = 0.0005;
// Weight of the newest time in the spread.
constexpr double kSpreadWeight = 0.05;
// Standard deviations at which a time's deviation is cut.
constexpr double kOutlier = 2.5;

}  // namespace

RoundCosts::RoundCosts(double first, double step) : first_(first), step_(step), spread_(kSpread) {
    for (int i = 0; i < kSize; i++) {
        mean_[i] = std::log(1 + (i > 0 ? first : 0) + step * i);
        for (int j = 0; j < kSize; j++) {
            covariance_[i][j] = kLevelDoubt * kLevelDoubt + (i > 0 && j > 0 ? kFirstDoubt * kFirstDoubt : 0) +
                                kSlopeDoubt * kSlopeDoubt * std::log(1.0 + i) * std::log(1.0 + j) +
                                kStepDoubt * kStepDoubt * std::min(i, j);
        }
    }
}

void RoundCosts::observe(int k, double seconds) {
    if (k > kAutoLimit || !(seconds > 0)) {
        return;
    }
    n_recent_ = k == recent_k_ ? n_recent_ : 0;
    recent_k_ = k;
    recent_[n_recent_++] = std::log(seconds);
    if (n_recent_ < kMedian) {
        return;
    }
    n_recent_ = 0;
    std::sort(recent_.begin(), recent_.end());
    learn(k, recent_[kMedian / 2]);
}

void RoundCosts::learn(int k, double value) {
    if (std::accumulate(count_.begin(), count_.end(), 0) == 0) {
        const double level = value - mean_[k];
        for (double & mean : mean_) {
            mean += level;
        }
    }
    count_[k] += kMedian;
    const double drift = kLevelDrift * spread_;
    for (int i = 0; i < kSize; i++) {
        for (double & covariance : covariance_[i]) {
            covariance += drift * drift;
        }
        covariance_[i][i] += kCostDrift * kCostDrift;
    }
    const std::array<double, kSize> row = covariance_[k];
    const double variance = row[k] + spread_ * spread_;
    const double limit = kOutlier * std::sqrt(variance);
    const double error = std::clamp(value - mean_[k], -limit, limit);
    for (int i = 0; i < kSize; i++) {
        mean_[i] += row[i] / variance * error;
        for (int j = 0; j < kSize; j++) {
            covariance_[i][j] -= row[i] * row[j] / variance;
        }
    }
    const double deviation =
        1.25 *
        std::min(std::abs(error), kOutlier * spread_);  // a Gaussian's standard deviation is 1.25 mean deviations
    spread_ = std::max(kLeastSpread, spread_ + kSpreadWeight * (deviation - spread_));
}

double RoundCosts::relative(int k) const { return std::exp(mean_[k] - mean_[0]); }

double RoundCosts::doubt(int i, int j) const {
    return std::sqrt(std::max(0.0, covariance_[i][i] + covariance_[j][j] - 2 * covariance_[i][j]));
}

}  // namespace pmtp
