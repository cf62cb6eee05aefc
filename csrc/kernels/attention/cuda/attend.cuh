// The kernel that computes chunks.
#pragma once

#include "kernels/attention/cuda/block_place.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/tensor_cores.cuh"

namespace pmtp::attention::cuda {

constexpr float kLog2E = 1.44269504088896f;

// A block of threads at its chunk.
template <int head_size, int tiles> class Chunk : BlockPlace {
    using G = Geometry<head_size>;
    static constexpr int kColumns = tiles * kTileColumns;
    // Columns of a step of the softmax, eight threads each, and steps.
    static constexpr int kSoftColumns = G::kThreads / 8;
    static constexpr int kSteps = (kColumns + kSoftColumns - 1) / kSoftColumns;

  public:
    __device__ Chunk(const Plan & plan, char * memory) : BlockPlace(plan, memory, kColumns) {
#pragma unroll
        for (int step = 0; step < kSteps; step++) {
            max_[step] = -INFINITY;
        }
    }

    // The i-th chunk of all; how many there are.
    __device__ int run(int i, void * work_memory) {
        if (!task_.mask_is_old) {
            wait_for_previous();
        }
        const int n_chunks = find_place(i);
        const uint32_t pages = find_pages<G::kWarps>();
        if (task_.mask_is_old) {
            wait_for_previous();
        }
        const Work work(work_memory, plan_);
        if (pages != 0) {
            attend(pages);
        }
        let_next_begin();
        store_states(work.states);
        if (pages != 0) {
            __syncthreads();
            store_values(work.values);
        }
        return n_chunks;
    }

  private:
    __device__ __forceinline__ void load(const Cells & cells, const Rows & rows, int page, int to) const {
        const int kv_batch = plan_.batches_of_a_kv_batch == 1 ? batch_ : batch_ / plan_.batches_of_a_kv_batch;
        const int first = chunk().first_cells[page];
        load_page<G::kThreads>(rows, cells.cell_stride,
                               cells.data + head_ * cells.head_stride + kv_batch * cells.batch_stride +
                                   first * cells.cell_stride,
                               task_.n_cells - first, memory_ + to);
        end_group();
    }

    // A thread has up to kItems times 16 values of a block of a query, as many as a lane has of a block of keys.
    static constexpr int kItems = (kColumns * G::kBlocks * 4 + G::kThreads - 1) / G::kThreads;
    struct Item {
        int t, block, column;
    };
    static __device__ __forceinline__ Item item(int i) {
        const int at = (int) threadIdx.x + i * G::kThreads;
        return { at % 4, at / 4 % G::kBlocks, at / 4 / G::kBlocks };
    }

    __device__ __forceinline__ void load_queries(float4 (&x)[kItems][4]) const {
        const bool wide = task_.k.format == Format::f16 || task_.k.format == Format::bf16;
#pragma unroll
        for (int i = 0; i < kItems; i++) {
            const auto [t, block, in_block] = item(i);
            const int column = first_column_ + min(in_block, plan_.columns - first_column_ - 1);
            const int row = plan_.row_of(column), head = head_ * plan_.group + column - row * plan_.group;
            const auto * q = (const float4 *) (task_.q + batch_ * task_.q_batch_stride + head * task_.q_head_stride +
                                               row * task_.q_row_stride) +
                             block * 16;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                x[i][j] = q[wide ? 2 * t + j % 2 + 8 * (j / 2) : t + 4 * j];
            }
        }
    }

