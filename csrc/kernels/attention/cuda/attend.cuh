// The kernel that computes chunks.
#pragma once

#include "kernels/attention/cuda/layout.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"

namespace pmtp::attention::cuda {

constexpr float kLog2E = 1.44269504088896f;
constexpr uint32_t kHidden = 0xfc00;  // minus infinity, as a half

// c += a b. A lane (g = lane / 4, t = lane % 4) has of a, 16 by 16, rows g and g + 8 in turn, columns 2 t, 2 t + 1 and
// then 2 t + 8, 2 t + 9; of b, 16 by 8, the same rows of column g; of c rows g, then g + 8, of columns 2 t, 2 t + 1.
__device__ __forceinline__ void multiply(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                         uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#endif
}

// Copies n_bytes in the background; 0 are written where `there` is false.
template <int n_bytes> __device__ __forceinline__ void copy(char * to, const char * from, bool there) {
    if constexpr (n_bytes == 2) {
        *(uint16_t *) to = there ? *(const uint16_t *) from : (uint16_t) 0;
    } else {
#if __CUDA_ARCH__ >= 800
        const auto at = (uint32_t) __cvta_generic_to_shared(to);
        const int n_read = there ? n_bytes : 0;
        if constexpr (n_bytes == 16) {
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(n_read));
        } else {
            asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(at), "l"(from), "n"(n_bytes),
                         "r"(n_read));
        }
#endif
    }
}

__device__ __forceinline__ void end_group() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;");
#endif
}

// Until all groups but the last n_newer have come.
template <int n_newer> __device__ __forceinline__ void wait_for_group() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(n_newer));
#endif
}

// A page of keys or values of one head.
struct Page {
    const char * cells;  // of the head's first cell
    int64_t stride;
    int n_cells, row_bytes, pitch;

    template <int n_bytes> __device__ __forceinline__ void copy_in(int page, char * to) const {
        const int n = row_bytes / n_bytes;
        for (int i = threadIdx.x; i < kPage * n; i += blockDim.x) {
            const int cell = i / n, at = i % n * n_bytes;
            const bool there = page * kPage + cell < n_cells;
            copy<n_bytes>(to + cell * pitch + at, cells + (there ? page * kPage + cell : 0) * stride + at, there);
        }
    }

    __device__ __forceinline__ void load(int page, char * to) const {
        const auto offsets = (uint32_t) ((uintptr_t) cells | (uintptr_t) stride | (uintptr_t) row_bytes);
        if (offsets % 16 == 0) {
            copy_in<16>(page, to);
        } else if (offsets % 8 == 0) {
            copy_in<8>(page, to);
        } else if (offsets % 4 == 0) {
            copy_in<4>(page, to);
        } else {
            copy_in<2>(page, to);
        }
    }
};

