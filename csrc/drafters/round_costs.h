// What rounds of k drafts cost, relative to each other, learnt from noisy times.
//
// A Kalman filter (Kalman, "A New Approach to Linear Filtering and Prediction Problems", 1960) over the logarithms of
// the costs of all k. The first guess is a line, and its doubts are shared: a time measured for one k also tells of its
// neighbours, and more of what was not measured. The machine's speed of the moment is a change that all k have in
// common.
#pragma once

#include <array>

namespace pmtp {

// Most drafts of "auto": beyond this an extra draft has never paid.
constexpr int kAutoLimit = 8;

class RoundCosts {
  public:
    // The first guess, in units of a round without drafts: what drafting at all adds to a round, and what each draft
    // adds.
    explicit RoundCosts(double first = 0.05, double step = 0.12);

    // A round of k drafts took that long. Not for the first one after another k, which also builds graphs.
    void observe(int k, double seconds);

    int count(int k) const { return count_[k]; }  // rounds learnt from

    // Cost of a round of k drafts in units of a round without drafts.
    double relative(int k) const;

    // Standard deviation of log(relative(i) / relative(j)).
    double doubt(int i, int j) const;

    RoundCosts unlearned() const { return RoundCosts(first_, step_); }

  private:
    static constexpr int kSize = kAutoLimit + 1;
    static constexpr int kMedian =
        3;  // rounds in a row whose median is learnt: other work on the machine makes a round slow now and then

    void learn(int k, double value);

    double first_;
    double step_;
    double spread_;  // standard deviation of a median's logarithm
    std::array<double, kMedian> recent_{};
    int n_recent_ = 0;
    int recent_k_ = -1;
    std::array<int, kSize> count_{};
    std::array<double, kSize> mean_{};  // of the costs' logarithms
    std::array<std::array<double, kSize>, kSize> covariance_{};
};

}  // namespace pmtp
