// What steps of several sequences cost, learnt from noisy times: seconds = g(rows) + [drafts] c + d (longest draft).
//
// A Kalman filter (Kalman, "A New Approach to Linear Filtering and Prediction Problems", 1960) over g at some numbers
// of rows, c and d. g is a line at first, with doubts that are shared: a time also tells of other numbers of rows, and
// less of those behind a step, where a kernel needs one more pass. Everything is in units of a step of one row.
#pragma once

#include <array>

namespace pmtp {

class StepCosts {
  public:
    StepCosts();

    // rows: evaluated together; longest: drafts of the sequence with most. seconds: of drafting and verifying.
    void observe(int rows, int longest, double seconds);

    // In units that all steps have in common: positive, and not less for more rows or longer drafts.
    double cost(int rows, int longest) const;

  private:
    // Numbers of rows where g is known; between them it is a line.
    static constexpr std::array kKnots = { 1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,  12,  13,  14,
                                           15, 16, 17, 18, 20, 24, 32, 48, 64, 96, 128, 256, 512, 1088 };
    static constexpr int kRows = (int) kKnots.size();
    static constexpr int kFirst = kRows, kEach = kRows + 1, kSize = kRows + 2;
    using Vector = std::array<double, kSize>;

    static Vector features(int rows, int longest);
    void learn(const Vector & x, double value);
    void round_up();

    double unit_ = 0;  // seconds; 0: nothing was seen
    Vector mean_{};
    std::array<Vector, kSize> covariance_{};
    Vector costs_{};  // the means, made positive and rising
};

}  // namespace pmtp
