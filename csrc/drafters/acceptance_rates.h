// How often the head's drafts are accepted, position by position, and whether that has changed.
//
// Outcomes are remembered for long, so that the rates are steady. That the text has changed is found by Page's test
// ("Continuous Inspection Schemes", 1954): the likelihood ratio of much better rates, and of much worse ones, begun
// anew whenever it speaks against them. At an alarm only the outcomes since that beginning count.
#pragma once

#include "drafters/round_costs.h"

#include <array>

namespace pmtp {

class AcceptanceRates {
  public:
    void observe(int drafted, int accepted);

    // Probability that a position's draft is accepted if those before it were.
    double at(int position) const;

    // How much the latest outcomes speak for better rates: logarithm of the likelihood ratio, at least 0.
    double promise() const { return better_.score; }

    // What is believed of another text: all but a few outcomes are forgotten.
    AcceptanceRates faded() const;

  private:
    struct Outcomes {
        std::array<double, kAutoLimit> accepted{}, tried{};
        void add(int drafted, int n_accepted);
    };
    struct Change {
        double odds;  // of acceptance after it, in units of those before
        double score = 0;
        Outcomes since{};  // the score was 0
    };

    void update(Change & change, int drafted, int accepted) const;

    Outcomes outcomes_;
    Change better_{ 4.0 }, worse_{ 1 / 4.0 };
};

}  // namespace pmtp
