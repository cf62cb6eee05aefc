#include "kernels/attention/plan.h"

#include "kernels/attention/cpu/decode.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/simd.h"

#include <algorithm>
#include <cmath>

namespace pmtp::attention {
namespace {

constexpr int kCells =
    64;  // of a tile: their masks and weights, and 64 values each of V, stay in the first-level cache
constexpr int kColumns = 4;               // that are multiplied at a time; a tile's columns are padded to a multiple
constexpr int kDots = kLanes / kColumns;  // cells of a block of dot products, vectors of a block of sums
constexpr int kStep = kDots * kLanes;     // values of V summed at a time
static_assert(kCells % kDots == 0 && kCells % kLanes == 0 && 64 % kStep == 0, "no remainders");

constexpr int padded(int columns) { return (columns + kColumns - 1) / kColumns * kColumns; }

// Chunks are short at first, so that short caches occupy several threads too, and longer later, which bounds the
// partial results. Where one begins does not depend on the length of the cache.
constexpr int kShort = 16, kMedium = 44;  // chunks of 256 cells to 4096, of 1024 to 32768, then of 4096
int64_t chunk_begin(int64_t i) {
    return 256 * std::min<int64_t>(i, kShort) + 1024 * std::clamp<int64_t>(i - kShort, 0, kMedium - kShort) +
           4096 * std::max<int64_t>(i - kMedium, 0);
}
int64_t count_chunks(int64_t n_cells) {
    int64_t n = 0;
    while (chunk_begin(n) < n_cells) {
        n++;
    }
    return n;
}

// Buffers begin at cache lines: vectors across two lines took the kernel up to 1.7 times as long.
constexpr size_t kLine = kAlignment / sizeof(float);
constexpr size_t lined(size_t n) { return (n + kLine - 1) / kLine * kLine; }

// Partial result of a tile: max [columns], sum [columns], values [columns][head size]; unnormalised.
struct Partial {
    float * max;
    float * sum;
    float * values;

    int columns;

    Partial(float * base, int columns)
        : max(base),
          sum(base + lined(columns)),
          values(base + 2 * lined(columns)),
          columns(columns) {}

    static size_t size(int columns, int head_size) { return 2 * lined(columns) + lined((size_t) columns * head_size); }

    void clear(int head_size) const {
        std::fill_n(max, columns, -INFINITY);
        std::fill_n(sum, columns, 0.0f);
        std::fill_n(values, (size_t) columns * head_size, 0.0f);
    }
};

// A thread's buffers.
struct Scratch {
    float * q;        // [columns][K head size]
    float * weights;  // [columns][kCells]: logits, then e^(logit - max)
    float * factors;  // [columns]
    float * masks;    // [mask rows][kCells]
    float * decoded;  // [kDots][K head size], or [kCells][64] of V

    Scratch(float * base, int columns, int k_size)
        : q(base),
          weights(q + lined((size_t) columns * k_size)),
          factors(weights + columns * kCells),
          masks(factors + lined(columns)),
          decoded(masks + columns * kCells) {}

