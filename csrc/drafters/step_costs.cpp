#include "drafters/step_costs.h"

#include <algorithm>
#include <cmath>

namespace pmtp {

namespace {

// The first guess: what a step costs besides its rows, a row, drafting at all, a draft of the longest.
constexpr double kStep = 0.9;
constexpr double kRow = 0.1;
constexpr double kDrafting = 0.08;
constexpr double kDraft = 0.03;
// Standard deviations of these guesses.
constexpr double kStepDoubt = 0.2;
constexpr double kRowDoubt = 0.2;
constexpr double kDraftingDoubt = 0.4;
constexpr double kDraftDoubt = 0.3;
// The same of each row by itself, which may begin another pass of a kernel.
constexpr double kPassDoubt = 0.05;
// Standard deviation of a time, relative to it.
constexpr double kSpread = 0.1;
// Standard deviations at which a time's deviation is cut: other work on the machine makes a step slow now and then.
constexpr double kOutlier = 2.5;
// Drift of the machine's speed from one time to the next, relative.
constexpr double kSpeedDrift = 0.003;
// Drift of every number by itself, since contexts grow.
constexpr double kDrift = 0.0005;
// The least cost.
constexpr double kLeast = 0.05;

}  // namespace

StepCosts::StepCosts() {
    for (int i = 0; i < kRows; i++) {
        mean_[i] = kStep + kRow * kKnots[i];
        for (int j = 0; j < kRows; j++) {
            covariance_[i][j] = kStepDoubt * kStepDoubt + kRowDoubt * kRowDoubt * (kKnots[i] - 1) * (kKnots[j] - 1) +
                                kPassDoubt * kPassDoubt * (std::min(kKnots[i], kKnots[j]) - 1);
        }
    }
    mean_[kFirst] = kDrafting;
    mean_[kEach] = kDraft;
    covariance_[kFirst][kFirst] = kDraftingDoubt * kDraftingDoubt;
    covariance_[kEach][kEach] = kDraftDoubt * kDraftDoubt;
    round_up();
}

StepCosts::Vector StepCosts::features(int rows, int longest) {
    Vector x{};
    rows = std::clamp(rows, kKnots.front(), kKnots.back());
    const int i = (int) (std::lower_bound(kKnots.begin(), kKnots.end(), rows) - kKnots.begin());
    const double below = i > 0 ? (double) (kKnots[i] - rows) / (kKnots[i] - kKnots[i - 1]) : 0;
    x[i] = 1 - below;
    if (i > 0) {
        x[i - 1] = below;
    }
    x[kFirst] = longest > 0;
    x[kEach] = longest;
    return x;
}

void StepCosts::observe(int rows, int longest, double seconds) {
    if (!(seconds > 0)) {
        return;
    }
    if (unit_ == 0) {
        unit_ = seconds / cost(rows, longest);
    }
    learn(features(rows, longest), seconds / unit_);
    round_up();
}

void StepCosts::learn(const Vector & x, double value) {
    for (int i = 0; i < kSize; i++) {
        for (int j = 0; j < kSize; j++) {
            covariance_[i][j] += kSpeedDrift * kSpeedDrift * mean_[i] * mean_[j];
        }
        covariance_[i][i] += kDrift * kDrift;
    }
    double expected = 0, least = 0;
    Vector gain{};
    for (int i = 0; i < kSize; i++) {
        expected += x[i] * mean_[i];
        least += x[i] * costs_[i];
        for (int j = 0; j < kSize; j++) {
            gain[i] += covariance_[i][j] * x[j];
        }
    }
    double variance = kSpread * kSpread * least * least;
    for (int i = 0; i < kSize; i++) {
        variance += x[i] * gain[i];
    }
    const double limit = kOutlier * std::sqrt(variance);
    const double error = std::clamp(value - expected, -limit, limit);
    for (int i = 0; i < kSize; i++) {
        mean_[i] += gain[i] / variance * error;
        for (int j = 0; j < kSize; j++) {
            covariance_[i][j] -= gain[i] * gain[j] / variance;
        }
    }
}

void StepCosts::round_up() {
    costs_ = mean_;
    double least = kLeast;
    for (int i = 0; i < kRows; i++) {
        least = costs_[i] = std::max(least, mean_[i]);
    }
    costs_[kFirst] = std::max(0.0, mean_[kFirst]);
    costs_[kEach] = std::max(0.0, mean_[kEach]);
}

double StepCosts::cost(int rows, int longest) const {
    const Vector x = features(rows, longest);
    double sum = 0;
    for (int i = 0; i < kSize; i++) {
        sum += costs_[i] * x[i];
    }
    return sum;
}

}  // namespace pmtp
