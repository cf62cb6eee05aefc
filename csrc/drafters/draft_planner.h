// How many tokens each of several sequences drafts in a step, so that the step gives most tokens a second.
//
// The i-th draft of a sequence is worth the product of its acceptance rates up to i, which falls with i. Of drafts up
// to a length, the best r of all sequences together are the r most valuable ones: one pass over them in that order for
// each length finds the best plan of all, for a step's cost depends on the numbers of rows and of the longest draft
// alone.
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

    // n_others: sequences in the step that do not ask. n_rows, longest: of what is settled already (a row of each
    // sequence, the others' drafts).
    void plan(std::vector<Ask> & asks, int n_others, int n_rows, int longest, int most_rows);

    // What a step took, the choice of its tokens included.
    void observe(int rows, int longest, double seconds) { costs_.observe(rows, longest, seconds); }

  private:
    StepCosts costs_;
    struct Draft {
        double worth;
        int ask;
        int number;  // of the ask's, from 1
    };
    std::vector<Draft> drafts_;
};

}  // namespace pmtp