    static size_t size(int columns, int k_size) {
        return lined((size_t) columns * k_size) + 2 * columns * kCells + lined(columns) +
               lined(std::max(kDots * k_size, kCells * 64));
    }
};

// logits[c][i] for kColumns columns and kDots cells.
PMTP_INLINE void dot(const float * q, const float * k, int size, float * logits) {
    Float sums[kColumns * kDots] = {};
    for (int d = 0; d < size; d += kLanes) {
        Float cells[kDots];
        for (int i = 0; i < kDots; i++) {
            cells[i] = load_floats(k + i * size + d);
        }
        for (int c = 0; c < kColumns; c++) {
            const Float x = load_floats(q + c * size + d);
            for (int i = 0; i < kDots; i++) {
                sums[c * kDots + i] += x * cells[i];
            }
        }
    }
    const Float all = totals(sums);
    for (int c = 0; c < kColumns; c++) {
        std::memcpy(logits + c * kCells, (const float *) &all + c * kDots, kDots * sizeof(float));
    }
}

// values[c] = values[c] * factors[c] + weights[c] . v for kColumns columns and kStep values; n cells of v, 64 apart.
PMTP_INLINE void accumulate(const float * weights, const float * factors, const float * v, int n, float * values,
                            int head_size) {
    Float sums[kColumns][kDots];
    for (int c = 0; c < kColumns; c++) {
        for (int i = 0; i < kDots; i++) {
            sums[c][i] = load_floats(values + c * head_size + i * kLanes) * factors[c];
        }
    }
    for (int t = 0; t < n; t++) {
        Float cell[kDots];
        for (int i = 0; i < kDots; i++) {
            cell[i] = load_floats(v + t * 64 + i * kLanes);
        }
        for (int c = 0; c < kColumns; c++) {
            const Float w = broadcast(weights[c * kCells + t]);
            for (int i = 0; i < kDots; i++) {
                sums[c][i] += w * cell[i];
            }
        }
    }
    for (int c = 0; c < kColumns; c++) {
        for (int i = 0; i < kDots; i++) {
            store(values + c * head_size + i * kLanes, sums[c][i]);
        }
    }
}

// Logits to weights for one column; updates its maximum and sum and returns the factor of what was accumulated before.
PMTP_INLINE float soften(float * weights, const float * mask, float scale, float softcap, float & max, float & sum) {
    const Float hidden = broadcast(-INFINITY);
    Float largest = hidden;
    for (int t = 0; t < kCells; t += kLanes) {
        Float x = load_floats(weights + t) * scale;
        if (softcap != 0.0f) {
            for (int i = 0; i < kLanes; i++) {
                x[i] = softcap * std::tanh(x[i] / softcap);
            }
        }
        const Float m = load_floats(mask + t);
        x = m == hidden ? hidden : x + m;  // a masked cell may hold anything, NaN included
        largest = x > largest ? x : largest;
        store(weights + t, x);
    }
    const float tile_max = maximum(largest);
    if (tile_max == -INFINITY) {
        std::fill_n(weights, kCells, 0.0f);
        return 1.0f;
    }
    const float new_max = std::max(max, tile_max);
    const float factor = new_max == max ? 1.0f : std::exp(max - new_max);
    Float tile_sum{};
    for (int t = 0; t < kCells; t += kLanes) {
        const Float w = exp_nonpositive(load_floats(weights + t) - new_max);
        tile_sum += w;
        store(weights + t, w);
    }
    max = new_max;
    sum = sum * factor + total_in_order(tile_sum);
    return factor;
}

void merge_column(float & max, float & sum, float * values, float other_max, float other_sum, const float * other,
                  int size) {
    if (other_sum == 0.0f) {
        return;  // no visible cell
    }
    const float new_max = std::max(max, other_max);
    const float ours = std::exp(max - new_max), theirs = std::exp(other_max - new_max);
    sum = sum * ours + other_sum * theirs;
    max = new_max;
    for (int d = 0; d < size; d += kLanes) {
        store(values + d, load_floats(values + d) * ours + load_floats(other + d) * theirs);
    }
}

}  // namespace

// A batch's KV head and some query rows.
struct Plan::Tile {
    int batch, kv_head, first_row, n_rows, columns;
    const char * k;
    const char * v;
};

Plan::Plan(const Task & task)
    : task_(task),
      group_(task.n_heads / task.n_kv_heads),
      tile_rows_(std::min(task.n_rows, kMaxColumns / group_)),
      tile_columns_(padded(tile_rows_ * group_)),
      n_row_tiles_((task.n_rows + tile_rows_ - 1) / tile_rows_),
      n_units_(n_row_tiles_ * task.n_kv_heads * task.n_batches),
      n_chunks_(count_chunks(task.n_cells)),
      partial_size_(Partial::size(tile_columns_, task.v.head_size)),
      split_(task.n_rows <= kMaxSplitRows) {
    scratch_size_ = Scratch::size(tile_columns_, task.k.head_size);
}

size_t Plan::work_size(int n_threads) const {
    const size_t partials = split_ ? (size_t) (n_units_ * n_chunks_) : 2 * (size_t) n_threads;
    return (partials * partial_size_ + (size_t) n_threads * scratch_size_) * sizeof(float);
}

Plan::Tile Plan::tile(int64_t unit) const {
    Tile t;
    t.first_row = (int) (unit % n_row_tiles_) * tile_rows_;
    t.n_rows = std::min(tile_rows_, task_.n_rows - t.first_row);
    t.columns = t.n_rows * group_;
    t.kv_head = (int) (unit / n_row_tiles_ % task_.n_kv_heads);
    t.batch = (int) (unit / n_row_tiles_ / task_.n_kv_heads);
    const int kv_batch = t.batch / (task_.n_batches / task_.kv_batches);
    t.k = task_.k.data + t.kv_head * task_.k.head_stride + kv_batch * task_.k.batch_stride;
    t.v = task_.v.data + t.kv_head * task_.v.head_stride + kv_batch * task_.v.batch_stride;
    return t;
}

float * Plan::partial(int64_t unit, int64_t chunk, void * work) const {
    return (float *) work + (size_t) (unit * n_chunks_ + chunk) * partial_size_;
}

namespace {

// The query rows of a tile, [columns][size], zeros behind them.
void gather_queries(const Task & task, const char * first, int n_rows, int group, int columns, float * q) {
    const int size = task.k.head_size;
    for (int r = 0; r < n_rows; r++) {
        for (int g = 0; g < group; g++) {
            std::memcpy(q + (size_t) (r * group + g) * size, first + r * task.q_row_stride + g * task.q_head_stride,
                        size * sizeof(float));
        }
    }
    std::fill(q + (size_t) n_rows * group * size, q + (size_t) columns * size, 0.0f);
}

// n_rows mask rows for the cells first .. first + n, [n_rows][kCells]. Returns a bit a cell: some row sees it.
uint64_t gather_masks(const char * const * rows, int n_rows, int64_t first, int n, float * masks) {
    uint64_t visible = 0;
    for (int r = 0; r < n_rows; r++) {
        float * mask = masks + r * kCells;
        if (rows[r] != nullptr) {
            halves_to_floats((const uint16_t *) rows[r] + first, mask, n);
        } else {
            std::fill_n(mask, n, 0.0f);
        }
        std::fill(mask + n, mask + kCells, -INFINITY);
        for (int t = 0; t < n; t++) {
            visible |= (uint64_t) (mask[t] != -INFINITY) << t;
        }
    }
    return visible;
}

// One chunk of cells for the columns of a tile.
struct Chunk {
    const Task & task;
    const char * k;
    const char * v;
    int columns, group;
    const char * const * masks;  // [mask rows]
    bool mask_a_column;          // a mask row a column; else one a query row
    Scratch scratch;
    Partial partial;

