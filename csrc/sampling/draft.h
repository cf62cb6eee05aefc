// Drafts, and how they are drawn.
#pragma once

#include "sampling/distribution.h"

#include <cstdint>
#include <vector>

namespace pmtp {

// Most tokens drafted in one round.
constexpr int kMaxDraft = 16;

// How drafts are drawn from the head's distribution.
enum class Draw {
    greedy,   // the most probable token
    coupled,  // under the noise that the target draws its own token with, so that the two agree as often as they can
    independent,  // under noise of their own; the distribution is returned with the draft
};

struct Draft {
    int32_t token;
    std::vector<WeightedToken> q;  // what it was drawn from; empty unless the draw was independent
};

// What a step of the draft graph that samples needs beside the logits.
struct StepDraw {
    Warp warp;
    Noise noise{ 0, Purpose::draft, 0 };
    bool tabulate = false;  // independent draws: acceptance needs q
    Distribution distribution;
    std::vector<WeightedToken> q;
    bool out_of_memory = false;  // nothing was drawn
};

}  // namespace pmtp
