#include "kernels/attention/cuda/merge_rows.cuh"

#include "kernels/attention/cuda/fixed_point.cuh"
#include "kernels/attention/cuda/table.cuh"

namespace pmtp::attention::cuda {
namespace {

constexpr int kColumnsOfBlock = 4;

// Of a warp in shared memory: the chunks that its column sees, and their weights; at the end its values.
struct Seen {
    float weight;
    int chunk;
};

// Block x has kColumnsOfBlock columns of unit y, one a warp.
template <int head_size>
__global__ __launch_bounds__(kColumnsOfBlock * kWarp) void merge_rows(const __grid_constant__ Plan plan,
                                                                      void * work_memory) {
    constexpr int kOwn = head_size / kWarp;
    extern __shared__ uint4 memory[];
    const Task & task = plan.task;
    const Work work(work_memory, plan);
    const int lane = (int) threadIdx.x % kWarp, warp = (int) threadIdx.x / kWarp;
    const int column = (int) blockIdx.x * kColumnsOfBlock + warp, unit = (int) blockIdx.y;
    auto * seen = (Seen *) memory + warp * max(plan.n_chunks, head_size / 2);
    const bool has_signs = task.signs != nullptr;
    const float signs[2] = { has_signs ? task.signs[lane] : 1.0f, has_signs ? task.signs[lane + kWarp] : 1.0f };
    wait_for_previous();
    let_next_begin();
    if (column >= plan.columns) {
        return;
    }
    const int batch = task.n_batches == 1 ? 0 : unit / task.n_kv_heads;
    const int row = plan.row_of(column);
    const int head = (unit - batch * task.n_kv_heads) * plan.group + column - row * plan.group;
    const float sink = task.sinks != nullptr ? task.sinks[head] : -INFINITY;
    const int n_chunks = chunks_of(plan, row);
    float max = sink;
    for (int c = lane; c < n_chunks; c += kWarp) {
        max = fmaxf(max, work.states[plan.state(unit, c, column)].max);
    }
    max = reduce_lanes<kWarp>(max, Max());
    long long fixed_sum = 0;
    int n_seen = 0;
    for (int first = 0; first < n_chunks; first += kWarp) {
        const int c = first + lane;
        const float weight = c < n_chunks ? weight_of(work.states[plan.state(unit, c, column)], max) : 0.0f;
        fixed_sum += __float2ll_rn(weight * kWeightOne);
        const uint32_t with_weight = __ballot_sync(0xffffffffu, weight != 0.0f);
        if (weight != 0.0f) {
            seen[n_seen + __popc(with_weight & ((1u << lane) - 1))] = { weight, c };
        }
        n_seen += __popc(with_weight);
    }
    const float inverse_sum = inverse_of(reduce_lanes<kWarp>(fixed_sum, Sum()), sink, max);
    __syncwarp();
    FixedSums<kOwn> sums;
#pragma unroll 4
    for (int i = 0; i < n_seen; i++) {
        const float weight = seen[i].weight * inverse_sum;
        const half * from = work.values + plan.state(unit, seen[i].chunk, column) * head_size + lane * kOwn;
        uint32_t pairs[kOwn / 2];
        if constexpr (kOwn >= 8) {
#pragma unroll
            for (int j = 0; j < kOwn / 8; j++) {
                const uint4 x = ((const uint4 *) from)[j];
                pairs[4 * j] = x.x;
                pairs[4 * j + 1] = x.y;
                pairs[4 * j + 2] = x.z;
                pairs[4 * j + 3] = x.w;
            }
        } else {
#pragma unroll
            for (int j = 0; j < kOwn / 2; j++) {
                pairs[j] = ((const uint32_t *) from)[j];
            }
        }
        if (weight != 0.0f) {
            sums.add(weight, pairs);
        }
    }
    // As neighbours sum up what is quantised together, each lane takes every 32nd value.
    const float poison = reduce_lanes<kSlice / kOwn>(sums.invalid, Sum());
    __syncwarp();
    auto * values = (float *) seen;
#pragma unroll
    for (int i = 0; i < kOwn; i++) {
        values[lane * kOwn + i] = __ll2float_rn(sums.x[i]) * (1.0f / kValueOne) + poison;
    }
    __syncwarp();
    const int n = task.n_heads * head_size;
    float * result = task.result + ((size_t) batch * task.all_rows + task.first_row + row) * n;
    const auto put = [&](int i, float x) {
        const int in_row = head * head_size + i * kWarp + lane;
        const float out[1] = { x };
        result[in_row] = x;
        if (task.quantised != nullptr) {
            pmtp_quantise(out, pmtp_place(task.quantised, n, task.all_rows, task.first_row + row, in_row / 32));
        }
    };
#pragma unroll
    for (int i = 0; i < kOwn; i += 2) {
        float a = values[i * kWarp + lane], b = values[(i + 1) * kWarp + lane];
        if (task.rotates) {
            const float ra = rotate_half(a * copysignf(0.125f, signs[0])),
                        rb = rotate_half(b * copysignf(0.125f, signs[1]));
            a = signs[0] < 0.0f ? -(ra + rb) : ra + rb;
            b = signs[1] < 0.0f ? -(ra - rb) : ra - rb;
        }
        put(i, a);
        put(i + 1, b);
    }
}

}  // namespace

void launch_merge_rows(const Plan & plan, void * work, cudaStream_t stream) {
    const int size = plan.task.head_size;
    const auto kernel = size == 64    ? merge_rows<64>
                        : size == 128 ? merge_rows<128>
                        : size == 256 ? merge_rows<256>
                                      : merge_rows<512>;
    const dim3 grid((unsigned) ((plan.columns + kColumnsOfBlock - 1) / kColumnsOfBlock), (unsigned) plan.n_units);
    launch_early(kernel, grid, kColumnsOfBlock * kWarp, stream,
                 kColumnsOfBlock * std::max(plan.n_chunks, size / 2) * sizeof(Seen), plan, work);
}

}  // namespace pmtp::attention::cuda
