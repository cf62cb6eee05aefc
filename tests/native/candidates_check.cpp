// Chooses tokens from the candidates of rows of logits and from the whole rows, and compares. Run by
// test_candidates.py, which reads the lines: name, rows, rows whose candidates were enough, of those the ones that
// differ in any draw, probability or total.
#include "sampling/candidates.h"
#include "sampling/distribution.h"

#include <cmath>
#include <cstdio>
#include <random>

using namespace pmtp;

namespace {

constexpr int kVocab = 20000;
constexpr int kRows = 40;
constexpr int kDraws = 50;

struct Case {
    const char * name;
    Warp warp;
    bool noisy;
    float deviation;     // of the logits
    int allowed_of = 0;  // one token in so many is allowed; 0: there is no mask
};

bool near(double a, double b) { return std::abs(a - b) <= 1e-5 * std::max(a, b); }

// Whether a row's candidates choose what the row chooses.
bool agrees(Distribution & row, Distribution & candidates, const std::vector<float> & logits, uint64_t key) {
    bool same = true;
    for (int i = 0; i < kDraws; i++) {
        const Noise noise(key, Purpose::residual, i);
        same = same && row.draw(noise) == candidates.draw(noise);
    }
    for (int token = 0; token < (int) logits.size(); token += 7) {
        same = same && near(row.probability(token), candidates.probability(token));
    }
    // without the most probable token and one that is no candidate
    const std::vector<WeightedToken> taken = { { row.most_probable(), 1.0 },
                                               { (row.most_probable() + 1) % kVocab, 1.0 } };
    const double before = row.total() / candidates.total();
    row.remove(taken);
    candidates.remove(taken);
    return same && near(before, 1) && std::abs(row.total() - candidates.total()) < 1e-5;
}

void run(const Case & c, std::mt19937 & random) {
    int enough = 0, different = 0;
    for (int i = 0; i < kRows; i++) {
        std::normal_distribution<float> normal(0, c.deviation);
        std::vector<float> logits(kVocab);
        for (float & x : logits) {
            x = i % 4 == 0 ? std::round(normal(random)) : normal(random);  // some with many equal ones
        }
        const Noise noise(i, Purpose::token, 100 + i);
        std::vector<uint32_t> mask((kVocab + 31) / 32);
        for (int token = 0; token < kVocab && c.allowed_of > 0; token++) {
            mask[token / 32] |= (uint32_t) (random() % c.allowed_of == 0) << token % 32;
        }
        Candidates candidates;
        find_candidates(logits.data(), kVocab, c.warp.choice(noise.key(), c.noisy),
                        c.allowed_of > 0 ? mask.data() : nullptr, candidates);
        for (int token = 0; token < kVocab && c.allowed_of > 0; token++) {
            logits[token] = mask[token / 32] >> token % 32 & 1 ? logits[token] : kForbidden;
        }
        Distribution from_row, from_candidates;
        from_row.assign(logits.data(), nullptr, kVocab, c.warp);
        if (!from_candidates.assign(candidates, c.warp, c.noisy)) {
            continue;
        }
        enough++;
        different += !(c.noisy ? from_row.draw(noise) == from_candidates.draw(noise)
                               : agrees(from_row, from_candidates, logits, i));
    }
    printf("%s %d %d %d\n", c.name, kRows, enough, different);
}

}  // namespace

int main() {
    const Case cases[] = {
        { "top_p", { 0.6, 0.95 }, false, 4 },          { "top_p-flat", { 1.5, 0.99 }, false, 1 },
        { "top_k", { 1.0, 1.0, 0.0, 64 }, false, 2 },  { "top_k-top_p", { 1.0, 0.95, 0.0, 64 }, false, 2 },
        { "min_p", { 1.0, 1.0, 0.05 }, false, 4 },     { "min_p-top_p-large-top_k", { 1.0, 0.9, 0.05, 250 }, false, 4 },
        { "temperature", { 1.0 }, true, 2 },           { "temperature-low", { 0.02 }, true, 2 },
        { "temperature-tiny", { 0.0005 }, true, 2 },   { "masked-top_p", { 0.6, 0.95 }, false, 4, 2 },
        { "masked-temperature", { 1.0 }, true, 2, 5 }, { "masked-min_p", { 1.0, 1.0, 0.05 }, false, 4, 500 },
        { "masked-greedy", { 0.0 }, false, 4, 50 },
    };
    std::mt19937 random(1);
    for (const Case & c : cases) {
        run(c, random);
    }
    // rows that are not numbers
    std::vector<float> logits(kVocab, NAN);
    Candidates candidates;
    Distribution distribution;
    find_candidates(logits.data(), kVocab, Warp{ 1.0 }.choice(0, false), nullptr, candidates);
    const bool none = distribution.assign(candidates, { 1.0, 0.9 }, false);
    logits[5] = INFINITY;
    find_candidates(logits.data(), kVocab, Warp{ 1.0 }.choice(0, false), nullptr, candidates);
    printf("not-numbers 2 %d 0\n", none + distribution.assign(candidates, { 1.0, 0.9 }, false));
    // a mask that allows nothing
    const std::vector<uint32_t> mask((kVocab + 31) / 32);
    logits.assign(kVocab, 1.0f);
    find_candidates(logits.data(), kVocab, Warp{ 1.0 }.choice(0, false), mask.data(), candidates);
    printf("nothing-allowed 1 %d 0\n", distribution.assign(candidates, { 1.0, 0.9 }, false));
}
