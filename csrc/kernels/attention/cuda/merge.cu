// Merges the chunks of each column in their order.
#include "kernels/attention/cuda/attend.cuh"

#include <type_traits>

namespace pmtp::attention::cuda {
namespace {

constexpr int kMergeWarps = 8;
// Dimensions of a block, two a lane.
constexpr int kSlice = 64;

// Block x has dimensions kSlice x ... of column y of unit z. Every kMergeWarps-th chunk is one warp's.
__global__ __launch_bounds__(kMergeWarps * kWarp) void merge_chunks(const __grid_constant__ Plan plan,
                                                                   void * work_memory) {
    extern __shared__ float weights[];  // [n_chunks]
    __shared__ BlockReducerMemory<float> reducer_memory;
    __shared__ float2 sums[kMergeWarps][kWarp];
    const Task & task = plan.task;
    const Work work(work_memory, plan);
    const int column = (int) blockIdx.y, unit = (int) blockIdx.z, warp = (int) threadIdx.x / kWarp;
    const int batch = task.n_batches == 1 ? 0 : unit / task.n_kv_heads;
    const int row = plan.row_of(column);
    const int head = (unit - batch * task.n_kv_heads) * plan.group + column - row * plan.group;
    const int lane = (int) threadIdx.x % kWarp, threads = kMergeWarps * kWarp;
    BlockReducer<float> reduce(reducer_memory);

    let_next_begin();
    wait_for_previous();
    const float sink = task.sinks != nullptr ? task.sinks[head] : -INFINITY;
    float max = sink;
    for (int c = (int) threadIdx.x; c < plan.n_chunks; c += threads) {
        max = fmaxf(max, work.states[plan.state(unit, c, column)].max);
    }
    max = reduce(max, Max());
    float sum = 0.0f;
    for (int c = (int) threadIdx.x; c < plan.n_chunks; c += threads) {
        const State state = work.states[plan.state(unit, c, column)];
        const float weight = state.sum > 0.0f ? state.sum * exp2f((state.max - max) * kLog2E) : 0.0f;
        weights[c] = weight;
        sum += weight;
    }
    sum = reduce(sum, Sum());  // a barrier too
    if (sink != -INFINITY) {
        sum += exp2f((sink - max) * kLog2E);
    }
    float2 values = {};
    const size_t stride = (size_t) kMergeWarps * plan.column_stride * task.head_size;
    const half * from = work.values + plan.state(unit, warp, column) * task.head_size + blockIdx.x * kSlice + 2 * lane;
#pragma unroll 8
    for (int c = warp; c < plan.n_chunks; c += kMergeWarps, from += stride) {
        const float weight = weights[c];
        if (weight != 0.0f) {
            const float2 x = __half22float2(*(const half2 *) from);
            values.x += weight * x.x;
            values.y += weight * x.y;
        }
    }
    sums[warp][lane] = values;
    __syncthreads();
    if (warp > 0) {
        return;
    }
    for (int i = 1; i < kMergeWarps; i++) {
        values.x += sums[i][lane].x;
        values.y += sums[i][lane].y;
    }
    const float factor = sum > 0.0f ? 1.0f / sum : 0.0f;
    float * to = task.result + (((size_t) batch * task.n_rows + row) * task.n_heads + head) * task.head_size +
                 blockIdx.x * kSlice + 2 * lane;
    *(float2 *) to = { values.x * factor, values.y * factor };
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

}  // namespace

size_t work_size(const Task & t) {
    size_t bytes = 0;
    if (t.n_cells > 0 && t.n_rows > 0 && t.n_rows <= kMaxRows && t.n_heads % t.n_kv_heads == 0 &&
        t.n_heads / t.n_kv_heads <= kMaxGroup && t.n_batches % t.kv_batches == 0 && t.n_kv_heads * t.n_batches < 1 << 16) {
        with_plan(t, [&](const Plan & plan, auto size, int limit) {
            bytes = plan.shared_bytes <= limit
                        ? values_at(plan.n_states()) + plan.n_states() * size * sizeof(half)
                        : 0;
        });
    }
    return bytes;
}

void attend(const Task & task, void * work, cudaStream_t stream) {
    with_plan(task, [&](const Plan & plan, auto size, int) {
        launch_chunks<size>(plan, work, stream);
        const dim3 grid(size / kSlice, (unsigned) plan.columns, (unsigned) plan.n_units);
        launch_early(merge_chunks, grid, kMergeWarps * kWarp, stream, plan.n_chunks * sizeof(float), plan, work);
    });
}

}  // namespace pmtp::attention::cuda
