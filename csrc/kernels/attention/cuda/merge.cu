// Merges the chunks of each column, which may come in any order: a sequence's pages lie anywhere in the cache, and its
// result must not depend on where. So sums of chunks are taken in fixed point.
#include "kernels/attention/cuda/fixed_point.cuh"
#include "kernels/attention/cuda/merge_rows.cuh"
#include "kernels/attention/cuda/table.cuh"

#include <type_traits>

namespace pmtp::attention::cuda {
namespace {

// Dimensions of a lane.
constexpr int kOwn = 8;
// Lanes that have a chunk.
constexpr int kLanes = kSlice / kOwn;
// Warps of a block of threads: few, or many where there are more chunks than few warps read at once.
constexpr int kFewWarps = 8, kManyWarps = 32;
constexpr int kFewChunks = 2 * kWarp;
static_assert(kFewChunks == 2 * kFewWarps * kWarp / kLanes, "a thread has two of them");

// R x of the kSlice values that the threads of two warps have, in the order of turboquant/cuda/rotate_row.cuh. All
// threads of the block call it.
__device__ __forceinline__ float rotate(float x, float sign, float (&memory)[kSlice]) {
    const int thread = (int) threadIdx.x;
    x *= copysignf(0.125f, sign);
    if (thread < kSlice) {
        memory[thread] = rotate_half(x);
    }
    __syncthreads();
    if (thread < kSlice) {
        const float a = memory[thread % kWarp], b = memory[thread % kWarp + kWarp];
        x = thread < kWarp ? a + b : a - b;
    }
    return sign < 0.0f ? -x : x;
}

// What the chunks of a column weigh, and the sum of that. Of few every warp finds all by itself, two a lane: to wait
// for other warps would take longer. All lanes call at().
class FewWeights {
  public:
    static constexpr int kWarps = kFewWarps;
    struct Memory {};

    template <typename StateOf>
    __device__ __forceinline__ FewWeights(Memory &, int, float sink, const StateOf & state_of) {
        const int lane = (int) threadIdx.x % kWarp;
        const State states[2] = { state_of(lane), state_of(lane + kWarp) };
        max = reduce_lanes<kWarp>(fmaxf(sink, fmaxf(states[0].max, states[1].max)), Max());
        weights_[0] = weight_of(states[0], max);
        weights_[1] = weight_of(states[1], max);
        fixed_sum = reduce_lanes<kWarp>(
            __float2ll_rn(weights_[0] * kWeightOne) + __float2ll_rn(weights_[1] * kWeightOne), Sum());
    }

    __device__ __forceinline__ float at(int chunk) const {
        return __shfl_sync(0xffffffffu, chunk < kWarp ? weights_[0] : weights_[1], chunk % kWarp);
    }

    float max;
    long long fixed_sum;

  private:
    float weights_[2];
};

class ManyWeights {
  public:
    static constexpr int kWarps = kManyWarps;
    struct Memory {
        BlockReducerMemory<float> of_max;
        BlockReducerMemory<long long> of_sum;
    };

    template <typename StateOf>
    __device__ __forceinline__ ManyWeights(Memory & memory, int n_chunks, float sink, const StateOf & state_of)
        : n_chunks_(n_chunks) {
        const int thread = (int) threadIdx.x, n_threads = kWarps * kWarp;
        const State first = state_of(thread);
        max = fmaxf(sink, first.max);
        for (int c = thread + n_threads; c < n_chunks; c += n_threads) {
            max = fmaxf(max, state_of(c).max);
        }
        max = BlockReducer<float>(memory.of_max)(max, Max());
        fixed_sum = 0;
        for (int c = thread; c < n_chunks; c += n_threads) {
            const float weight = weight_of(c < n_threads ? first : state_of(c), max);
            weights()[c] = weight;
            fixed_sum += __float2ll_rn(weight * kWeightOne);
        }
        fixed_sum = BlockReducer<long long>(memory.of_sum)(fixed_sum, Sum());  // a barrier too
    }

    __device__ __forceinline__ float at(int chunk) const { return chunk < n_chunks_ ? weights()[chunk] : 0.0f; }

