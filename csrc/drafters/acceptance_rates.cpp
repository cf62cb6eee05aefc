#include "drafters/acceptance_rates.h"

#include <algorithm>
#include <cmath>

namespace pmtp {

namespace {

// Share of the outcomes that is remembered after a round: some 500 rounds count.
constexpr double kMemory = 0.998;
// Acceptance that is believed of the first position before anything was seen.
constexpr double kFirstRate = 0.7;
// Outcomes that a belief counts for; a later position is believed like the one before it.
constexpr double kPriorWeight = 3.0;
// Logarithm of the likelihood ratio at an alarm: a false one in e^8 outcomes at most.
constexpr double kAlarm = 8.0;
// Outcomes of a position that a new text begins with.
constexpr double kCarried = 40.0;

}  // namespace

void AcceptanceRates::Outcomes::add(int drafted, int n_accepted) {
    for (int i = 0; i < std::min({ drafted, n_accepted + 1, kAutoLimit }); i++) {
        accepted[i] += i < n_accepted;
        tried[i] += 1;
    }
}

void AcceptanceRates::observe(int drafted, int accepted) {
    update(better_, drafted, accepted);
    update(worse_, drafted, accepted);
    const Change & likelier = better_.score > worse_.score ? better_ : worse_;
    if (likelier.score > kAlarm) {
        outcomes_ = likelier.since;
        better_ = { better_.odds };
        worse_ = { worse_.odds };
        return;
    }
    for (int i = 0; i < kAutoLimit; i++) {  // what was not tried fades too, so that it is tried again one day
        outcomes_.accepted[i] *= kMemory;
        outcomes_.tried[i] *= kMemory;
    }
    outcomes_.add(drafted, accepted);
}

void AcceptanceRates::update(Change & change, int drafted, int accepted) const {
    for (int i = 0; i < std::min({ drafted, accepted + 1, kAutoLimit }); i++) {
        const double p = at(i);
        change.score += std::log((i < accepted ? change.odds : 1.0) / (1 - p + p * change.odds));
    }
    change.since.add(drafted, accepted);
    if (change.score <= 0) {
        change = { change.odds };
    }
}

double AcceptanceRates::at(int position) const {
    double rate = kFirstRate;
    for (int i = 0; i <= position; i++) {
        rate = (outcomes_.accepted[i] + kPriorWeight * rate) / (outcomes_.tried[i] + kPriorWeight);
    }
    return rate;
}

AcceptanceRates AcceptanceRates::faded() const {
    AcceptanceRates rates;
    for (int i = 0; i < kAutoLimit; i++) {
        const double share = std::min(1.0, kCarried / std::max(1.0, outcomes_.tried[i]));
        rates.outcomes_.accepted[i] = share * outcomes_.accepted[i];
        rates.outcomes_.tried[i] = share * outcomes_.tried[i];
    }
    return rates;
}

}  // namespace pmtp
