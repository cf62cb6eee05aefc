// Plans the drafts of several sequences on simulated machines, and compares each plan with the best of all (k_1..k_n).
// Times, texts and noise follow from seeds, so that the figures repeat.
//
// Output: "plan MACHINE N LEARNING MEAN LEAST BEST OURS" for each machine, number of sequences that ask, and way of
// learning (known: 400 exact times; learnt: 200 times with noise of 10 %): the plan's tokens per unit of time in units
// of the best plan's, the mean over texts and the least, and the drafts of a sequence in the best plans and in ours.
// Then "costs MACHINE LEAST RISES" for each: the least cost that is believed in units of a step of one row after odd
// times, and whether no cost is less than that of fewer rows or shorter drafts.

#include "drafters/draft_planner.h"
#include "drafters/step_costs.h"
#include "sampling/draft.h"
#include "sampling/noise.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

using namespace pmtp;

namespace {

constexpr int kMostSequences = 4;
constexpr int kMostDrafts = 5;  // of a sequence, so that all plans can be tried
constexpr int kRows = 32;       // of a step
constexpr int kTexts = 24;

struct Random {
    uint64_t seed, counter = 0;
    double uniform() { return pmtp::uniform(seed, Purpose::synthetic, counter++); }
    double normal() { return std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform()); }
    int below(int n) { return std::min(n - 1, (int) (n * uniform())); }
};

struct Machine {
    const char * name;
    double (*seconds)(int rows, int longest);  // of drafting and verifying
};

double drafting(int longest, double first, double step) { return longest > 0 ? first + step * longest : 0; }

const Machine machines[] = {
    { "guess", [](int rows, int k) { return 0.02 * (0.9 + 0.1 * rows + drafting(k, 0.08, 0.03)); } },
    { "cpu", [](int rows, int k) { return 0.11 * (0.92 + 0.08 * rows + drafting(k, 0.03, 0.02)); } },
    { "gpu", [](int rows, int k) { return 0.004 * (0.98 + 0.02 * rows + drafting(k, 0.30, 0.13)); } },
    { "step",
      [](int rows, int k) { return 0.05 * (0.9 + 0.05 * rows + (rows > 8 ? 0.4 : 0) + drafting(k, 0.03, 0.02)); } },
    { "rows", [](int rows, int k) { return 0.03 * (0.1 + 0.9 * rows + drafting(k, 0.05, 0.02)); } },
    { "slow", [](int rows, int k) { return 0.01 * (0.95 + 0.05 * rows + drafting(k, 1.5, 1.2)); } },
};

// Texts of a sequence: the rate of each position, given that the drafts before were accepted.
struct Text {
    std::array<double, kMostDrafts> rate;
};

Text text(Random & random) {
    Text t;
    const double first = 0.05 + 0.92 * random.uniform(), keeps = 0.7 + 0.3 * random.uniform();
    for (int i = 0; i < kMostDrafts; i++) {
        t.rate[i] = first * std::pow(keeps, i);
    }
    return t;
}

// What is believed of a text after many rounds of it.
AcceptanceRates rates_of(const Text & text, Random & random) {
    AcceptanceRates rates;
    for (int round = 0; round < 2000; round++) {
        int accepted = 0;
        while (accepted < kMostDrafts && random.uniform() < text.rate[accepted]) {
            accepted++;
        }
        rates.observe(kMostDrafts, accepted);
    }
    return rates;
}

// What else is in a step: a sequence that does not ask, with its drafts.
struct Others {
    int n = 0, drafts = 0;
    int rows() const { return n + drafts; }
};

// Tokens a second of a step with k[i] drafts of sequence i, by what is believed of the texts and known of the machine.
double speed(const Machine & machine, const Others & others, const std::vector<AcceptanceRates> & rates,
             const std::vector<int> & k) {
    double tokens = others.n;
    int rows = others.rows(), longest = others.drafts;
    for (size_t i = 0; i < rates.size(); i++) {
        double worth = 1;
        tokens += 1;
        for (int d = 0; d < k[i]; d++) {
            worth *= rates[i].at(d);
            tokens += worth;
        }
        rows += 1 + k[i];
        longest = std::max(longest, k[i]);
    }
    return tokens / machine.seconds(rows, longest);
}

// The best of all plans.
std::vector<int> best_plan(const Machine & machine, const Others & others, const std::vector<AcceptanceRates> & rates,
                           const std::vector<int> & most) {
    std::vector<int> k(rates.size()), best = k;
    for (bool more = true; more;) {
        if (speed(machine, others, rates, k) > speed(machine, others, rates, best)) {
            best = k;
        }
        more = false;
        for (size_t i = 0; i < k.size() && !more; i++) {
            more = k[i] < most[i];
            k[i] = more ? k[i] + 1 : 0;
        }
    }
    return best;
}

