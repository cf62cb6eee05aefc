// Simulates rounds with given acceptance and noisy times, and prints what "auto" made of them. The clock is simulated
// and the outcomes follow from seeds, so that the figures repeat.
//
// Output: a line for each text, machine and source of costs (times; asked: times of every second round, if they are
// wanted; table: no times), with their names and the means over
// several seeds of
//   auto's tokens per unit of time in units of what a player who knows text and machine reaches, and the least of the
//   seeds, that player's speed on the text's first part in units of plain decoding, auto's speed in units of the best
//   fixed k for the whole text, changes of k and lone tries of the head, both in 1000 rounds and after the first 200,
//   rounds until a changed text is followed, from good to bad and from bad to good.

#include "drafters/draft_length.h"
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

constexpr int kRounds = 2000;
constexpr int kSettled = 200;  // rounds after which changes are counted
constexpr int kPart = 400;     // rounds of one kind of text, where it changes
constexpr int kSeeds = 12;

struct Random {
    uint64_t seed, counter = 0;
    double uniform() { return pmtp::uniform(seed, Purpose::synthetic, counter++); }
    double normal() { return std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform()); }
};

struct Machine {
    const char * name;
    std::array<double, kAutoLimit + 1> cost;  // of a round of k drafts
};

const Machine machines[] = {
    { "cpu",
      { 1, 1.11, 1.22, 1.36, 1.37, 1.43, 1.50, 1.59,
        1.85 } },  // as measured at E2B's shape: nine rows need a second pass
    { "line", { 1, 1.13, 1.24, 1.35, 1.46, 1.57, 1.68, 1.79, 1.90 } },
    { "gpu", { 1, 1.36, 1.58, 1.75, 1.92, 2.06, 2.20, 2.34, 2.50 } },
    { "flat", { 1, 1.20, 1.29, 1.37, 1.43, 1.49, 1.54, 1.60, 1.65 } },
    { "steep", { 1, 1.6, 2.1, 2.6, 3.1, 3.6, 4.1, 4.6, 5.1 } },
    { "tiny", { 1, 2.6, 3.8, 5.0, 6.2, 7.4, 8.6, 9.8, 11.0 } },
};

struct Text {
    const char * name;
    double (*rate)(int position, int part);  // that a draft is accepted if those before it were
    bool changes;
};

const Text texts[] = {
    { ".97", [](int, int) { return 0.97; }, false },
    { ".87", [](int, int) { return 0.87; }, false },
    { ".70", [](int, int) { return 0.70; }, false },
    { ".50", [](int, int) { return 0.50; }, false },
    { ".25", [](int, int) { return 0.25; }, false },
    { ".05", [](int, int) { return 0.05; }, false },
    { "fading", [](int i, int) { return std::max(0.1, 0.85 - 0.15 * i); }, false },
    { "three", [](int i, int) { return i < 3 ? 0.88 : 0.0; }, false },
    { "changing", [](int, int part) { return part % 2 == 0 ? 0.87 : 0.05; }, true },
};

double speed(const Text & text, const Machine & machine, int part, int k) {
    double tokens = 1, product = 1;
    for (int i = 0; i < k; i++) {
        product *= text.rate(i, part);
        tokens += product;
    }
    return tokens / machine.cost[k];
}

double best_speed(const Text & text, const Machine & machine, int part) {
    double best = 0;
    for (int k = 0; k <= kAutoLimit; k++) {
        best = std::max(best, speed(text, machine, part, k));
    }
    return best;
}

// The best speed that one k reaches over all parts.
double best_fixed(const Text & text, const Machine & machine) {
    double best = 0;
    for (int k = 0; k <= kAutoLimit; k++) {
        const double good = speed(text, machine, 0, k), bad = speed(text, machine, 1, k);
        best = std::max(best, text.changes ? (good + bad) / 2 : good);  // as many rounds, and so as much time, of each
    }
    return best;
}

// A round's time as the clock shows it: white noise of 10 %, now and then three times as long, a machine whose speed
// drifts and jumps.
struct Clock {
    Random & random;
    int round = 0;
    double seconds(double cost) {
        const double drift = 0.05 * std::sin(round / 90.0) + (round / 350 % 2 ? 0.1 : 0.0);
        round++;
        return 0.02 * cost * std::exp(drift + 0.1 * random.normal()) * (random.uniform() < 0.02 ? 3 : 1);
    }
};

