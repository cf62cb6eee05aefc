// The few tokens of a row of logits that can be chosen. A device finds them where the logits lie, so that kilobytes
// cross to the host instead of a megabyte a row; whoever chooses from them notices if they do not suffice and asks for
// the row.
#pragma once

#include <cstdint>

namespace pmtp {

// Most tokens that cross back for a row.
constexpr int kCandidates = 256;
// Most logits that a draft is drawn from directly.
constexpr int kMaxDrawnLogits = 4096;
// Bins of the histogram of rank values that the kernels look for the candidates with.
constexpr int kCandidateBins = 4096;
// Bins for a difference of 1 in rank value.
constexpr int kCandidateBinsPerUnit = 64;

// How a device chooses; read by its kernels, so it travels in a tensor.
struct ChoiceParams {
    uint64_t key;  // of the noise, see noise.h
    float scale;   // 1 / temperature
    float min_z;   // natural logarithm of min_p; -inf without
    float top_p;
    int32_t top_k;  // 0: all
    int32_t noisy;  // candidates are ranked by logit * scale + Gumbel noise instead of by their logit
    int32_t padding;
};
constexpr int kChoiceWords = sizeof(ChoiceParams) / 4;
static_assert(kChoiceWords == 8, "one layout on both sides");

// Every token whose rank value lies less than n_bins / kCandidateBinsPerUnit below the largest one: as many bins as
// hold kCandidates tokens or fewer.
struct Candidates {
    int32_t n;
    int32_t n_bins;
    float max;                   // rank value of the best token
    float total;                 // sum of e^((logit - max) * scale) over the whole row; unless noisy
    int32_t token[kCandidates];  // ascending
    float logit[kCandidates];
};
constexpr int kCandidatesWords = sizeof(Candidates) / 4;

// Fills `out` from a row of n logits, by plain loops: it is what the kernels in csrc/kernels/choice are compared with.
// mask: bit t % 32 of word t / 32 is 1 where token t may be chosen; nullptr: all may. A token that may not counts as
// one whose logit is -inf.
void find_candidates(const float * logits, int n, const ChoiceParams & params, const uint32_t * mask, Candidates & out);

// What the kernels keep behind the results while they look for them.
constexpr int kCandidateBlocks = 32;
struct CandidatesScratch {
    float max[kCandidateBlocks];
    float sum[kCandidateBlocks];
    int32_t count[kCandidateBlocks];
    uint32_t histogram[kCandidateBins];
};
constexpr int kCandidatesRowWords = (sizeof(Candidates) + sizeof(CandidatesScratch)) / 4;

}  // namespace pmtp