    float max;
    long long fixed_sum;

  private:
    static __device__ __forceinline__ float * weights() {
        extern __shared__ float memory[];  // [n_chunks]
        return memory;
    }

    const int n_chunks_;
};

// Block x has dimensions kSlice x ... of column y of unit z.
template <typename Weights>
__global__ __launch_bounds__(Weights::kWarps * kWarp) void merge_chunks(const __grid_constant__ Plan plan,
                                                                        void * work_memory) {
    constexpr int kWarps = Weights::kWarps;
    // Chunks that are read at once: each sum is taken over every kStep-th chunk.
    constexpr int kStep = kWarps * kWarp / kLanes;
    __shared__ typename Weights::Memory weight_memory;
    __shared__ long long parts[kWarps][kSlice];
    __shared__ float invalid[kWarps], unrotated[kSlice];
    const Task & task = plan.task;
    const Work work(work_memory, plan);
    const int column = (int) blockIdx.y, unit = (int) blockIdx.z, thread = (int) threadIdx.x;
    const int batch = task.n_batches == 1 ? 0 : unit / task.n_kv_heads;
    const int row = plan.row_of(column);
    const int head = (unit - batch * task.n_kv_heads) * plan.group + column - row * plan.group;
    const int own = thread / kLanes, at = (int) blockIdx.x * kSlice + thread % kLanes * kOwn;
    const auto values_of = [&](int c) {
        return *(const uint4 *) (work.values + plan.state(unit, c, column) * task.head_size + at);
    };
    int n_chunks = task.mask_is_old ? chunks_of(plan, row) : 0;
    const auto state_of = [&](int c) {
        return c < n_chunks ? work.states[plan.state(unit, c, column)] : State{ -INFINITY, 0.0f };
    };

    const float sign = task.signs != nullptr ? task.signs[thread % kSlice] : 1.0f;
    wait_for_previous();
    let_next_begin();
    if (!task.mask_is_old) {
        n_chunks = chunks_of(plan, row);
    }
    const float sink = task.sinks != nullptr ? task.sinks[head] : -INFINITY;
    // Of the first chunks the values come while their weights do; of one that saw nothing they may be anything.
    const uint4 first = own < n_chunks ? values_of(own) : uint4{};
    const Weights weights(weight_memory, n_chunks, sink, state_of);
    const float inverse_sum = inverse_of(weights.fixed_sum, sink, weights.max);
    FixedSums<kOwn> sums;
    const auto add = [&](float weight, const uint4 & x) { sums.add(weight, { x.x, x.y, x.z, x.w }); };
    if (const float weight = weights.at(own); weight != 0.0f) {
        add(weight * inverse_sum, first);
    }
#pragma unroll 4
    for (int c = own + kStep; c - own < n_chunks; c += kStep) {  // as often for all lanes
        const float weight = weights.at(c) * inverse_sum;
        add(weight, weight != 0.0f ? values_of(c) : uint4{});
    }
    const float any_invalid = reduce_lanes<kWarp>(sums.invalid, Sum());
    if (thread % kWarp == 0) {
        invalid[thread / kWarp] = any_invalid;
    }
#pragma unroll
    for (int i = 0; i < kOwn; i++) {
        long long x = sums.x[i];
#pragma unroll
        for (int offset = kLanes; offset < kWarp; offset *= 2) {
            x += __shfl_xor_sync(0xffffffffu, x, offset);
        }
        if (thread % kWarp < kLanes) {
            parts[thread / kWarp][thread % kLanes * kOwn + i] = x;
        }
    }
    __syncthreads();
    float x = 0.0f;
    if (thread < kSlice) {
        long long total = 0;
        float poison = 0.0f;
#pragma unroll
        for (int i = 0; i < kWarps; i++) {
            total += parts[i][thread];
            poison += invalid[i];
        }
        x = __ll2float_rn(total) * (1.0f / kValueOne) + poison;
    }
    if (task.rotates) {
        x = rotate(x, sign, unrotated);
    }
    if (thread < kSlice) {
        const int n = task.n_heads * task.head_size, in_row = head * task.head_size + blockIdx.x * kSlice + thread;
        const float out[1] = { x };
        task.result[((size_t) batch * task.all_rows + task.first_row + row) * n + in_row] = out[0];
        if (task.quantised != nullptr) {
            pmtp_quantise(out, pmtp_place(task.quantised, n, task.all_rows, task.first_row + row, in_row / 32));
        }
    }
}

// visit(Plan, its head size as a constant).
template <typename Visit> void with_plan(const Task & task, Visit visit) {
    int device = 0;
    int limit = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    const auto with_size = [&](auto size) { visit(Plan::of<size>(task, limit), size, limit); };
    switch (task.head_size) {
        case 64: with_size(std::integral_constant<int, 64>()); break;
        case 128: with_size(std::integral_constant<int, 128>()); break;
        case 256: with_size(std::integral_constant<int, 256>()); break;
        case 512: with_size(std::integral_constant<int, 512>()); break;
        default: break;
    }
}

// Bytes of work memory for the rows that are computed at once, if they are more than a verify batch's: few enough that
// the device's cache still has them when they are merged, or where cells are many, which are read again for each such
// part of the rows, more.
constexpr size_t kWorkBytes = 48 << 20, kLongWorkBytes = 192 << 20;
constexpr int kLongChunks = 128;

// Of a part of the rows, which has no others.
Task rows_of(const Task & task, int first, int n_rows) {
    Task out = task;
    out.q += first * task.q_row_stride;
    out.mask = task.mask != nullptr ? task.mask + first * task.mask_row_stride : nullptr;
    out.n_rows = n_rows;
    out.first_row = first;
    out.all_rows = task.n_rows;
    return out;
}

template <int head_size> size_t bytes_of(const Plan & plan) {
    return values_at(plan.n_states()) + plan.n_states() * head_size * sizeof(half);
}

// How many rows are computed at once.
int rows_at_once(const Task & task) {
    int n_rows = std::min(task.n_rows, kMaxColumns / (task.n_heads / task.n_kv_heads));
    if (task.n_rows > kVerifyRows) {
        with_plan(rows_of(task, 0, kVerifyRows), [&](const Plan & plan, auto size, int) {
            const size_t most = plan.n_chunks <= kLongChunks ? kWorkBytes : kLongWorkBytes;
            const size_t fitting = most / bytes_of<size>(plan) * kVerifyRows;
            n_rows = std::min<size_t>(n_rows, std::max<size_t>(fitting, kVerifyRows));
        });
    }
    return n_rows;
}

}  // namespace

size_t work_size(const Task & t) {
    size_t bytes = 0;
    if (t.n_cells > 0 && t.n_rows > 0 && t.n_heads % t.n_kv_heads == 0 && t.n_heads / t.n_kv_heads <= kMaxGroup &&
        t.n_batches % t.kv_batches == 0 && t.n_kv_heads * t.n_batches < 1 << 16) {
        with_plan(rows_of(t, 0, rows_at_once(t)), [&](const Plan & plan, auto size, int limit) {
            bytes = plan.shared_bytes <= limit ? bytes_of<size>(plan) : 0;
        });
    }
    return bytes;
}

void attend(const Task & task, void * work, cudaStream_t stream) {
    const int at_once = rows_at_once(task);
    for (int first = 0; first < task.n_rows; first += at_once) {
        with_plan(rows_of(task, first, std::min(at_once, task.n_rows - first)), [&](const Plan & plan, auto size, int) {
            launch_chunks<size>(plan, work, stream);
            if (task.n_rows > kVerifyRows && plan.n_chunks <= kMostMergedChunks) {
                launch_merge_rows(plan, work, stream);
                return;
            }
            const dim3 grid(size / kSlice, (unsigned) plan.columns, (unsigned) plan.n_units);
            const bool few = plan.n_chunks <= kFewChunks;
            launch_early(few ? merge_chunks<FewWeights> : merge_chunks<ManyWeights>, grid,
                         (few ? kFewWarps : kManyWarps) * kWarp, stream, few ? 0 : plan.n_chunks * sizeof(float), plan,
                         work);
        });
    }
}

}  // namespace pmtp::attention::cuda