    void attend(int64_t begin, int64_t end) const {
        partial.clear(task.v.head_size);
        for (int64_t first = begin; first < end; first += kCells) {
            const int n = (int) std::min<int64_t>(kCells, end - first);
            const int n_masks = mask_a_column ? columns : columns / group;
            const uint64_t visible = gather_masks(masks, n_masks, first, n, scratch.masks);
            if (visible == 0) {
                continue;
            }
            score(first, visible);
            for (int c = 0; c < padded(columns); c++) {
                float * weights = scratch.weights + c * kCells;
                if (c < columns) {
                    const float * mask = scratch.masks + (mask_a_column ? c : c / group) * kCells;
                    scratch.factors[c] =
                        soften(weights, mask, task.scale, task.softcap, partial.max[c], partial.sum[c]);
                } else {
                    std::fill_n(weights, kCells, 0.0f);
                    scratch.factors[c] = 1.0f;
                }
            }
            sum_values(first, visible);
        }
    }

    // weights = q K^T; cells that no row sees are not read.
    void score(int64_t first, uint64_t visible) const {
        const Codebooks books;
        const int size = task.k.head_size;
        for (int t = 0; t < kCells; t += kDots) {
            const uint64_t seen = visible >> t & ((1u << kDots) - 1);
            if (seen == 0) {
                continue;  // what is left in the weights is masked
            }
            for (int i = 0; i < kDots; i++) {
                if (seen >> i & 1) {
                    decode(task.k, books, k + (first + t + i) * task.k.cell_stride, scratch.decoded + i * size, size);
                } else {
                    std::fill_n(scratch.decoded + i * size, size, 0.0f);
                }
            }
            for (int c = 0; c < columns; c += kColumns) {
                dot(scratch.q + (size_t) c * size, scratch.decoded, size, scratch.weights + c * kCells + t);
            }
        }
    }