    // As halves, scaled, in the order of the keys' format.
    template <typename F> __device__ __forceinline__ void store_queries(const float4 (&x)[kItems][4]) const {
        const float scale = task_.softcap != 0.0f ? task_.scale / task_.softcap : task_.scale;
#pragma unroll
        for (int i = 0; i < kItems; i++) {
            const auto [t, block, column] = item(i);
            if (column < kColumns) {
                half out[16];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    out[F::place(j, 0)] = __float2half_rn(x[i][j].x * scale);
                    out[F::place(j, 1)] = __float2half_rn(x[i][j].y * scale);
                    out[F::place(j, 2)] = __float2half_rn(x[i][j].z * scale);
                    out[F::place(j, 3)] = __float2half_rn(x[i][j].w * scale);
                }
                uint32_t pairs[8];
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    pairs[j] = as_word(__halves2half2(out[2 * j], out[2 * j + 1]));
                }
                auto * to = at<uint4>(plan_.q_at + column * plan_.q_pitch + block * 128 + t * 32);
                to[0] = { pairs[0], pairs[1], pairs[2], pairs[3] };
                to[1] = { pairs[4], pairs[5], pairs[6], pairs[7] };
            }
        }
    }

    // Scores of 16 keys, over this warp's share of their values.
    template <typename F> __device__ __forceinline__ void score() const {
        const int g = lane_ / 4, t = lane_ % 4, first = warp_ % 4 * 16, split = warp_ / 4;
        constexpr int kOwn = G::kBlocks / G::kKeySplits;
        float sums[tiles][4] = {};
        const char * k = memory_ + plan_.k_at + (first + g) * plan_.k.pitch + split * kOwn * F::kBytes;
        const char * q = memory_ + plan_.q_at + g * plan_.q_pitch + split * kOwn * 128 + 32 * t;
#pragma unroll 1
        for (int b = 0; b < kOwn; b++) {
            uint32_t x[8], y[8];
            F::keys(k + b * F::kBytes, t, x);
            F::keys(k + 8 * plan_.k.pitch + b * F::kBytes, t, y);
#pragma unroll
            for (int n = 0; n < tiles; n++) {
                const auto * columns = (const uint4 *) (q + n * kTileColumns * plan_.q_pitch + b * 128);
                const uint4 c = columns[0], d = columns[1];
                float unscaled[4] = {};
                float (&sum)[4] = F::kOneScale ? unscaled : sums[n];
                add_product_f16(sum, x[0], y[0], x[1], y[1], c.x, c.y);
                add_product_f16(sum, x[2], y[2], x[3], y[3], c.z, c.w);
                add_product_f16(sum, x[4], y[4], x[5], y[5], d.x, d.y);
                add_product_f16(sum, x[6], y[6], x[7], y[7], d.z, d.w);
                if constexpr (F::kOneScale) {
                    const float of_x = __low2float(scale_of(k + b * F::kBytes)),
                                of_y = __low2float(scale_of(k + 8 * plan_.k.pitch + b * F::kBytes));
                    sums[n][0] = fmaf(of_x, unscaled[0], sums[n][0]);
                    sums[n][1] = fmaf(of_x, unscaled[1], sums[n][1]);
                    sums[n][2] = fmaf(of_y, unscaled[2], sums[n][2]);
                    sums[n][3] = fmaf(of_y, unscaled[3], sums[n][3]);
                }
            }
        }
        float * scores = at<float>(plan_.scores_at) + (split * kColumns + 2 * t) * kScorePitch + first + g;
#pragma unroll
        for (int n = 0; n < tiles; n++) {
            float * to = scores + n * kTileColumns * kScorePitch;
            to[0] = sums[n][0];
            to[kScorePitch] = sums[n][1];
            to[8] = sums[n][2];
            to[kScorePitch + 8] = sums[n][3];
        }
    }

    // A thread has of its column in the softmax cells 4 part ... and 32 + 4 part ... of a page.
    __device__ __forceinline__ int soft_column(int step) const { return (int) threadIdx.x / 8 + step * kSoftColumns; }
    __device__ __forceinline__ int part() const { return (int) threadIdx.x % 8; }

    // Scores to weights for the columns of a step.
    __device__ __forceinline__ void soften(int step, const uint2 (&masks)[2]) {
        const int column = soft_column(step);
        if (kColumns < kSoftColumns && column >= kColumns) {  // a whole warp
            return;
        }
        const float * scores = at<float>(plan_.scores_at) + column * kScorePitch + 4 * part();
        const uint32_t mask[4] = { masks[0].x, masks[0].y, masks[1].x, masks[1].y };
        float x[8];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float4 sum = *(const float4 *) (scores + 32 * i);
            if constexpr (G::kKeySplits == 2) {
                const float4 more = *(const float4 *) (scores + kColumns * kScorePitch + 32 * i);
                sum = { sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w };
            }
            x[4 * i] = sum.x;
            x[4 * i + 1] = sum.y;
            x[4 * i + 2] = sum.z;
            x[4 * i + 3] = sum.w;
        }
        if (task_.softcap != 0.0f) {
#pragma unroll
            for (int i = 0; i < 8; i++) {  // the device's tanh is good for 11 bits
                x[i] = task_.softcap - 2.0f * task_.softcap / (1.0f + __expf(2.0f * x[i]));
            }
        }
        float largest = -INFINITY;
