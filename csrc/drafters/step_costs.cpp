#include "drafters/step_costs.h"

#include <algorithm>

namespace pmtp {

namespace {

// Weight of what was learnt before, after another step.
constexpr double kMemory = 0.995;
// Variance of the first guess, relative to its square.
constexpr double kDoubt = 0.25;
// A time counts as no more than so many times what was expected: other work on the machine makes a step slow now and
// then.
constexpr double kOutlier = 1.5;
// Bound of the variances: what is never tried must not come to be believed anything.
constexpr double kMostDoubt = 4.0;

}  // namespace

void StepCosts::observe(int rows, int longest, double seconds) {
    if (!(seconds > 0)) {
        return;
    }
    const Vector x = features(rows, longest);
    if (n_++ == 0) {  // the first time gives the unit
        const double unit = seconds / cost(rows, longest);
        for (int i = 0; i < kSize; i++) {
            weights_[i] *= unit;
            covariance_[i][i] = kDoubt;
        }
    }
    const double expected = cost(rows, longest);
    const double observed = std::min(seconds, kOutlier * expected);
    // In units of the weights' sizes and of the expected time, so that numbers are near one.
    Vector scaled, gain;
    for (int i = 0; i < kSize; i++) {
        scaled[i] = x[i] * weights_[i] / expected;
    }
    double variance = 0.01;  // of a relative error of a tenth
    for (int i = 0; i < kSize; i++) {
        gain[i] = 0;
        for (int j = 0; j < kSize; j++) {
            gain[i] += covariance_[i][j] * scaled[j];
        }
        variance += scaled[i] * gain[i];
    }
    const double error = (observed - expected) / expected;
    for (int i = 0; i < kSize; i++) {
        const double change = std::clamp(1 + gain[i] / variance * error, 0.5, 2.0);
        weights_[i] *= change;
        for (int j = 0; j < kSize; j++) {
            covariance_[i][j] -= gain[i] * gain[j] / variance;
        }
    }
    double doubt = 0;
    for (int i = 0; i < kSize; i++) {
        doubt = std::max(doubt, covariance_[i][i]);
    }
    if (doubt < kMostDoubt) {
        for (Vector & row : covariance_) {
            for (double & value : row) {
                value /= kMemory;
            }
        }
    }
}

double StepCosts::cost(int rows, int longest) const {
    const Vector x = features(rows, longest);
    double sum = 0;
    for (int i = 0; i < kSize; i++) {
        sum += weights_[i] * x[i];
    }
    return sum;
}

}  // namespace pmtp
