// What steps of several sequences cost, learnt from noisy times: seconds = a + b rows + c [drafts] + d (longest draft).
//
// Recursive least squares with exponential forgetting (Haykin, "Adaptive Filter Theory", 1986), of errors relative to
// the time, from a first guess in units of a step of one row.
#pragma once

#include <array>

namespace pmtp {

class StepCosts {
  public:
    // rows: evaluated together; longest: drafts of the sequence with most. seconds: of drafting and verifying.
    void observe(int rows, int longest, double seconds);

    // In units that all steps have in common.
    double cost(int rows, int longest) const;

  private:
    static constexpr int kSize = 4;
    using Vector = std::array<double, kSize>;

    static Vector features(int rows, int longest) {
        return { 1.0, (double) rows, longest > 0 ? 1.0 : 0.0, (double) longest };
    }

    int n_ = 0;
    Vector weights_{ 0.9, 0.1, 0.08, 0.03 };
    std::array<Vector, kSize> covariance_{};
};

}  // namespace pmtp
