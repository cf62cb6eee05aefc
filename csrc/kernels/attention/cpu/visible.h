// Which cells the rows of a tile see, and what the mask adds to their logits.
#pragma once

#include "kernels/attention/pages.h"
#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace pmtp::attention {

constexpr int kCells = kPage;  // of a tile
static_assert(kCells % cpu::kLanes == 0, "no remainders");

// n_rows mask rows for the cells first .. first + n, [n_rows][kCells]. Returns a bit a cell: some row sees it.
inline uint64_t gather_masks(const char * const * rows, int n_rows, int64_t first, int n, float * masks) {
    using namespace cpu;
    const Float hidden = broadcast(-INFINITY);
    uint64_t visible = 0;
    for (int r = 0; r < n_rows; r++) {
        float * mask = masks + r * kCells;
        if (rows[r] == nullptr) {
            std::fill_n(mask, n, 0.0f);
            std::fill(mask + n, mask + kCells, -INFINITY);
            visible |= ~(uint64_t) 0 >> (kCells - n);
            continue;
        }
        const uint16_t * halves = (const uint16_t *) rows[r] + first;
        int t = 0;
        for (; t + kLanes <= n; t += kLanes) {
            const Float x = load_halves(halves + t);
            store(mask + t, x);
            visible |= (uint64_t) lanes_that_differ(x, hidden) << t;
        }
        for (; t < kCells; t++) {
            mask[t] = t < n ? half_to_float(halves[t]) : -INFINITY;
            visible |= (uint64_t) (mask[t] != -INFINITY) << t;
        }
    }
    return visible;
}

}  // namespace pmtp::attention
