#include "kernels/attention/cpu/attend.h"

#include "kernels/attention/cpu/decode.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"

#include <cmath>

namespace pmtp::attention {
namespace {

constexpr int kRegisters = kBytes == 64 ? 16 : 8;  // that hold sums

// Cells of a block of dot products with C columns, and vectors of a block of sums of `size` values.
template <int C> constexpr int kDots = kLanes / C;
template <int C> constexpr int vectors(int size) { return std::min(size / kLanes, kRegisters / C); }

// Where vectors of cells come from: floats that were decoded, or rows of the cache itself.
struct Decoded {
    const float * first;
    int stride;  // floats
    PMTP_INLINE Float load(int cell, int d) const { return load_floats(first + cell * stride + d); }
};

template <class T, Float (*Load)(const T *)> struct Rows {
    const char * first;
    size_t stride;  // bytes
    int last;       // cells behind it are not there
    PMTP_INLINE Float load(int cell, int d) const {
        return Load((const T *) (first + std::min(cell, last) * stride) + d);
    }
};

struct RowsQ8_0 {
    const char * first;
    size_t stride;
    int last;
    PMTP_INLINE Float load(int cell, int d) const {
        const char * block = first + std::min(cell, last) * stride + d / 32 * 34;
        return load_bytes((const int8_t *) block + 2 + d % 32) * broadcast(half_to_float(load_as<uint16_t>(block)));
    }
};

// Whether a type's rows are multiplied as they lie. With many columns it takes less to decode bytes once.
bool direct(Format format, int columns) {
    return format == Format::f32 || format == Format::f16 || format == Format::bf16 ||
           (format == Format::q8_0 && columns <= 8);
}

// Calls f with the rows of a type that direct() is true of.
template <class F> PMTP_INLINE void with_rows(Format format, const char * first, size_t stride, int last, F f) {
    switch (format) {
        case Format::f32: f(Rows<float, load_floats>{ first, stride, last }); break;
        case Format::q8_0: f(RowsQ8_0{ first, stride, last }); break;
        case Format::f16: f(Rows<uint16_t, load_halves>{ first, stride, last }); break;
        default: f(Rows<uint16_t, load_bfloats>{ first, stride, last }); break;
    }
}

// Rows that are read soon, whose cells' rows lie too far from each other for the hardware to foresee.
struct Ahead {
    const char * first;  // or null
    size_t stride;       // bytes
    int size;            // bytes of a row

