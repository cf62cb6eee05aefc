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

    // few_shapes: plans the same number of drafts for all, and seldom another one than before, for a device that builds
    // and records a graph anew for every number of rows.
    explicit DraftPlanner(bool few_shapes = false) : few_shapes_(few_shapes) {}

    // n_others: sequences in the step that do not ask. n_rows, longest: of what is settled already (a row of each
    // sequence, the others' drafts).
    void plan(std::vector<Ask> & asks, int n_others, int n_rows, int longest, int most_rows);

    // What a step took, the choice of its tokens included.
    void observe(int rows, int longest, double seconds);

  private:
    void plan_equal(std::vector<Ask> & asks, double plain, int n_rows, int longest, int most_rows);

    const bool few_shapes_;
    int last_length_ = 0;                                // that was planned for all
    int seen_rows_ = 0, seen_longest_ = 0, n_seen_ = 0;  // the last steps, which were alike
    StepCosts costs_;
    struct Draft {
        double worth;
        int ask;
        int number;  // of the ask's, from 1
    };
    std::vector<Draft> drafts_;
};

}  // namespace pmtp
