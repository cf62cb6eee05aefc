#include "drafters/round_costs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pmtp {

namespace {

// Standard deviations of logarithms. Of the first guess:
constexpr double kLevelDoubt = 3.0;  // seconds: anything
constexpr double kFirstDoubt = 0.3;  // what drafting at all adds
constexpr double kSlopeDoubt = 0.3;  // slope, of log(1 + k)
constexpr double kStepDoubt = 0.07;  // each step by itself: a batch of one more row may need one more pass of a kernel
// From one time to the next:
constexpr double kSpread = 0.07;  // of times, before any were seen
constexpr double kLeastSpread = 0.005;
constexpr double kLevelDrift = 0.25;   // of the machine's speed, in units of the times' spread
constexpr double kCostDrift = 0.0005;  // of each k's cost by itself: contexts grow

constexpr double kSpreadWeight = 0.05;  // of the newest time in the spread
constexpr double kOutlier = 2.5;        // larger deviations, in standard deviations, are cut

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
