// What a step of the draft graph that samples needs beside the logits.
#pragma once

#include "sampling/distribution.h"

#include <vector>

namespace pmtp {

struct StepDraw {
    Warp warp;
    Noise noise{ 0, Purpose::draft, 0 };
    bool tabulate = false;  // independent draws: acceptance needs q
    Distribution distribution;
    std::vector<WeightedToken> q;
};

}  // namespace pmtp
