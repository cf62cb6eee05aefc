// How many tokens each of several sequences drafts in a step, so that the step gives most tokens a second.
//
// The i-th draft of a sequence is worth the product of its acceptance rates up to i, which falls with i. The best r
// drafts of all sequences together are the r most valuable ones, so one pass over them in that order finds the best r.
#pragma once

#include "drafters/acceptance_rates.h"
#include "drafters/step_costs.h"

#include <vector>

namespace pmtp {

class DraftPlanner {
  public:
    struct Ask {
        const AcceptanceRates * rates;
        int most;   // drafts
        int k = 0;  // the answer
    };

    // n_rows, longest: those of the step that are settled already (a row of each sequence, drafts that are not asked
    // about).
    void plan(std::vector<Ask> & asks, int n_rows, int longest, int most_rows);

    // What a step took, the choice of its tokens included.
    void observe(int rows, int longest, double seconds) { costs_.observe(rows, longest, seconds); }

  private:
    StepCosts costs_;
    struct Draft {
        double worth;
        int ask;
    };
    std::vector<Draft> drafts_;
};

}  // namespace pmtp
