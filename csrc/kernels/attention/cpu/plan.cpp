#include "kernels/attention/plan.h"

#include "kernels/attention/cpu/attend.h"
#include "kernels/attention/cpu/state.h"
#include "kernels/cpu/simd.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace pmtp::attention {

using namespace cpu;

namespace {

// Of one sequence with up to as many chunks threads rather take columns: no thread then reads what another wrote.
constexpr int64_t kShortChunks = 8;
// Columns that are worth a pass over the cells.
constexpr int kWorthwhile = 4;

constexpr int64_t divided(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

// Some query rows of a run, and some or all heads of a group, of one batch.
struct Plan::Tile {
    int batch, kv_head, first_row, n_rows, first_head, columns;
    const Pages::Run * run;
    ChunkRange chunks;
    const char * k;
    const char * v;
};

Plan::Plan(const Task & task, int n_threads)
    : task_(task),
      chunks_(task.pages != nullptr ? task.pages->chunk : 0),
      whole_{ 0, task.n_rows, 0, divided(task.n_cells, kPage), 0 },
      group_(task.n_heads / task.n_kv_heads),
      tile_rows_(1),
      tile_heads_(group_),
      n_chunks_(1) {
    for (int i = 0; i < n_runs(); i++) {
        tile_rows_ = std::max(tile_rows_, run(i).n_rows);
        n_chunks_ = std::max(n_chunks_, chunks_of(run(i)).n);
    }
    const bool few_rows = tile_rows_ <= kMaxSplitRows && task.n_rows <= kMaxSplitRowsInAll;
    tile_rows_ = std::min(tile_rows_, kMaxColumns / group_);
    const int64_t n_groups = (int64_t) task.n_kv_heads * task.n_batches;
    const bool by_columns = !few_rows || (n_chunks_ <= kShortChunks && n_runs() == 1);
    // Tiles smaller than they could be, where threads would get none.
    if (by_columns) {
        const int64_t wanted = divided(n_threads, n_groups);
        tile_rows_ = (int) std::min<int64_t>(tile_rows_, divided(task.n_rows, wanted));
        while (tile_heads_ % 2 == 0 && tile_rows_ * tile_heads_ > kWorthwhile &&
               count_row_tiles() * (group_ / tile_heads_) < wanted) {
            tile_heads_ /= 2;
        }
    }
    tile_columns_ = padded(tile_rows_ * tile_heads_);
    n_row_tiles_ = count_row_tiles();
    n_units_ = n_row_tiles_ * (group_ / tile_heads_) * n_groups;
    split_ = few_rows && n_units_ < (by_columns ? n_threads : 4 * n_threads) && n_threads > 1;
    partial_size_ = State::size(tile_columns_, task.v.head_size);
    scratch_size_ = Scratch::size(tile_columns_, task.k.head_size);
}

size_t Plan::work_size(int n_threads) const {
    const size_t partials = split_ ? (size_t) (n_units_ * n_chunks_) : 2 * (size_t) n_threads;
    return (partials * partial_size_ + (size_t) n_threads * scratch_size_) * sizeof(float);
}

Plan::ChunkRange Plan::chunks_of(const Pages::Run & run) const {
    const int64_t first = chunks_.at(run.first_page * kPage);
    return { first, chunks_.count((run.first_page + run.n_pages) * kPage) - first };
}

int64_t Plan::count_row_tiles() const {
    int64_t n = 0;
    for (int i = 0; i < n_runs(); i++) {
        n += divided(run(i).n_rows, tile_rows_);
    }
    return n;
}

Plan::Tile Plan::tile(int64_t unit) const {
    const int tiles_of_group = group_ / tile_heads_;
    int64_t at = unit % n_row_tiles_;
    int i = 0;
    for (int64_t n; at >= (n = divided(run(i).n_rows, tile_rows_)); i++) {
        at -= n;
    }
    Tile t;
    t.run = &run(i);
    t.chunks = chunks_of(*t.run);
    const int of_run = (int) at * tile_rows_;
    t.first_row = t.run->first_row + of_run;
    t.n_rows = std::min(tile_rows_, t.run->n_rows - of_run);
    t.columns = t.n_rows * tile_heads_;
    const int of_heads = (int) (unit / n_row_tiles_ % (task_.n_kv_heads * tiles_of_group));
    t.kv_head = of_heads / tiles_of_group;
    t.first_head = of_heads * tile_heads_;
    t.batch = (int) (unit / n_row_tiles_ / (task_.n_kv_heads * tiles_of_group));
    const int kv_batch = t.batch / (task_.n_batches / task_.kv_batches);
    t.k = task_.k.at(t.kv_head, kv_batch);
    t.v = task_.v.at(t.kv_head, kv_batch);
    return t;
}

float * Plan::partial(int64_t unit, int64_t chunk, void * work) const {
    return (float *) work + (size_t) (unit * n_chunks_ + chunk) * partial_size_;
}

namespace {

// The query rows of a tile, [columns][size], zeros behind them: where they are if they lie so, else in `q`.
const float * gather_queries(const Task & task, const char * first, int n_rows, int heads, int columns, float * q) {
    const int size = task.k.head_size;
    const size_t bytes = size * sizeof(float);
    if (n_rows * heads == columns && (heads == 1 || task.q_head_stride == bytes) &&
        (n_rows == 1 || task.q_row_stride == heads * bytes)) {
        return (const float *) first;
    }
    for (int r = 0; r < n_rows; r++) {
        for (int g = 0; g < heads; g++) {
            std::memcpy(q + (size_t) (r * heads + g) * size, first + r * task.q_row_stride + g * task.q_head_stride,
                        bytes);
        }
    }
    std::fill(q + (size_t) n_rows * heads * size, q + (size_t) columns * size, 0.0f);
    return q;
}

}  // namespace

void Plan::run_item(int64_t item, int thread, void * work) const {
    // The last chunks are the longest, so they are taken first.
    const int64_t unit = item % n_units_, own_chunk = n_chunks_ - 1 - item / n_units_;
    const Tile t = tile(unit);
    if (split_ && own_chunk >= std::max<int64_t>(t.chunks.n, 1)) {
        return;  // of a run with fewer
    }
    const size_t n_partials = split_ ? (size_t) (n_units_ * n_chunks_) : 0;
    float * own =
        (float *) work + n_partials * partial_size_ + thread * (scratch_size_ + (split_ ? 0 : 2 * partial_size_));
    const Scratch scratch(own, tile_columns_, task_.k.head_size);
    const char * q = task_.q + t.batch * task_.q_batch_stride + t.first_head * task_.q_head_stride +
                     t.first_row * task_.q_row_stride;
    const float * queries = gather_queries(task_, q, t.n_rows, tile_heads_, padded(t.columns), scratch.q);
    const bool mask_a_column = task_.mask != nullptr && task_.mask_heads > 1;
    const char * masks[kMaxColumns] = {};
    for (int i = 0; task_.mask != nullptr && i < (mask_a_column ? t.columns : t.n_rows); i++) {
        const int row = mask_a_column ? i / tile_heads_ : i, head = mask_a_column ? t.first_head + i % tile_heads_ : 0;
        masks[i] = task_.mask + (t.first_row + row) * task_.mask_row_stride +
                   head % task_.mask_heads * task_.mask_head_stride +
                   t.batch % task_.mask_batches * task_.mask_batch_stride;
    }
    const Places places = { task_.pages != nullptr ? task_.pages->first_cells.data() + t.run->cells : nullptr,
                            t.run->first_page };
    const auto attend = [&](int64_t chunk, float * into) {
        const State partial(into, tile_columns_);
        const int64_t begin = chunks_.begin(t.chunks.first + chunk), end = chunks_.begin(t.chunks.first + chunk + 1);
        Chunk{ task_, places, t.k, t.v, queries, t.columns, tile_heads_, masks, mask_a_column, scratch, partial }
            .attend(std::max(begin / kPage, t.run->first_page),
                    std::min(end / kPage, t.run->first_page + t.run->n_pages));
        return partial;
    };
    if (split_) {
        const State state = attend(own_chunk, partial(unit, own_chunk, work));
        for (int c = 0; n_chunks_ == 1 && c < t.columns; c++) {
            finish(t, c, state.max[c], state.sum[c], state.values + (size_t) c * task_.v.head_size);
        }
        return;
    }
    const State all(own + scratch_size_, tile_columns_);
    std::fill_n(all.max, t.columns, -INFINITY);
    std::fill_n(all.sum, t.columns, 0.0f);
    for (int64_t chunk = 0; chunk < t.chunks.n; chunk++) {
        const State part = attend(chunk, own + scratch_size_ + partial_size_);
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
    const int64_t unit = index / (tile_rows_ * tile_heads_);
    const int column = (int) (index % (tile_rows_ * tile_heads_));
    const Tile t = tile(unit);
    if (column >= t.columns) {
        return;
    }
    const int size = task_.v.head_size;
    float max = -INFINITY, sum = 0;
    alignas(kAlignment) float values[kMaxHeadSize];
    for (int64_t chunk = 0; chunk < t.chunks.n; chunk++) {
        const State part(partial(unit, chunk, work), tile_columns_);
        merge_column(max, sum, values, part.max[column], part.sum[column], part.values + (size_t) column * size, size);
    }
    finish(t, column, max, sum, values);
}

// Adds the sink and normalises; a row that sees nothing gives zeros.
void Plan::finish(const Tile & tile, int column, float max, float sum, const float * values) const {
    const int head = tile.first_head + column % tile_heads_;
    const int64_t row = tile.first_row + column / tile_heads_;
    const int size = task_.v.head_size;
    float * result = task_.result + ((tile.batch * (int64_t) task_.n_rows + row) * task_.n_heads + head) * size;
    if (sum == 0.0f) {
        std::fill_n(result, size, 0.0f);
        return;
    }
    float factor = 1.0f;
    if (task_.sinks != nullptr) {
        const float new_max = std::max(max, task_.sinks[head]);
        factor = std::exp(max - new_max);
        sum = sum * factor + std::exp(task_.sinks[head] - new_max);
    }
    factor /= sum;
    for (int d = 0; d < size; d += kLanes) {
        store(result + d, load_floats(values + d) * factor);
    }
}

}  // namespace pmtp::attention
