#include "kernels/choice/cuda/draw.cuh"

#include "kernels/choice/cuda/noise.cuh"
#include "kernels/cuda/order.cuh"
#include "kernels/cuda/reduce.cuh"

namespace {

using namespace pmtp;

constexpr int kThreads = 1024;
constexpr int kPerThread = kMaxDrawnLogits / kThreads;

// The largest threshold whose tokens at or above it weigh `wanted` or more.
__device__ uint32_t threshold_of(const uint32_t (&order)[kPerThread], const float (&weight)[kPerThread], float wanted,
                                 BlockReducer<float> & reduce) {
    uint32_t threshold = 0;
    for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
        float covered = 0;
        for (int j = 0; j < kPerThread; j++) {
            covered += order[j] >= (threshold | bit) ? weight[j] : 0.0f;
        }
        if (reduce(covered, Sum()) >= wanted) {
            threshold |= bit;
        }
    }
    return threshold;
}

__global__ void __launch_bounds__(kThreads)
    draw(const float * logits, const int32_t * ids, int n, const Candidates * candidates,
         const ChoiceParams * all_params, int32_t * out, int n_table) {
    __shared__ BlockReducerMemory<float> memory;
    __shared__ BlockReducerMemory<uint64_t> best_memory;
    BlockReducer<float> reduce(memory);
    const ChoiceParams params = *all_params;
    if (candidates != nullptr) {
        logits = candidates->logit;
        ids = candidates->token;
        n = min(candidates->n, kCandidates);
    }
    float z[kPerThread];  // logarithms of weights; -inf outside the support
    int32_t token[kPerThread];
    float max = -INFINITY;
    for (int j = 0; j < kPerThread; j++) {
        const int i = threadIdx.x + j * kThreads;
        z[j] = i < n ? logits[i] : -INFINITY;
        z[j] = z[j] == z[j] ? z[j] : -INFINITY;
        token[j] = i < n ? (ids != nullptr ? ids[i] : i) : -1;
        max = fmaxf(max, z[j]);
    }
    max = reduce(max, Max());

    uint32_t order[kPerThread];
    float one[kPerThread];
    float weight[kPerThread];
    float total = 0;
    float count = 0;
    const auto weigh = [&](uint32_t threshold) {  // what is below leaves the support
        total = 0;
        count = 0;
        for (int j = 0; j < kPerThread; j++) {
            z[j] = order[j] >= threshold ? z[j] : -INFINITY;
            one[j] = z[j] > -INFINITY ? 1.0f : 0.0f;
            weight[j] = one[j] > 0 ? expf(z[j]) : 0.0f;
            count += one[j];
            total += weight[j];
        }
        total = reduce(total, Sum());
        count = reduce(count, Sum());
    };
    for (int j = 0; j < kPerThread; j++) {
        z[j] = isinf(z[j]) ? -INFINITY : (z[j] - max) * params.scale;
        z[j] = z[j] >= params.min_z ? z[j] : -INFINITY;
        order[j] = order_of(z[j]);
    }
    weigh(0);
    if (params.top_k > 0 && params.top_k < count) {
        weigh(threshold_of(order, one, params.top_k, reduce));
    }
    if (params.top_p < 1) {
        weigh(threshold_of(order, weight, params.top_p * total, reduce));
    }

    uint64_t best = 0;
    for (int j = 0; j < kPerThread; j++) {
        const int i = threadIdx.x + j * kThreads;
        if (one[j] > 0) {
            const float score = z[j] + device_gumbel(token_bits(params.key, token[j]));
            best = Max()(best, rank_of(order_of(score), token[j]));
        }
        if (i < n_table) {
            out[1 + i] = __float_as_int(weight[j] / total);
            out[1 + n_table + i] = token[j];
        }
    }
    best = BlockReducer<uint64_t>(best_memory)(best, Max());
    if (threadIdx.x == 0) {  // logits that are not numbers: any token does, the target decides
        out[0] = best == 0 ? 0 : (int32_t) index_in(best);
    }
}

}  // namespace

void pmtp_cuda_draw(const float * logits, const int32_t * ids, int n, const Candidates * candidates,
                    const ChoiceParams * params, int32_t * out, int n_table, cudaStream_t stream) {
    draw<<<1, kThreads, 0, stream>>>(logits, ids, n, candidates, params, out, n_table);
}
