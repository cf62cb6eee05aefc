// The softmax of some columns over a part of the cells, as far as it has been taken; unnormalised.
#pragma once

#include "kernels/attention/plan.h"
#include "kernels/cpu/simd.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace pmtp::attention {

// Buffers begin at cache lines: vectors across two lines took the kernel up to 1.7 times as long.
constexpr size_t kLine = kAlignment / sizeof(float);
constexpr size_t lined(size_t n) { return (n + kLine - 1) / kLine * kLine; }

struct State {
    float * max;     // [columns], of the logits
    float * sum;     // [columns], of e^(logit - max); 0: nothing seen, and the values are not set
    float * values;  // [columns][head size], sums of e^(logit - max) v

    State(float * base, int columns) : max(base), sum(base + lined(columns)), values(base + 2 * lined(columns)) {}

    static size_t size(int columns, int head_size) { return 2 * lined(columns) + lined((size_t) columns * head_size); }
};

// One column's state with that of later cells. One definition, never inlined, so that it always rounds alike.
__attribute__((noinline)) inline void merge_column(float & max, float & sum, float * values, float other_max,
                                                   float other_sum, const float * other, int size) {
    if (other_sum == 0.0f) {
        return;
    }
    if (sum == 0.0f) {
        max = other_max;
        sum = other_sum;
        std::copy(other, other + size, values);
        return;
    }
    const float new_max = std::max(max, other_max);
    const float ours = std::exp(max - new_max), theirs = std::exp(other_max - new_max);
    sum = sum * ours + other_sum * theirs;
    max = new_max;
    const cpu::Float a = cpu::broadcast(ours), b = cpu::broadcast(theirs);
    for (int d = 0; d < size; d += cpu::kLanes) {
        cpu::store(values + d, cpu::fma(cpu::load_floats(values + d), a, cpu::load_floats(other + d) * b));
    }
}

}  // namespace pmtp::attention
