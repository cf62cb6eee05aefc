// Compares the kernels of csrc/kernels/choice/cuda/candidates.cu and draw.cu with plain loops and with the library's
// own distributions. Built and run by test_kernels.py.
#include "kernels/choice/cuda/candidates.cuh"
#include "device.cuh"
#include "sampling/distribution.h"
#include "kernels/choice/cuda/draw.cuh"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

using namespace pmtp;

namespace {

int failures = 0;

void expect(bool condition, const char * what, const char * where) {
    if (!condition) {
        printf("%s: %s\n", where, what);
        failures++;
    }
}

enum Values { normal, few_distinct, with_odd_ones, no_numbers };

std::vector<float> draw_logits(size_t n, Values values, std::mt19937 & random) {
    std::normal_distribution<float> distribution(0, 3);
    std::vector<float> x(n);
    for (float & v : x) {
        v = distribution(random);
        if (values == few_distinct) {
            v = std::round(v);
        }
        if (values == with_odd_ones && random() % 64 == 0) {
            v = random() % 2 ? -INFINITY : NAN;
        }
        if (values == no_numbers) {
            v = random() % 2 ? -INFINITY : NAN;
        }
    }
    return x;
}

bool allowed(const uint32_t * mask, int token) {
    return mask == nullptr || (mask[token / 32] >> (token % 32) & 1) != 0;
}

// Masks that allow none, one in eight, half or nearly all of the tokens.
std::vector<uint32_t> draw_masks(int n, int n_rows, std::mt19937 & random) {
    const size_t n_words = (n + 31) / 32;
    std::vector<uint32_t> masks(n_words * n_rows);
    for (size_t i = 0; i < masks.size(); i++) {
        const uint32_t a = random(), b = random(), c = random();
        const uint32_t kinds[] = { a & b & c, 0, a, a | b | c };
        masks[i] = kinds[i / n_words % 4];
    }
    return masks;
}

void check_row(const Candidates & ours, const float * logits, int n, const ChoiceParams & params, const uint32_t * mask,
               const char * where) {
    Candidates plain;
    find_candidates(logits, n, params, mask, plain);
    if (!std::isfinite(plain.max)) {
        expect(ours.max == plain.max && ours.n == 0, "a row without numbers", where);
        return;
    }
    expect(std::abs(ours.max - plain.max) <= (params.noisy ? 1e-4f * params.scale : 0.0f), "max", where);
    expect(ours.n >= 0 && ours.n <= kCandidates, "n", where);
    expect(std::is_sorted(ours.token, ours.token + ours.n), "order", where);
    for (int i = 0; i < ours.n; i++) {
        expect(ours.token[i] >= 0 && ours.token[i] < n && logits[ours.token[i]] == ours.logit[i], "logit", where);
        expect(allowed(mask, ours.token[i]), "a token that is not allowed", where);
    }
    if (!params.noisy) {
        expect(std::abs(ours.total - plain.total) <= 1e-5f * plain.total, "total", where);
        expect(ours.n == plain.n && ours.n_bins == plain.n_bins, "n and n_bins", where);
        expect(std::equal(ours.token, ours.token + ours.n, plain.token), "tokens", where);
        return;
    }
    // Ranks are rounded, so a token at the edge may be on either side of it.
    const float edge = plain.max - ours.n_bins / (float) kCandidateBinsPerUnit;
    for (int i = 0; i < n; i++) {
        const float rank = logits[i] * params.scale + (float) Noise::gumbel(token_bits(params.key, i));
        const bool found = std::binary_search(ours.token, ours.token + ours.n, i);
        if (!allowed(mask, i)) {
            continue;
        }
        expect(!(rank > edge + 1e-3f * params.scale) || found, "a token that can be chosen is missing", where);
        expect(!(rank < edge - 1e-3f * params.scale) || !found, "a token that cannot be chosen", where);
    }
}

void check_candidates(std::mt19937 & random, bool quick) {
    for (const int n : { quick ? 9000 : 262144, 5000, 37 }) {
        for (const int n_rows : { 1, quick ? 2 : 4, quick ? 3 : 9 }) {
            for (const Values values : { normal, few_distinct, with_odd_ones, no_numbers }) {
                for (const int kind : { 0, 1, 2, 3 }) {
                    const bool noisy = kind % 2 == 1, masked = kind >= 2;
                    const std::vector<float> logits = draw_logits((size_t) n * n_rows, values, random);
                    std::vector<ChoiceParams> params;
                    for (int row = 0; row < n_rows; row++) {
                        params.push_back(Warp{ row % 2 ? 1.0 : 0.3 }.choice(mix_bits(row + n), noisy));
                    }
                    const std::vector<uint32_t> masks = draw_masks(n, n_rows, random);
                    const DeviceArray<float> x(logits);
                    const DeviceArray<uint32_t> m(masks);
                    const DeviceArray<ChoiceParams> p(params);
                    const DeviceArray<Candidates> out(n_rows);
                    const DeviceArray<CandidatesScratch> scratch(n_rows);
                    pmtp_cuda_candidates(x.get(), p.get(), masked ? m.get() : nullptr, out.get(), scratch.get(), n,
                                         n_rows, nullptr);
                    const std::vector<Candidates> rows = out.host();
                    char where[100];
                    snprintf(where, sizeof(where), "candidates: n %d, rows %d, values %d, noisy %d, masked %d", n,
                             n_rows, values, noisy, masked);
                    for (int row = 0; row < n_rows; row++) {
                        check_row(rows[row], logits.data() + (size_t) row * n, n, params[row],
                                  masked ? &masks[(size_t) row * ((n + 31) / 32)] : nullptr, where);
                    }
                }
            }
        }
    }
}

// How many of the draws differ from the library's.
int check_draws(const std::vector<float> & logits, const std::vector<int32_t> & ids, const Warp & warp,
                bool from_candidates, int n_draws, const char * where) {
    const int n = (int) logits.size();
    const int n_table = from_candidates ? kCandidates : n;
    const DeviceArray<float> x(logits);
    const DeviceArray<int32_t> device_ids(ids);
    const DeviceArray<Candidates> candidates(1);
    const DeviceArray<CandidatesScratch> scratch(1);
    int different = 0;
    for (int i = 0; i < n_draws; i++) {
        const Noise noise(i, Purpose::draft, n);
        const DeviceArray<ChoiceParams> params(std::vector<ChoiceParams>{ warp.choice(noise.key(), false) });
        const DeviceArray<int32_t> out(1 + 2 * n_table);
        if (from_candidates) {
            pmtp_cuda_candidates(x.get(), params.get(), nullptr, candidates.get(), scratch.get(), n, 1, nullptr);
            pmtp_cuda_draw(nullptr, nullptr, 0, candidates.get(), params.get(), out.get(), n_table, nullptr);
        } else {
            pmtp_cuda_draw(x.get(), ids.empty() ? nullptr : device_ids.get(), n, nullptr, params.get(), out.get(),
                           n_table, nullptr);
        }
        const std::vector<int32_t> result = out.host();
        std::vector<float> copy = logits;
        Distribution distribution;
        if (!distribution.assign(copy.data(), ids.empty() ? nullptr : ids.data(), n, warp)) {
            expect(result[0] == 0, "a draw from no numbers", where);
            continue;
        }
        different += distribution.draw(noise) != result[0];
        if (i > 0) {
            continue;
        }
        std::vector<WeightedToken> table;
        distribution.tabulate(table);
        std::sort(table.begin(), table.end(), [](const auto & a, const auto & b) { return a.token < b.token; });
        double sum = 0;
        size_t support = 0;
        for (int j = 0; j < n_table; j++) {
            float p;
            memcpy(&p, &result[1 + j], sizeof(p));
            const int32_t token = result[1 + n_table + j];
            sum += p;
            if (p > 0) {
                support++;
                const auto found = std::lower_bound(table.begin(), table.end(), token,
                                                    [](const auto & a, int32_t t) { return a.token < t; });
                expect(found != table.end() && found->token == token && std::abs(found->p - p) < 2e-5 + 1e-3 * found->p,
                       "probability", where);
            }
        }
        expect(std::abs(sum - 1) < 1e-4, "sum of probabilities", where);
        expect(support == table.size(), "support", where);
    }
    return different;
}

void check_draw(std::mt19937 & random, bool quick) {
    const int n_draws = quick ? 2 : 100;
    const Warp warps[] = {
        { 1.0 }, { 0.6, 0.95 }, { 1.0, 1.0, 0.05 }, { 1.0, 1.0, 0.0, 40 }, { 0.8, 0.9, 0.01, 64 }, { 0.01, 0.5 }
    };
    for (const int n : { 4096, 1000, 7 }) {
        for (const Values values : { normal, with_odd_ones, no_numbers }) {
            for (const Warp & warp : warps) {
                std::vector<int32_t> ids(n);
                for (int i = 0; i < n; i++) {
                    ids[i] = 3 * i + 11;
                }
                std::shuffle(ids.begin(), ids.end(), random);
                char where[100];
                snprintf(where, sizeof(where), "draw: n %d, values %d, temperature %g, top_p %g", n, values,
                         warp.temperature, warp.top_p);
                const int different =
                    check_draws(draw_logits(n, values, random), n == 1000 ? std::vector<int32_t>{} : ids, warp, false,
                                n_draws, where);
                expect(different <= 1, "other tokens than the library draws", where);
            }
        }
    }
    // a whole vocabulary, by way of its candidates, which hold the support
    for (const Warp & warp : { Warp{ 0.3, 0.9 }, Warp{ 1.0, 1.0, 0.2 }, Warp{ 1.0, 0.9, 0.0, 64 } }) {
        const int different = check_draws(draw_logits(quick ? 9000 : 262144, normal, random), {}, warp, true, n_draws,
                                          "draw from a vocabulary");
        expect(different <= (warp.top_p < 1 && warp.top_k == 0 ? std::max(1, n_draws / 4) : 1),
               "other tokens than the library draws", "a vocabulary");
    }
}

}  // namespace

// An argument asks for small sizes: under compute-sanitizer everything takes long.
int main(int n_arguments, char **) {
    std::mt19937 random(1);
    check_candidates(random, n_arguments > 1);
    check_draw(random, n_arguments > 1);
    printf(failures == 0 ? "ok\n" : "%d failures\n", failures);
    return failures != 0;
}