template <int head_size> class Chunk {
    using G = Geometry<head_size>;
    static constexpr int kThreads = G::kWarps * kWarp;
    // Columns of a step of the softmax, eight threads each.
    static constexpr int kSoftColumns = kThreads / 8;
    static constexpr int kSteps = kMaxTiles * kTileColumns / kSoftColumns;

  public:
    __device__ Chunk(const Task & task, const Cut & cut, char * memory)
        : task_(task),
          cut_(cut),
          s_(shared_of<head_size>(task, cut.n_tiles)),
          memory_(memory),
          chunk_((int) (gridDim.x - 1 - blockIdx.x)),
          unit_((int) blockIdx.z),
          head_(unit_ % task.n_kv_heads),
          batch_(unit_ / task.n_kv_heads),
          first_column_((int) blockIdx.y * cut.block_columns()),
          lane_((int) threadIdx.x % kWarp),
          warp_((int) threadIdx.x / kWarp) {
#pragma unroll
        for (int step = 0; step < kSteps; step++) {
            max_[step] = -INFINITY;
        }
    }

    __device__ void run(void * work_memory) {
        let_next_begin();
        if (!task_.mask_is_old) {
            wait_for_previous();
        }
        const int n_pages = find_pages();
        if (task_.mask_is_old) {
            wait_for_previous();
        }
        const Work work(work_memory, cut_);
        if (n_pages > 0) {
            attend(n_pages);
            store_values(work);
        }
        store_states(work);
    }

  private:
    template <typename T> __device__ __forceinline__ T * at(int offset) const { return (T *) (memory_ + offset); }
    __device__ __forceinline__ int row_of(int column) const { return (first_column_ + column) / cut_.group; }
    __device__ __forceinline__ bool is_column(int column) const { return first_column_ + column < cut_.columns; }

    __device__ __forceinline__ const uint16_t * mask_of(int row) const {
        return (const uint16_t *) (task_.mask + batch_ % task_.mask_batches * task_.mask_batch_stride +
                                   row * task_.mask_row_stride);
    }

    // The pages of the chunk that somebody sees, with a bit for each tile of columns that does: how many.
    __device__ __forceinline__ int find_pages() {
        int * numbers = at<int>(s_.pages);
        int * seen_by = numbers + kMaxChunkPages;
        const int all_pages = (task_.n_cells + kPage - 1) / kPage;
        const int begin = chunk_begin(chunk_), end = min(chunk_begin(chunk_ + 1), all_pages);
        const int last_row = row_of(min(cut_.block_columns(), cut_.columns - first_column_) - 1);
        for (int i = warp_; i < end - begin; i += G::kWarps) {
            uint32_t seen = task_.mask == nullptr ? (1u << cut_.n_tiles) - 1 : 0;
            for (int row = row_of(0); task_.mask != nullptr && row <= last_row; row++) {
                const int cell = (begin + i) * kPage + lane_;
                const uint16_t * mask = mask_of(row);
                const bool sees = (cell < task_.n_cells && mask[cell] != kHidden) ||
                                  (cell + kWarp < task_.n_cells && mask[cell + kWarp] != kHidden);
                if (__any_sync(0xffffffffu, sees)) {
                    const int first = max(row * cut_.group - first_column_, 0) / kTileColumns;
                    const int last = min(row * cut_.group + cut_.group - 1 - first_column_,
                                         cut_.block_columns() - 1) / kTileColumns;
                    seen |= (2u << last) - (1u << first);
                }
            }
            if (lane_ == 0) {
                numbers[i] = begin + i;
                seen_by[i] = (int) seen;
            }
        }
        __syncthreads();
        int n = 0;
        int number = 0, seen = 0;
        for (int i = 0; i < end - begin; i++) {  // thread n keeps the n-th that is seen
            if (seen_by[i] != 0) {
                if (n == (int) threadIdx.x) {
                    number = numbers[i];
                    seen = seen_by[i];
                }
                n++;
            }
        }
        __syncthreads();
        if ((int) threadIdx.x < n) {
            numbers[threadIdx.x] = number;
            seen_by[threadIdx.x] = seen;
        }
        __syncthreads();
        return n;
    }

    __device__ __forceinline__ Page page_of(const Cells & cells, int pitch) const {
        const int block = with_format(cells.format, [](auto f) { return decltype(f)::kBytes; });
        return { cells.data + head_ * cells.head_stride +
                     batch_ / (task_.n_batches / task_.kv_batches) * cells.batch_stride,
                 cells.cell_stride, task_.n_cells, G::kBlocks * block, pitch };
    }

    // Queries as halves, scaled, in the order of the keys' format.
    template <typename F> __device__ __forceinline__ void load_queries() const {
        const float scale = task_.softcap != 0.0f ? task_.scale / task_.softcap : task_.scale;
        for (int i = threadIdx.x; i < cut_.block_columns() * G::kBlocks * 4; i += kThreads) {
            const int t = i % 4, block = i / 4 % G::kBlocks, column = i / 4 / G::kBlocks;
            __align__(16) half out[16] = {};
            if (is_column(column)) {
                const int head = head_ * cut_.group + (first_column_ + column) % cut_.group;
                const auto * q = (const float *) (task_.q + batch_ * task_.q_batch_stride + head * task_.q_head_stride +
                                                  row_of(column) * task_.q_row_stride) + block * 64;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const float4 x =
                        *(const float4 *) (q + (F::kWide ? 8 * t + 4 * (j % 2) + 32 * (j / 2) : 4 * t + 16 * j));
                    out[F::place(j, 0)] = __float2half_rn(x.x * scale);
                    out[F::place(j, 1)] = __float2half_rn(x.y * scale);
                    out[F::place(j, 2)] = __float2half_rn(x.z * scale);
                    out[F::place(j, 3)] = __float2half_rn(x.w * scale);
                }
            }
            auto * to = at<uint4>(s_.q + column * s_.q_pitch + block * 128 + t * 32);
            to[0] = ((const uint4 *) out)[0];
            to[1] = ((const uint4 *) out)[1];
        }
    }

    // Of a column's cells 4 part ... and 32 + 4 part ..., what the mask adds.
    __device__ __forceinline__ void load_mask(int page, int step, half (&mask)[8]) const {
        const int column = (int) threadIdx.x / 8 + step * kSoftColumns, part = (int) threadIdx.x % 8;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int cell = page * kPage + i / 4 * 32 + 4 * part + i % 4;
            uint32_t bits = kHidden;
            if (is_column(column) && cell < task_.n_cells) {
                bits = task_.mask != nullptr ? mask_of(row_of(column))[cell] : 0;
            }
            mask[i] = __ushort_as_half((uint16_t) bits);
        }
    }

    // Scores of 16 keys, over this warp's share of their values.
    template <typename F> __device__ __forceinline__ void score(uint32_t seen) const {
        const int g = lane_ / 4, t = lane_ % 4, first = warp_ % 4 * 16, split = warp_ / 4;
        constexpr int kOwn = G::kBlocks / G::kKeySplits;
        float sums[kMaxTiles][4] = {};
        const char * k = memory_ + s_.k + (first + g) * s_.k_pitch + split * kOwn * F::kBytes;
        const char * q = memory_ + s_.q + g * s_.q_pitch + split * kOwn * 128 + 32 * t;
#pragma unroll 1
        for (int b = 0; b < kOwn; b++) {
            uint32_t x[8], y[8];
            F::keys(k + b * F::kBytes, t, x);
            F::keys(k + 8 * s_.k_pitch + b * F::kBytes, t, y);
#pragma unroll
            for (int n = 0; n < kMaxTiles; n++) {
                if (seen >> n & 1) {
                    const auto * columns = (const uint4 *) (q + n * kTileColumns * s_.q_pitch + b * 128);
                    const uint4 c = columns[0], d = columns[1];
                    multiply(sums[n], x[0], y[0], x[1], y[1], c.x, c.y);
                    multiply(sums[n], x[2], y[2], x[3], y[3], c.z, c.w);
                    multiply(sums[n], x[4], y[4], x[5], y[5], d.x, d.y);
                    multiply(sums[n], x[6], y[6], x[7], y[7], d.z, d.w);
                }
            }
        }
        float * scores = at<float>(s_.scores) + (split * cut_.block_columns() + 2 * t) * kScorePitch + first + g;
#pragma unroll
        for (int n = 0; n < kMaxTiles; n++) {
            if (seen >> n & 1) {
                float * to = scores + n * kTileColumns * kScorePitch;
                to[0] = sums[n][0];
                to[kScorePitch] = sums[n][1];
                to[8] = sums[n][2];
                to[kScorePitch + 8] = sums[n][3];
            }
        }
    }

    // Scores to weights for the columns of a step.
    __device__ __forceinline__ void soften(int step, const half (&mask)[8], uint32_t seen) {
        const int column = (int) threadIdx.x / 8 + step * kSoftColumns, part = (int) threadIdx.x % 8;
        if (!(seen >> column / kTileColumns & 1)) {  // a whole warp, whose columns are of one tile
            return;
        }
        const float * scores = at<float>(s_.scores) + column * kScorePitch + 4 * part;
        float x[8];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float4 sum = *(const float4 *) (scores + 32 * i);
            if constexpr (G::kKeySplits == 2) {
                const float4 more = *(const float4 *) (scores + cut_.block_columns() * kScorePitch + 32 * i);
                sum = { sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w };
            }
            x[4 * i] = sum.x;
            x[4 * i + 1] = sum.y;
            x[4 * i + 2] = sum.z;
            x[4 * i + 3] = sum.w;
        }
        float largest = -INFINITY;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            if (task_.softcap != 0.0f) {  // the device's tanh is good for 11 bits
                x[i] = task_.softcap - 2.0f * task_.softcap / (1.0f + __expf(2.0f * x[i]));
            }
            // A cell that is not seen may hold anything, NaN included.
            x[i] = __half_as_ushort(mask[i]) == kHidden ? -INFINITY : x[i] + __half2float(mask[i]);
            largest = fmaxf(largest, x[i]);
        }
        const float before = max_[step], now = fmaxf(before, reduce_lanes<8>(largest, Max()));
        const float factor = before == now ? 1.0f : exp2f((before - now) * kLog2E);
        float sum = 0.0f;
        half2 weights[4];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            x[i] = now == -INFINITY ? 0.0f : exp2f((x[i] - now) * kLog2E);
            sum += x[i];
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            weights[i] = __floats2half2_rn(x[2 * i], x[2 * i + 1]);
        }
        max_[step] = now;
        sum_[step] = sum_[step] * factor + sum;
        auto * to = at<half>(s_.weights) + column * kWeightPitch + 4 * part;
        *(uint2 *) to = ((const uint2 *) weights)[0];
        *(uint2 *) (to + 32) = ((const uint2 *) weights)[1];
        if (part == 0) {
            at<float>(s_.factors)[column] = factor;
        }
    }

    // Adds a page's weighted values, of this warp's dimensions and part of the page.
    template <typename F> __device__ __forceinline__ void add_values(uint32_t seen) {
        const int g = lane_ / 4, t = lane_ % 4;
        constexpr int kOwn = kPage / 16 / G::kValueSplits;
        const float * factors = at<float>(s_.factors) + 2 * t;
#pragma unroll
        for (int n = 0; n < kMaxTiles; n++) {
            if (seen >> n & 1) {
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
        const int first = warp_ / G::kBlocks * kOwn * 16 + 2 * t;
        const char * v = memory_ + s_.v + first * s_.v_pitch + warp_ % G::kBlocks * F::kBytes;
        const half * weights = at<half>(s_.weights) + g * kWeightPitch + first;
#pragma unroll 1
        for (int i = 0; i < kOwn; i++) {
            uint32_t x[8], y[8];
            const char * cell = v + i * 16 * s_.v_pitch;
            F::values(cell, cell + s_.v_pitch, g, x);
            F::values(cell + 8 * s_.v_pitch, cell + 9 * s_.v_pitch, g, y);
#pragma unroll
            for (int n = 0; n < kMaxTiles; n++) {
                if (seen >> n & 1) {
                    const auto * w = (const uint32_t *) (weights + n * kTileColumns * kWeightPitch + i * 16);
                    const uint32_t b0 = w[0], b1 = w[4];
#pragma unroll
                    for (int m = 0; m < 4; m++) {
                        multiply(values_[n][m], x[2 * m], x[2 * m + 1], y[2 * m], y[2 * m + 1], b0, b1);
                    }
                }
            }
        }
    }

    __device__ __forceinline__ void attend(int n_pages) {
        const Page k = page_of(task_.k, s_.k_pitch), v = page_of(task_.v, s_.v_pitch);
        const int * numbers = at<int>(s_.pages);
        k.load(numbers[0], memory_ + s_.k);
        end_group();
        v.load(numbers[0], memory_ + s_.v);
        end_group();
        with_format(task_.k.format, [&](auto f) { load_queries<decltype(f)>(); });
#pragma unroll 1
        for (int i = 0; i < n_pages; i++) {
            const auto seen = (uint32_t) numbers[kMaxChunkPages + i];
            half mask[kSteps][8];
#pragma unroll
            for (int step = 0; step < kSteps; step++) {
                load_mask(numbers[i], step, mask[step]);
            }
            wait_for_group<1>();
            __syncthreads();
            with_format(task_.k.format, [&](auto f) { score<decltype(f)>(seen); });
            __syncthreads();
            if (i + 1 < n_pages) {
                k.load(numbers[i + 1], memory_ + s_.k);
            }
            end_group();
#pragma unroll
            for (int step = 0; step < kSteps; step++) {
                soften(step, mask[step], seen);
            }
            wait_for_group<1>();
            __syncthreads();
            with_format(task_.v.format, [&](auto f) { add_values<decltype(f)>(seen); });
            __syncthreads();
            if (i + 1 < n_pages) {
                v.load(numbers[i + 1], memory_ + s_.v);
            }
            end_group();
        }
    }

    __device__ __forceinline__ void store_values(const Work & work) {
        const int g = lane_ / 4, t = lane_ % 4, block = warp_ % G::kBlocks, part = warp_ / G::kBlocks;
        const bool by_format = task_.v.format == Format::turbo4 || task_.v.format == Format::q4_0;
        int dims[2] = { 8 * g, 8 * g + 4 };
        if (by_format) {
            with_format(task_.v.format, [&](auto f) {
                dims[0] = decltype(f)::dim(g, 0);
                dims[1] = decltype(f)::dim(g, 1);
            });
        }
        const auto value = [&](int n, int e, int jd) -> float & { return values_[n][jd / 2][jd % 2 * 2 + e]; };
        if constexpr (G::kValueSplits > 1) {  // the parts of the page, added in their order
            float4 * sums = at<float4>(0);
#pragma unroll
            for (int n = 0; n < kMaxTiles; n++) {
                if (n < cut_.n_tiles && part > 0) {
#pragma unroll
                    for (int m = 0; m < 4; m++) {
                        const float(&x)[4] = values_[n][m];
                        sums[(((part - 1) * G::kBlocks + block) * cut_.n_tiles + n) * 4 * kWarp + m * kWarp + lane_] = {
                            x[0], x[1], x[2], x[3]
                        };
                    }
                }
            }
            __syncthreads();
            if (part > 0) {
                return;
            }
#pragma unroll
            for (int p = 0; p < G::kValueSplits - 1; p++) {
#pragma unroll
                for (int n = 0; n < kMaxTiles; n++) {
                    if (n < cut_.n_tiles) {
#pragma unroll
                        for (int m = 0; m < 4; m++) {
                            const float4 x = sums[((p * G::kBlocks + block) * cut_.n_tiles + n) * 4 * kWarp + m * kWarp +
                                                  lane_];
                            values_[n][m][0] += x.x;
                            values_[n][m][1] += x.y;
                            values_[n][m][2] += x.z;
                            values_[n][m][3] += x.w;
                        }
                    }
                }
            }
        }
#pragma unroll
        for (int n = 0; n < kMaxTiles; n++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int column = n * kTileColumns + 2 * t + e;
                if (n < cut_.n_tiles && is_column(column)) {
                    float * to =
                        work.values + cut_.state(unit_, chunk_, first_column_ + column) * head_size + block * 64;
                    *(float4 *) (to + dims[0]) = { value(n, e, 0), value(n, e, 1), value(n, e, 2), value(n, e, 3) };
                    *(float4 *) (to + dims[1]) = { value(n, e, 4), value(n, e, 5), value(n, e, 6), value(n, e, 7) };
                }
            }
        }
    }

    __device__ __forceinline__ void store_states(const Work & work) {
#pragma unroll
        for (int step = 0; step < kSteps; step++) {
            const int column = (int) threadIdx.x / 8 + step * kSoftColumns;
            const float sum = reduce_lanes<8>(sum_[step], Sum());
            if (column < cut_.block_columns() && threadIdx.x % 8 == 0 && is_column(column)) {
                work.states[cut_.state(unit_, chunk_, first_column_ + column)] = { max_[step], sum };
            }
        }
    }

    const Task & task_;
    const Cut & cut_;
    const Shared s_;
    char * const memory_;
    const int chunk_, unit_, head_, batch_, first_column_, lane_, warp_;
    float max_[kSteps];
    float sum_[kSteps] = {};
    // A lane's sums: of tile, four pairs of dimensions, first and second of a pair, for columns 2 t and 2 t + 1.
    float values_[kMaxTiles][4][4] = {};
};

template <int head_size> __global__ __launch_bounds__(Geometry<head_size>::kWarps * kWarp, 2)
void attend_chunks(const __grid_constant__ Task task, void * work) {
    extern __shared__ uint4 memory[];
    const Cut cut(task);
    Chunk<head_size>(task, cut, (char *) memory).run(work);
}

// Launches attend_chunks; one source a head size, for the compiler's sake.
template <int head_size> void launch_chunks(const Task & task, void * work, cudaStream_t stream);

}  // namespace pmtp::attention::cuda
