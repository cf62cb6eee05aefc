#include "kernels/attention/masks.h"

#include "ggml.h"

#include <algorithm>
#include <cmath>

namespace pmtp::attention {
namespace {

// Minus infinity, as a half.
constexpr uint16_t kHiddenHalf = 0xfc00;

template <typename T> void fill_row(const llama_kv_cells & cells, llama_seq_id sequence, int64_t first, int64_t last,
                                    T * __restrict row, int64_t n_kv, T hidden) {
    const int32_t * holders = cells.holders().data();
    const llama_pos * positions = cells.positions();
    const int32_t only = CellHolders::only(sequence);
    const auto low = (llama_pos) std::max<int64_t>(first, 0);
    const auto high = (llama_pos) last;
    for (int64_t i = 0; i < n_kv; i++) {
        const bool seen = (holders[i] == only) & (positions[i] >= low) & (positions[i] <= high);
        row[i] = seen ? T(0) : hidden;
    }
    for (int64_t i = 0; cells.holders().any_shared() && i < n_kv; i++) {
        if (cells.holders().is_shared(i) && cells.seq_has(i, sequence) && positions[i] >= low && positions[i] <= high) {
            row[i] = T(0);
        }
    }
}

}  // namespace

void fill_mask_row(const llama_kv_cells & cells, llama_seq_id sequence, int64_t first, int64_t last, uint16_t * halves,
                   int64_t n_kv) {
    fill_row(cells, sequence, first, last, halves, n_kv, kHiddenHalf);
}

void fill_mask_row(const llama_kv_cells & cells, llama_seq_id sequence, int64_t first, int64_t last, float * row,
                   int64_t n_kv) {
    fill_row(cells, sequence, first, last, row, n_kv, -INFINITY);
}

void fill_mask(ggml_tensor * mask, const llama_kv_cells & cells, const llama_ubatch & batch, int64_t window) {
    const int64_t n_kv = mask->ne[0];
    for (uint32_t i = 0; i < batch.n_tokens; i++) {
        const int64_t last = batch.pos[i], first = window > 0 ? last - window + 1 : 0;
        if (mask->type == GGML_TYPE_F16) {
            fill_mask_row(cells, batch.seq_id[i][0], first, last, (uint16_t *) mask->data + i * n_kv, n_kv);
        } else {
            fill_mask_row(cells, batch.seq_id[i][0], first, last, (float *) mask->data + i * n_kv, n_kv);
        }
    }
}

CellRange cells_of(const llama_kv_cells & cells, llama_seq_id sequence, llama_pos first, llama_pos end_position) {
    constexpr int kMost = 64;  // positions that are looked up; to pass over all cells is faster than to look up many
    CellRange range = { cells.size(), 0 };
    const auto & all = cells.seq_pos_get(sequence);
    int n = 0;
    for (auto at = all.lower_bound({ first, 0 }); at != all.end() && at->first < end_position; ++at) {
        if (++n > kMost) {
            return { 0, cells.size() };
        }
        range = { std::min(range.begin, at->second), std::max(range.end, at->second + 1) };
    }
    return n == 0 ? CellRange{ 0, 0 } : range;
}

}  // namespace pmtp::attention
