// Runs the acceptance rules over a small Markov chain as target, with heads that are right, wrong, constant, noisy or
// see a part of the vocabulary only. For every case and many seeds it prints how often each beginning of four tokens
// was generated.
//
// Output lines: "case RULE HEAD WARP LENGTH ACCEPTED DRAFTED", then for it "A B C D COUNT" lines.
// The chain, the head and the options are those of test_acceptance.py.

#include "sampling/acceptance.h"

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

using namespace pmtp;

namespace {

constexpr int kVocab = 6;
constexpr int kLength = 4;
constexpr int kDrafts = 3;

double table(uint64_t salt, int previous, int token) { return uniform(salt, Purpose::token, previous * 100 + token); }

void target_logits(int previous, float * logits) {
    for (int t = 0; t < kVocab; t++) {
        logits[t] = (float) (4 * table(1, previous, t));
    }
}

// What the head believes; ids: the tokens of its candidates.
struct Belief {
    std::vector<float> logits;
    std::vector<int32_t> ids;
};

Belief believe(const std::string & head, int previous) {
    Belief b{ std::vector<float>(kVocab), {} };
    target_logits(previous, b.logits.data());
    for (int t = 0; t < kVocab; t++) {
        if (head == "wrong") {
            b.logits[t] *= -1;
        } else if (head == "constant") {
            b.logits[t] = t == 5 ? 0 : kForbidden;
        } else if (head == "noisy") {
            b.logits[t] += (float) (3 * table(2, previous, t));
        }
    }
    if (head == "partial") {  // every other token
        for (int t = 0; 2 * t < kVocab; t++) {
            b.logits[t] = b.logits[2 * t];
            b.ids.push_back(2 * t);
        }
        b.logits.resize(b.ids.size());
    }
    return b;
}

// What a grammar allows.
bool may_follow(int previous, int token) { return (previous + 2 * token) % 3 != 0; }

// A grammar's masks of the tokens after the drafts, which it cuts behind the first that it refuses, as Sequence does.
std::vector<uint32_t> constrain(std::vector<Draft> & drafts, int last) {
    std::vector<uint32_t> masks;
    for (size_t i = 0;; i++) {
        const int previous = i == 0 ? last : drafts[i - 1].token;
        masks.push_back(0);
        for (int t = 0; t < kVocab; t++) {
            masks.back() |= (uint32_t) may_follow(previous, t) << t;
        }
        if (i == drafts.size() || !may_follow(previous, drafts[i].token)) {
            drafts.resize(std::min(drafts.size(), i + 1));
            return masks;
        }
    }
}

SamplingParams params(const std::string & warp) {
    SamplingParams p;
    if (warp == "top_p") {
        p.warp = { 0.8, 0.7, 0.0, 0 };
    } else if (warp == "penalties") {
        p.warp = { 1.0, 1.0, 0.02, 5 };
        p.repetition_penalty = 1.5;
        p.presence_penalty = 0.7;
        p.frequency_penalty = 0.4;
        p.logit_bias = { { 3, 1.0f } };
    }
    return p;
}

// length: "fixed", or "varying": k follows from outcomes, and a draft ends where the head is not sure before it draws.
struct Run {
    std::string rule, head, warp, length;
    int accepted = 0, drafted = 0;

    void generate(Rule acceptance_rule, uint64_t seed, std::array<int, kLength> & out) {
        const int32_t prompt = 0;
        Sampler sampler(params(warp), kVocab, &prompt, 1);
        Acceptance acceptance(acceptance_rule, sampler.params().warp, seed, false, false, {});
        int k = 0;
        int last = prompt;
        while ((int) sampler.generated().size() < kLength) {
            std::vector<Draft> drafts;
            int previous = last;
            for (int i = 0; i < k; i++) {
                Belief b = believe(head, previous);
                Distribution q;
                q.assign(b.logits.data(), b.ids.empty() ? nullptr : b.ids.data(), (int) b.logits.size(),
                         sampler.params().warp);
                std::vector<WeightedToken> all;
                q.tabulate(all);
                double best = 0;
                for (const WeightedToken & w : all) {
                    best = std::max(best, w.p);
                }
                if (length == "varying" && best < 0.25) {
                    break;
                }
                Draft draft;
                switch (acceptance.draw()) {
                    case Draw::greedy: draft.token = q.most_probable(); break;
                    case Draw::coupled:
                        draft.token = q.draw(Noise(seed, Purpose::token, sampler.position() + i));
                        break;
                    case Draw::independent:
                        draft.token = q.draw(Noise(seed, Purpose::draft, acceptance.draft_counter() + i));
                        draft.q = all;
                }
                previous = draft.token;
                drafts.push_back(draft);
            }
            std::vector<uint32_t> masks;
            if (warp == "masked") {
                masks = constrain(drafts, last);
            }
            const size_t n_rows = masks.empty() ? drafts.size() + 1 : masks.size();
            std::vector<std::array<float, kVocab>> memory(n_rows);
            std::vector<TargetRow> rows;
            previous = last;
            for (size_t i = 0; i < n_rows; i++) {
                target_logits(previous, memory[i].data());
                rows.push_back({ memory[i].data() });
                rows.back().mask = masks.empty() ? nullptr : &masks[i];
                previous = i < drafts.size() ? drafts[i].token : 0;
            }
            acceptance.begin(sampler, drafts, rows);
            int n = 0;
            Choice choice;
            do {
                choice = acceptance.next(sampler);
                n += choice.accepted;
            } while (choice.accepted);
            accepted += n;
            drafted += (int) drafts.size();
            last = choice.token;
            k = length == "fixed" ? kDrafts : (k + 1 + n + last) % (kDrafts + 1);
        }
        std::copy_n(sampler.generated().begin(), kLength, out.begin());
    }
};

}  // namespace

int main(int, char ** argv) {
    const int samples = std::atoi(argv[1]);
    const std::map<std::string, Rule> rules = { { "coupled", Rule::coupled },
                                                { "rejection", Rule::rejection },
                                                { "rejection_greedy", Rule::rejection_greedy },
                                                { "block", Rule::block } };
    for (const auto & [name, rule] : rules) {
        for (const char * head : { "right", "wrong", "constant", "noisy", "partial" }) {
            for (const char * warp : { "temperature", "top_p", "penalties", "masked" }) {
                for (const char * length : { "fixed", "varying" }) {
                    Run run{ name, head, warp, length };
                    std::map<std::array<int, kLength>, int> counts;
                    for (int seed = 0; seed < samples; seed++) {
                        std::array<int, kLength> tokens;
                        run.generate(rule, seed, tokens);
                        counts[tokens]++;
                    }
                    std::printf("case %s %s %s %s %d %d\n", name.c_str(), head, warp, length, run.accepted,
                                run.drafted);
                    for (const auto & [t, count] : counts) {
                        std::printf("%d %d %d %d %d\n", t[0], t[1], t[2], t[3], count);
                    }
                }
            }
        }
    }
}