    void sum_values(int64_t first, uint64_t visible) const {
        const Codebooks books;
        const int n = 64 - __builtin_clzll(visible);  // to the last visible cell
        for (int block = 0; block < task.v.head_size / 64; block++) {
            const char * row = v + first * task.v.cell_stride + block * task.v.bytes64;
            for (int t = 0; t < n; t++, row += task.v.cell_stride) {
                if (visible >> t & 1) {
                    decode(task.v, books, row, scratch.decoded + t * 64, 64);
                } else {
                    std::fill_n(scratch.decoded + t * 64, 64, 0.0f);
                }
            }
            for (int c = 0; c < columns; c += kColumns) {
                float * values = partial.values + (size_t) c * task.v.head_size + block * 64;
                for (int d = 0; d < 64; d += kStep) {
                    accumulate(scratch.weights + c * kCells, scratch.factors + c, scratch.decoded + d, n, values + d,
                               task.v.head_size);
                }
            }
        }
    }
};

}  // namespace

void Plan::run_item(int64_t item, int thread, void * work) const {
    // The last chunks are the longest, so they are taken first.
    const int64_t unit = item % n_units_;
    const Tile t = tile(unit);
    const size_t n_partials = split_ ? (size_t) (n_units_ * n_chunks_) : 0;
    float * own =
        (float *) work + n_partials * partial_size_ + thread * (scratch_size_ + (split_ ? 0 : 2 * partial_size_));
    const Scratch scratch(own, tile_columns_, task_.k.head_size);
    const int first_head = t.kv_head * group_;
    gather_queries(task_,
                   task_.q + t.batch * task_.q_batch_stride + first_head * task_.q_head_stride +
                       t.first_row * task_.q_row_stride,
                   t.n_rows, group_, padded(t.columns), scratch.q);
    const bool mask_a_column = task_.mask != nullptr && task_.mask_heads > 1;
    const char * masks[kMaxColumns] = {};
    for (int i = 0; task_.mask != nullptr && i < (mask_a_column ? t.columns : t.n_rows); i++) {
        const int row = mask_a_column ? i / group_ : i, head = mask_a_column ? first_head + i % group_ : 0;
        masks[i] = task_.mask + (t.first_row + row) * task_.mask_row_stride +
                   head % task_.mask_heads * task_.mask_head_stride +
                   t.batch % task_.mask_batches * task_.mask_batch_stride;
    }
    const auto attend = [&](int64_t chunk, float * into) {
        const Partial partial(into, tile_columns_);
        Chunk{ task_, t.k, t.v, t.columns, group_, masks, mask_a_column, scratch, partial }.attend(
            chunk_begin(chunk), std::min(chunk_begin(chunk + 1), task_.n_cells));
        return partial;
    };
    if (split_) {
        const int64_t chunk = n_chunks_ - 1 - item / n_units_;
        attend(chunk, partial(unit, chunk, work));
        return;
    }
    const Partial all(own + scratch_size_, tile_columns_);
    all.clear(task_.v.head_size);
    for (int64_t chunk = 0; chunk < n_chunks_; chunk++) {
        const Partial part = attend(chunk, own + scratch_size_ + partial_size_);
        for (int c = 0; c < t.columns; c++) {
            const size_t at = (size_t) c * task_.v.head_size;
            merge_column(all.max[c], all.sum[c], all.values + at, part.max[c], part.sum[c], part.values + at,
                         task_.v.head_size);
        }
    }
    for (int c = 0; c < t.columns; c++) {
        finish(t, c, all.max[c], all.sum[c], all.values + (size_t) c * task_.v.head_size);
    }
}

void Plan::merge(int64_t index, void * work) const {
    const int64_t unit = index / (tile_rows_ * group_);
    const int column = (int) (index % (tile_rows_ * group_));
    const Tile t = tile(unit);
    if (column >= t.columns) {
        return;
    }
    const int size = task_.v.head_size;
    float max = -INFINITY, sum = 0;
    alignas(kAlignment) float values[kMaxHeadSize] = {};
    for (int64_t chunk = 0; chunk < n_chunks_; chunk++) {
        const Partial part(partial(unit, chunk, work), tile_columns_);
        merge_column(max, sum, values, part.max[column], part.sum[column], part.values + (size_t) column * size, size);
    }
    finish(t, column, max, sum, values);
}

// Adds the sink and normalises; a row that sees nothing gives zeros.
void Plan::finish(const Tile & tile, int column, float max, float sum, const float * values) const {
    const int head = tile.kv_head * group_ + column % group_;
    const int64_t row = tile.first_row + column / group_;
    float factor = 1.0f;
    if (task_.sinks != nullptr) {
        const float new_max = std::max(max, task_.sinks[head]);
        factor = std::exp(max - new_max);
        sum = sum * factor + std::exp(task_.sinks[head] - new_max);
    }
    factor = sum == 0.0f ? 0.0f : factor / sum;
    const int size = task_.v.head_size;
    float * result = task_.result + ((tile.batch * (int64_t) task_.n_rows + row) * task_.n_heads + head) * size;
    for (int d = 0; d < size; d += kLanes) {
        store(result + d, load_floats(values + d) * factor);
    }
}

}  // namespace pmtp::attention
