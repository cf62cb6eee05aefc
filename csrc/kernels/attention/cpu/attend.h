// Attention of a tile of columns (query rows times the heads of a group) over a chunk of positions, on one thread.
#pragma once

#include "kernels/attention/cpu/state.h"
#include "kernels/attention/cpu/visible.h"
#include "kernels/attention/plan.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace pmtp::attention {

// Columns that are multiplied at a time; a tile of more than two is padded to a multiple.
constexpr int kColumns = 4;
constexpr int padded(int columns) { return columns <= 2 ? columns : (columns + kColumns - 1) / kColumns * kColumns; }

// Cells that are decoded at a time.
constexpr int kDecoded = cpu::kLanes;

// A thread's buffers.
struct Scratch {
    float * q;        // [columns][K head size], for queries that do not lie so
    float * weights;  // [columns][kCells]: logits, then e^(logit - max)
    float * factors;  // [columns]
    float * masks;    // [mask rows][kCells]
    float * decoded;  // [kDecoded][K head size], or [kCells][64] of V

    Scratch(float * base, int columns, int k_size)
        : q(base),
          weights(q + lined((size_t) columns * k_size)),
          factors(weights + columns * kCells),
          masks(factors + lined(columns)),
          decoded(masks + columns * kCells) {}

    static size_t size(int columns, int k_size) {
        return lined((size_t) columns * k_size) + 2 * columns * kCells + lined(columns) +
               lined(std::max(kDecoded * k_size, kCells * 64));
    }
};

// Where a sequence's pages lie.
struct Places {
    const int32_t * first_cells;  // from first_page on, or null: page p has cells from p * kCells on
    int64_t first_page;

    int64_t first_cell(int64_t page) const {
        return first_cells != nullptr ? first_cells[page - first_page] : page * kCells;
    }
};

struct Chunk {
    const Task & task;
    Places places;
    const char * k;
    const char * v;
    const float * q;  // [padded columns][K head size], zeros behind the columns
    int columns, group;
    const char * const * masks;  // [mask rows]
    bool mask_a_column;          // a mask row a column; else one a query row
    Scratch scratch;
    State state;

    // The state of pages begin .. end.
    void attend(int64_t begin, int64_t end) const;

  private:
    template <int C> void attend_columns(int64_t begin, int64_t end) const;
    template <int C> void score(int64_t first, int n, uint64_t visible) const;
    template <int C> void sum_values(int64_t first, uint64_t visible, int64_t next) const;
    void soften_columns() const;
};

}  // namespace pmtp::attention