// A step of the shape that a plan has: of n sequences with their drafts. Steps of other plans are seen too, since
// acceptance changes.
void learn(DraftPlanner & planner, const Machine & machine, Random & random, int n_steps, double noise) {
    for (int step = 0; step < n_steps; step++) {
        const int n = 1 + random.below(kMostSequences);
        int rows = n, longest = 0;
        for (int i = 0; i < n; i++) {
            const int k = random.below(kMostDrafts + 1);
            rows += k;
            longest = std::max(longest, k);
        }
        planner.observe(rows, longest, machine.seconds(rows, longest) * std::exp(noise * random.normal()));
    }
}

std::vector<int> plan(DraftPlanner & planner, const Others & others, const std::vector<AcceptanceRates> & rates,
                      const std::vector<int> & most) {
    std::vector<DraftPlanner::Ask> asks;
    for (size_t i = 0; i < rates.size(); i++) {
        asks.push_back({ &rates[i], most[i] });
    }
    planner.plan(asks, others.n, (int) rates.size() + others.rows(), others.drafts, kRows);
    std::vector<int> k;
    for (size_t i = 0; i < asks.size(); i++) {
        if (asks[i].k < 0 || asks[i].k > most[i]) {
            std::abort();
        }
        k.push_back(asks[i].k);
    }
    return k;
}

void check(const Machine & machine, int n, bool learnt) {
    double mean = 0, least = 2, best_drafts = 0, drafts = 0;
    for (int t = 0; t < kTexts; t++) {
        Random random{ (uint64_t) (1000 * n + t) };
        DraftPlanner planner;
        learn(planner, machine, random, learnt ? 200 : 400, learnt ? 0.1 : 0);
        std::vector<AcceptanceRates> rates;
        std::vector<int> most;
        for (int i = 0; i < n; i++) {
            const Text one = text(random);
            rates.push_back(rates_of(one, random));
            most.push_back(t % 3 == 0 ? random.below(kMostDrafts + 1) : kMostDrafts);  // 0 too: its last token
        }
        const Others others = t % 4 == 1 ? Others{ 1, 3 } : Others();
        const std::vector<int> best = best_plan(machine, others, rates, most), k = plan(planner, others, rates, most);
        const double share = speed(machine, others, rates, k) / speed(machine, others, rates, best);
        mean += share / kTexts;
        least = std::min(least, share);
        for (int i = 0; i < n; i++) {
            best_drafts += (double) best[i] / n / kTexts;
            drafts += (double) k[i] / n / kTexts;
        }
    }
    std::printf("plan %s %d %s %.4f %.4f %.2f %.2f\n", machine.name, n, learnt ? "learnt" : "known", mean, least,
                best_drafts, drafts);
}

// Few shapes, much noise, times that are no times.
void check_costs(const Machine & machine) {
    Random random{ 77 };
    StepCosts costs;
    double least = 1e9;
    bool rises = true;
    for (int step = 0; step < 3000; step++) {
        const int rows = step < 1000 ? 12 : 1 + random.below(40), longest = step < 1000 ? 4 : random.below(5);
        const double slow = random.uniform() < 0.05 ? 20 : random.uniform() < 0.05 ? 0.01 : 1;
        costs.observe(rows, longest, step % 50 == 0 ? 0.0 : slow * machine.seconds(rows, longest));
        if (step % 100 != 99) {
            continue;
        }
        const double unit = costs.cost(1, 0);
        for (int r = 1; r <= 1100; r++) {
            for (int k = 0; k <= kMaxDraft; k++) {
                least = std::min(least, costs.cost(r, k) / unit);
                rises = rises && costs.cost(r + 1, k) >= costs.cost(r, k) && costs.cost(r, k + 1) >= costs.cost(r, k);
            }
        }
        if (!(unit > 0)) {
            std::abort();
        }
    }
    std::printf("costs %s %.4f %d\n", machine.name, least, rises);
}

// Nobody asks, nobody may draft, no row is left.
void check_odd_questions() {
    DraftPlanner planner;
    const std::vector<AcceptanceRates> rates(3);
    std::vector<DraftPlanner::Ask> none;
    planner.plan(none, 2, 5, 3, kRows);
    for (const int most : { 0, -1 }) {
        std::vector<DraftPlanner::Ask> asks{ { &rates[0], most }, { &rates[1], most } };
        planner.plan(asks, 0, 2, 0, kRows);
        if (asks[0].k != 0 || asks[1].k != 0) {
            std::abort();
        }
    }
    for (int room = 0; room < 4; room++) {
        std::vector<DraftPlanner::Ask> asks{ { &rates[0], 16 }, { &rates[1], 16 }, { &rates[2], 16 } };
        planner.plan(asks, 0, 3, 0, 3 + room);
        if (asks[0].k + asks[1].k + asks[2].k > room) {
            std::abort();
        }
    }
}

}  // namespace

int main() {
    check_odd_questions();
    for (const Machine & machine : machines) {
        for (int n = 1; n <= kMostSequences; n++) {
            check(machine, n, false);
            check(machine, n, true);
        }
        check_costs(machine);
    }
}