struct Run {
    double tokens = 0, time = 0, ideal = 0;
    std::vector<int> k;
};

enum Source { times, asked, table };

const char * const source_names[] = { "times", "asked", "table" };

Run run(const Text & text, const Machine & machine, Source source, int tokens_a_text, uint64_t seed) {
    Random random{ seed };
    Clock clock{ random };
    DraftHistory history;
    if (source == table) {
        const double step = (machine.cost[kAutoLimit] - machine.cost[1]) / (kAutoLimit - 1);
        history.costs = RoundCosts(machine.cost[1] - 1 - step, step);
    }
    Run out;
    while ((int) out.k.size() < kRounds) {
        DraftLength length(kDraftAuto, history, source != table);
        for (int left = tokens_a_text; left > 0 && (int) out.k.size() < kRounds;) {
            const int part = text.changes ? (int) out.k.size() / kPart : 0;
            const int k = length.next(kMaxDraft);
            if (k < 0 || k > kAutoLimit) {
                std::abort();
            }
            int accepted = 0;
            while (accepted < k && random.uniform() < text.rate(accepted, part)) {
                accepted++;
            }
            // Graphs are built anew when k changes.
            const double cost = machine.cost[k] + (out.k.empty() || out.k.back() != k ? 0.02 : 0.0);
            const bool told = source != asked || (out.k.size() % 2 == 0 && length.wants_time());
            length.observe(k, accepted, told ? clock.seconds(cost) : 0);
            out.tokens += 1 + accepted;
            out.time += cost;
            out.ideal += cost * best_speed(text, machine, part);
            out.k.push_back(k);
            left -= 1 + accepted;
        }
    }
    return out;
}

// Changes of k after the first rounds. A single round of one draft between two without any is a try, not a change.
void count_changes(const std::vector<int> & k, double & changes, double & tries) {
    for (int i = kSettled; i + 1 < kRounds; i++) {
        if (k[i - 1] == 0 && k[i] == 1 && k[i + 1] == 0) {
            tries++;
            i++;
        } else if (k[i] != k[i - 1]) {
            changes++;
        }
    }
}

// Rounds after a change of the text until ten in a row are within 7 % of the best; kPart if never.
double latency(const Text & text, const Machine & machine, const std::vector<int> & k, int part) {
    int in_a_row = 0;
    for (int i = part * kPart; i < (part + 1) * kPart; i++) {
        in_a_row = speed(text, machine, part, k[i]) > 0.93 * best_speed(text, machine, part) ? in_a_row + 1 : 0;
        if (in_a_row == 10) {
            return i - 9 - part * kPart;
        }
    }
    return kPart;
}

void check(const Text & text, const Machine & machine, Source source) {
    double sum = 0, least = 2, over_fixed = 0, changes = 0, tries = 0, to_bad = 0, to_good = 0;
    for (int seed = 1; seed <= kSeeds; seed++) {
        const Run r = run(text, machine, source, seed % 2 ? 300 : 100000, seed);
        sum += r.tokens / r.ideal;
        over_fixed += r.tokens / r.time / best_fixed(text, machine) / kSeeds;
        least = std::min(least, r.tokens / r.ideal);
        count_changes(r.k, changes, tries);
        for (int part = 1; text.changes && part < kRounds / kPart; part++) {
            (part % 2 ? to_bad : to_good) += latency(text, machine, r.k, part) / 2;  // two of each
        }
    }
    std::printf("%s %s %s %.4f %.4f %.4f %.4f %.2f %.2f %.1f %.1f\n", text.name, machine.name, source_names[source],
                sum / kSeeds, least, best_speed(text, machine, 0), over_fixed,
                1000 * changes / kSeeds / (kRounds - kSettled), 1000 * tries / kSeeds / (kRounds - kSettled),
                to_bad / kSeeds, to_good / kSeeds);
}

}  // namespace

int main() {
    for (const Text & text : texts) {
        for (const Machine & machine : machines) {
            for (const Source source : { times, asked, table }) {
                check(text, machine, source);
            }
        }
    }
}