#pragma unroll
        for (int i = 0; i < 8; i++) {  // a cell that is not seen may hold anything, NaN included
            const uint32_t bits = mask[i / 2] >> 16 * (i % 2) & 0xffff;
            x[i] = bits == kHidden ? -INFINITY : x[i] + __half2float(__ushort_as_half((uint16_t) bits));
            largest = fmaxf(largest, x[i]);
        }
        const float before = max_[step], now = fmaxf(before, reduce_lanes<8>(largest, Max()));
        const float factor = before == now ? 1.0f : exp2f((before - now) * kLog2E);
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) {  // where all that is seen is NaN, so is the sum
            x[i] = x[i] == -INFINITY ? 0.0f : exp2f((x[i] - now) * kLog2E);
            sum += x[i];
        }
        max_[step] = now;
        sum_[step] = sum_[step] * factor + sum;
        auto * to = at<uint2>(plan_.weights_at) + (column * kWeightPitch) / 4 + part();
        to[0] = { as_word(__floats2half2_rn(x[0], x[1])), as_word(__floats2half2_rn(x[2], x[3])) };
        to[8] = { as_word(__floats2half2_rn(x[4], x[5])), as_word(__floats2half2_rn(x[6], x[7])) };
        if (part() == 0) {
            at<float>(plan_.factors_at)[column] = factor;
        }
    }

    __device__ __forceinline__ void scale_values() {
        const float * factors = at<float>(plan_.factors_at) + 2 * (lane_ % 4);
#pragma unroll
        for (int n = 0; n < tiles; n++) {
            const float2 f = *(const float2 *) (factors + n * kTileColumns);
            if (__any_sync(0xffffffffu, f.x != 1.0f || f.y != 1.0f)) {
#pragma unroll
                for (int m = 0; m < 4; m++) {
                    values_[n][m][0] *= f.x;
                    values_[n][m][1] *= f.y;
                    values_[n][m][2] *= f.x;
                    values_[n][m][3] *= f.y;
                }
            }
        }
    }

    // Adds a page's weighted values, of this warp's dimensions and part of the page.
    template <typename F> __device__ __forceinline__ void add_values() {
        const int g = lane_ / 4, t = lane_ % 4;
        constexpr int kOwn = kPage / 16 / G::kValueSplits;
        const int first = warp_ / G::kBlocks * kOwn * 16 + 2 * t;
        const char * v = memory_ + plan_.v_at + first * plan_.v.pitch + warp_ % G::kBlocks * F::kBytes;
        const half * weights = at<half>(plan_.weights_at) + g * kWeightPitch + first;
#pragma unroll 1
        for (int i = 0; i < kOwn; i++) {
            uint32_t x[8], y[8];
            const char * cell = v + i * 16 * plan_.v.pitch;
            F::values(cell, cell + plan_.v.pitch, g, x);
            F::values(cell + 8 * plan_.v.pitch, cell + 9 * plan_.v.pitch, g, y);
#pragma unroll
            for (int n = 0; n < tiles; n++) {
                const auto * w = (const uint32_t *) (weights + n * kTileColumns * kWeightPitch + i * 16);
                uint32_t b0 = w[0], b1 = w[4];
                if constexpr (F::kOneScale) {
                    b0 = times(b0, scales_of(cell, cell + plan_.v.pitch));
                    b1 = times(b1, scales_of(cell + 8 * plan_.v.pitch, cell + 9 * plan_.v.pitch));
                }
#pragma unroll
                for (int m = 0; m < 4; m++) {
                    add_product_f16(values_[n][m], x[2 * m], x[2 * m + 1], y[2 * m], y[2 * m + 1], b0, b1);
                }
            }
        }
    }

    __device__ __forceinline__ void attend(uint32_t pages) {
        int next = __ffs((int) pages) - 1;
        float4 queries[kItems][4];
        load_queries(queries);
        load(task_.k, plan_.k, next, plan_.k_at);
        load(task_.v, plan_.v, next, plan_.v_at);
        MaskRow masks[kSteps];
#pragma unroll
        for (int step = 0; step < kSteps; step++) {
            masks[step] = mask_of(plan_.row_of(first_column_ + min(soft_column(step), kColumns - 1)));
            masks[step].n_cells = is_column(soft_column(step)) ? task_.n_cells : 0;
        }
        with_format(task_.k.format, [&](auto f) { store_queries<decltype(f)>(queries); });
#pragma unroll 1
        while (pages != 0) {
            const int cell = chunk().first_cells[next] + 4 * part();
            pages &= pages - 1;
            next = __ffs((int) pages) - 1;
            uint2 mask[kSteps][2];
#pragma unroll
            for (int step = 0; step < kSteps; step++) {
                mask[step][0] = masks[step].four(cell);
                mask[step][1] = masks[step].four(cell + 32);
            }
            wait_for_group<1>();
            __syncthreads();
            with_format(task_.k.format, [&](auto f) { score<decltype(f)>(); });
            __syncthreads();
            if (pages != 0) {
                load(task_.k, plan_.k, next, plan_.k_at);
            } else {
                end_group();
            }
#pragma unroll
            for (int step = 0; step < kSteps; step++) {
                soften(step, mask[step]);
            }
            wait_for_group<1>();
            __syncthreads();
            scale_values();
            with_format(task_.v.format, [&](auto f) { add_values<decltype(f)>(); });
            __syncthreads();
            if (pages != 0) {
                load(task_.v, plan_.v, next, plan_.v_at);
            } else {
                end_group();
            }
        }
    }

    // Adds up the parts of the page, in their order; the first part's warps have the sums.
    __device__ __forceinline__ void add_parts() {
        constexpr int kStride = G::kBlocks * tiles * 4 * kWarp;  // of a part, a tile's four sums of each lane together
        const int part = warp_ / G::kBlocks;
        float4 * sums = at<float4>(0) + warp_ % G::kBlocks * tiles * 4 * kWarp + lane_;
        if (part > 0) {
#pragma unroll
            for (int i = 0; i < tiles * 4; i++) {
                const float (&x)[4] = values_[i / 4][i % 4];
                sums[(part - 1) * kStride + i * kWarp] = { x[0], x[1], x[2], x[3] };
            }
        }
        __syncthreads();
        for (int p = 0; part == 0 && p < G::kValueSplits - 1; p++) {
#pragma unroll
            for (int i = 0; i < tiles * 4; i++) {
                const float4 x = sums[p * kStride + i * kWarp];
                float (&sum)[4] = values_[i / 4][i % 4];
                sum[0] += x.x;
                sum[1] += x.y;
                sum[2] += x.z;
                sum[3] += x.w;
            }
        }
    }

    // Weighted means.
    __device__ __forceinline__ void store_values(half * values) {
        if constexpr (G::kValueSplits > 1) {
            add_parts();
            if (warp_ >= G::kBlocks) {
                return;
            }
        }
        const int g = lane_ / 4, t = lane_ % 4, block = warp_ % G::kBlocks;
        const int2 dims = with_format(
            task_.v.format, [&](auto f) { return make_int2(decltype(f)::dim(g, 0), decltype(f)::dim(g, 1)); });
        const float * inverse_sums = at<float>(plan_.factors_at) + 2 * t;
        half * all = values + plan_.state(unit_, chunk().number, first_column_ + 2 * t) * head_size + block * 64;
#pragma unroll
        for (int n = 0; n < tiles; n++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                if (is_column(n * kTileColumns + 2 * t + e)) {
                    const float by = inverse_sums[n * kTileColumns + e];
                    uint32_t x[4];
#pragma unroll
                    for (int m = 0; m < 4; m++) {
                        x[m] = as_word(__floats2half2_rn(values_[n][m][e] * by, values_[n][m][2 + e] * by));
                    }
                    half * to = all + (n * kTileColumns + e) * head_size;
                    if (dims.y == dims.x + 4) {
                        *(uint4 *) (to + dims.x) = { x[0], x[1], x[2], x[3] };
                    } else {
                        *(uint2 *) (to + dims.x) = { x[0], x[1] };
                        *(uint2 *) (to + dims.y) = { x[2], x[3] };
                    }
                }
            }
        }
    }

    // And what the columns' sums are divided by.
    __device__ __forceinline__ void store_states(State * states) const {
#pragma unroll
        for (int step = 0; step < kSteps; step++) {
            const int column = soft_column(step);
            const float sum = reduce_lanes<8>(sum_[step], Sum());
            if (column < kColumns && part() == 0) {
                at<float>(plan_.factors_at)[column] = sum > 0.0f ? 1.0f / sum : 0.0f;
                if (is_column(column)) {
                    states[plan_.state(unit_, chunk().number, first_column_ + column)] = { max_[step], sum };
                }
            }
        }
    }

    float max_[kSteps];
    float sum_[kSteps] = {};
    // Of a tile: four pairs of dimensions, each for columns 2 t and 2 t + 1, the pair's second behind its first.
    float values_[tiles][4][4] = {};
};

// Blocks of threads on a multiprocessor, for which registers must be left.
template <int head_size, int tiles> constexpr int kResident = (tiles == 1 ? 24 : 16) / Geometry<head_size>::kWarps;

template <int head_size, int tiles>
__global__ __launch_bounds__(Geometry<head_size>::kThreads,
                             kResident<head_size, tiles>) void attend_chunks(const __grid_constant__ Plan plan,
                                                                             void * work) {
    extern __shared__ uint4 memory[];
    // The longest first; there are more chunks than blocks only where sequences share pages.
    for (int i = (int) (gridDim.y - 1 - blockIdx.y);;) {
        const int n_chunks = Chunk<head_size, tiles>(plan, (char *) memory).run(i, work);
        i += (int) gridDim.y;
        if (i >= n_chunks) {
            return;
        }
        __syncthreads();
    }
}

// Launches attend_chunks; a source for each head size has it.
template <int head_size> void launch_chunks(const Plan & plan, void * work, cudaStream_t stream);

}  // namespace pmtp::attention::cuda
