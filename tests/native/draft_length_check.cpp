// Simulates rounds with given acceptance and noisy costs, and prints what "auto" made of them.
//
// Output: one line a scenario and cost curve: "NAME CURVE AUTO PLAIN BEST SWITCHES", where AUTO, PLAIN and BEST are tokens per unit of time of auto,
// of plain decoding and of the best fixed k, and SWITCHES counts changes of k per 1000 rounds.

#include "draft_length.h"
#include "noise.h"

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

using namespace pmtp;

namespace {

struct Random {
    uint64_t counter = 0;
    double uniform() { return pmtp::uniform(7, Purpose::synthetic, counter++); }
    double normal() {  // Irwin and Hall
        double sum = -6;
        for (int i = 0; i < 12; i++) {
            sum += uniform();
        }
        return sum;
    }
};

struct Curve {
    const char * name;
    double draft;   // any draft at all, in units of a round without
    double step;    // one more
    double cost(int k) const { return 1 + (k > 0 ? draft : 0) + step * k; }
};

struct Scenario {
    const char * name;
    // conditional acceptance at a position, at a share 0..1 of the text
    double (*rate)(int position, double when);
};

struct Outcome {
    double tokens = 0, time = 0;
    int switches = 0;
    double speed() const { return tokens / time; }
};

// fixed: a k, or PMTP_DRAFT_AUTO. Texts of 200 tokens on one model, as many as make n rounds.
Outcome run(const Scenario & s, const Curve & c, int fixed, int n, bool learns, double noise) {
    Random random;
    RoundCosts costs(c.step);
    if (learns) {
        costs = RoundCosts(0.15);
    }
    Outcome out;
    int last = -1;
    DraftLength length(fixed, costs, learns);
    for (int i = 0; i < n; i++) {
        const int k = length.next(PMTP_MAX_DRAFT);
        int accepted = 0;
        while (accepted < k && random.uniform() < s.rate(accepted, (double) i / n)) {
            accepted++;
        }
        const double drift = 1 + 0.1 * (i / 500 % 2);  // the machine is slower now and then
        double seconds = 0.01 * c.cost(k) * drift * (1 + noise * random.normal());
        if (k != last) {
            seconds *= 1.03;  // graphs are built anew
        }
        if (random.uniform() < 0.01) {
            seconds *= 3;  // the machine did something else
        } 
        length.observe(k, accepted, std::max(1e-6, seconds));
        out.tokens += 1 + accepted;
        out.time += c.cost(k);
        out.switches += last >= 0 && k != last;
        last = k;
    }
    return out;
}

}  // namespace

int main() {
    const Curve curves[] = { { "cpu", 0.02, 0.11 }, { "gpu", 0.35, 0.14 }, { "steep", 0.1, 0.6 }, { "tiny", 0.5, 1.2 } };
    const Scenario scenarios[] = {
        { "good", [](int i, double) { return 0.88 - 0.01 * i; } },
        { "fading", [](int i, double) { return std::max(0.1, 0.85 - 0.15 * i); } },
        { "middling", [](int, double) { return 0.5; } },
        { "bad", [](int, double) { return 0.03; } },
        { "changing", [](int, double when) { return (int) (when * 4) % 2 == 0 ? 0.88 : 0.03; } },
    };
    constexpr int n = 4000;
    for (const Scenario & s : scenarios) {
        for (const Curve & c : curves) {
            double best = 0;
            for (int k = 0; k <= kAutoLimit; k++) {
                best = std::max(best, run(s, c, k, n, true, 0).speed());
            }
            for (const bool learns : { true, false }) {
                const Outcome a = run(s, c, PMTP_DRAFT_AUTO, n, learns, 0.05);
                std::printf("%s %s %d %.4f %.4f %.4f %.1f\n", s.name, c.name, learns, a.speed(), run(s, c, 0, n, true, 0).speed(), best,
                            1000.0 * a.switches / n);
            }
        }
    }
}