    PMTP_INLINE void fetch(int cell) const {
        for (int at = 0; first != nullptr && at < size; at += 64) {
            __builtin_prefetch(first + cell * stride + at, 0, 2);
        }
    }
};

Ahead ahead(const Cells & cells, const char * first) {
    return { first, cells.cell_stride, (int) (cells.bytes64 * cells.head_size / 64) };
}

// Holds a vector in a register: GCC would rather load it again for each product that takes it.
PMTP_INLINE void keep(Float & x) {
#ifdef PMTP_SIMD
    asm("" : "+v"(x));
#endif
}

// logits[c][i] for C columns and kDots<C> cells.
template <int C, class Source>
PMTP_INLINE void dot(const float * q, const Source & k, int first, int size, float * logits) {
    constexpr int D = kDots<C>;
    Float sums[kLanes] = {};
    for (int d = 0; d < size; d += kLanes) {
        Float cells[D];
        for (int i = 0; i < D; i++) {
            cells[i] = k.load(first + i, d);
        }
        for (int c = 0; c < C; c++) {
            Float x = load_floats(q + c * size + d);
            keep(x);
            for (int i = 0; i < D; i++) {
                sums[c * D + i] = fma(x, cells[i], sums[c * D + i]);
            }
        }
    }
    const Float all = totals(sums);
    for (int c = 0; c < C; c++) {
        std::memcpy(logits + c * kCells, (const float *) &all + c * D, D * sizeof(float));
    }
}

// As dot, for all columns and n cells of which some are seen. The queries of C columns stay in the first cache. Not
// inlined: into every decoder's loop it would be a lot of code.
template <int C, class Source> __attribute__((noinline)) void dots(const float * q, int columns, const Source & k,
                                                                   uint64_t seen, int n, int size, float * logits,
                                                                   const Ahead & ahead) {
    constexpr int D = kDots<C>;
    for (int c = 0; c < columns; c += C) {
        for (int t = 0; t < n; t += D) {
            for (int i = 0; c == 0 && i < D; i++) {
                ahead.fetch(t + i);
            }
            if ((seen >> t & ((1u << D) - 1)) != 0) {
                dot<C>(q + (size_t) c * size, k, t, size, logits + c * kCells + t);
            }
        }
    }
}

// values[c] = values[c] * factors[c] + weights[c] . v for C columns and V vectors from d on, over the visible cells.
template <int C, int V, class Source> PMTP_INLINE void accumulate(const float * weights, const float * factors,
                                                                  const Source & v, int d, uint64_t visible,
                                                                  float * values, int head_size) {
    Float sums[C][V];
    for (int c = 0; c < C; c++) {
        for (int i = 0; i < V; i++) {
            sums[c][i] = load_floats(values + c * head_size + i * kLanes) * factors[c];
        }
    }
    for (; visible != 0; visible &= visible - 1) {
        const int t = __builtin_ctzll(visible);
        Float cell[V];
        for (int i = 0; i < V; i++) {
            cell[i] = v.load(t, d + i * kLanes);
        }
        for (int c = 0; c < C; c++) {
            Float w = broadcast(weights[c * kCells + t]);
            keep(w);
            for (int i = 0; i < V; i++) {
                sums[c][i] = fma(w, cell[i], sums[c][i]);
            }
        }
    }
    for (int c = 0; c < C; c++) {
        for (int i = 0; i < V; i++) {
            store(values + c * head_size + i * kLanes, sums[c][i]);
        }
    }
}

// As accumulate, for all columns and Size values from d on.
template <int C, int Size, class Source>
__attribute__((noinline)) void accumulate_all(const Scratch & scratch, int columns, const Source & v, int d,
                                              uint64_t visible, float * values, int head_size) {
    constexpr int V = vectors<C>(Size);
    for (int c = 0; c < columns; c += C) {
        for (int i = 0; i < Size; i += V * kLanes) {
            accumulate<C, V>(scratch.weights + c * kCells, scratch.factors + c, v, d + i, visible,
                             values + (size_t) c * head_size + i, head_size);
        }
    }
}

// Logits to weights for one column; updates its maximum and sum and returns the factor of what was accumulated before.
float soften(float * weights, const float * mask, float scale, float softcap, float & max, float & sum) {
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
    sum = sum * factor + total(tile_sum);
    return factor;
}

}  // namespace

void Chunk::attend(int64_t begin, int64_t end) const {
    switch (columns) {
        case 1: attend_columns<1>(begin, end); break;
        case 2: attend_columns<2>(begin, end); break;
        default:
            if (kBytes == 64 && columns % 8 == 0) {
                attend_columns<8>(begin, end);
            } else {
                attend_columns<kColumns>(begin, end);
            }
            break;
    }
}

template <int C> void Chunk::attend_columns(int64_t begin, int64_t end) const {
    const int n_masks = mask_a_column ? columns : columns / group;
    std::fill_n(state.max, columns, -INFINITY);
    std::fill_n(state.sum, columns, 0.0f);
    bool cleared = false;
    for (int64_t page = begin; page < end; page++) {
        const int64_t first = places.first_cell(page);
        if (first < 0) {
            continue;
        }
        const int n = (int) std::min<int64_t>(kCells, task.n_cells - first);
        const uint64_t visible = gather_masks(masks, n_masks, first, n, scratch.masks);
        if (visible == 0) {
            continue;
        }
        if (!cleared) {
            std::fill_n(state.values, (size_t) padded(columns) * task.v.head_size, 0.0f);
            cleared = true;
        }
        score<C>(first, n, visible);
        soften_columns();
        sum_values<C>(first, visible, page + 1 < end ? places.first_cell(page + 1) : -1);
    }
}

void Chunk::soften_columns() const {
    for (int c = 0; c < columns; c++) {
        const float * mask = scratch.masks + (mask_a_column ? c : c / group) * kCells;
        scratch.factors[c] =
            soften(scratch.weights + c * kCells, mask, task.scale, task.softcap, state.max[c], state.sum[c]);
    }
    std::fill_n(scratch.weights + columns * kCells, (padded(columns) - columns) * kCells, 0.0f);
    std::fill_n(scratch.factors + columns, padded(columns) - columns, 1.0f);
}

// weights = q K^T for n cells. Of a cell that no row sees only the mask counts: it is not decoded.
template <int C> void Chunk::score(int64_t first, int n, uint64_t visible) const {
    const int size = task.k.head_size;
    const char * row = k + first * task.k.cell_stride;
    if (direct(task.k.format, columns)) {
        const Ahead values = ahead(task.v, v + first * task.v.cell_stride);
        with_rows(task.k.format, row, task.k.cell_stride, n - 1, [&](const auto & rows) {
            dots<C>(q, columns, rows, visible, kCells, size, scratch.weights, values);
        });
        return;
    }
    with_decoder(task.k, [&](const auto & decode) {
        for (int t = 0; t < kCells; t += kDecoded) {
            const uint64_t seen = visible >> t & ((1u << kDecoded) - 1);
            for (uint64_t left = seen; left != 0; left &= left - 1) {
                const int i = __builtin_ctzll(left);
                decode(row + (t + i) * task.k.cell_stride, scratch.decoded + i * size, size);
            }
            if (seen != 0) {
                dots<C>(q, columns, Decoded{ scratch.decoded, size }, seen, kDecoded, size, scratch.weights + t,
                        ahead(task.v, v + (first + t) * task.v.cell_stride));
            }
        }
    });
}

template <int C> void Chunk::sum_values(int64_t first, uint64_t visible, int64_t next) const {
    const int size = task.v.head_size;
    const char * row = v + first * task.v.cell_stride;
    const auto add = [&](const auto & cells, int from, int d) {
        if (next >= 0) {
            const int rows = kCells * 64 / size;
            for (int t = d / 64 * rows; t < d / 64 * rows + rows; t++) {
                ahead(task.k, k + next * task.k.cell_stride).fetch(t);
            }
        }
        if (size - d >= 64) {
            accumulate_all<C, 64>(scratch, columns, cells, from, visible, state.values + d, size);
        } else {
            accumulate_all<C, 32>(scratch, columns, cells, from, visible, state.values + d, size);
        }
    };
    if (direct(task.v.format, columns)) {
        with_rows(task.v.format, row, task.v.cell_stride, kCells - 1, [&](const auto & rows) {
            for (int d = 0; d < size; d += 64) {
                add(rows, d, d);
            }
        });
        return;
    }
    with_decoder(task.v, [&](const auto & decode) {
        for (int d = 0; d < size; d += 64, row += task.v.bytes64) {
            for (uint64_t left = visible; left != 0; left &= left - 1) {
                const int t = __builtin_ctzll(left);
                decode(row + t * task.v.cell_stride, scratch.decoded + t * 64, std::min(64, size - d));
            }
            add(Decoded{ scratch.decoded, 64 }, 0, d);
        }
    });
}

}  // namespace pmtp::attention
