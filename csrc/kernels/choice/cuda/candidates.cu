#include "kernels/choice/cuda/candidates.cuh"

#include "kernels/choice/cuda/noise.cuh"
#include "kernels/cuda/reduce.cuh"

namespace {

using namespace pmtp;

constexpr int kThreads = 256;
constexpr int kBinsPerThread = kCandidateBins / kThreads;

// All rows.
struct Rows {
    const float * logits;
    const ChoiceParams * params;
    const uint32_t * masks;
    Candidates * out;
    CandidatesScratch * scratch;
    int n;
};

// This block's part of its row.
struct Slice {
    const float * logits;
    const ChoiceParams params;
    const uint32_t * mask;  // nullptr: every token may be chosen
    Candidates & out;
    CandidatesScratch & scratch;
    int begin;
    int end;

    __device__ explicit Slice(const Rows & rows)
        : logits(rows.logits + (size_t) blockIdx.y * rows.n),
          params(rows.params[blockIdx.y]),
          mask(rows.masks != nullptr ? rows.masks + (size_t) blockIdx.y * ((rows.n + 31) / 32) : nullptr),
          out(rows.out[blockIdx.y]),
          scratch(rows.scratch[blockIdx.y]) {
        const int n = rows.n;
        const int size = ((n + kCandidateBlocks - 1) / kCandidateBlocks + kThreads - 1) / kThreads * kThreads;
        begin = min(n, (int) blockIdx.x * size);
        end = min(n, begin + size);
    }

    __device__ float rank(float logit, int token) const {
        if (logit != logit || (mask != nullptr && (mask[token / 32] >> (token % 32) & 1) == 0)) {
            return -INFINITY;
        }
        return params.noisy ? logit * params.scale + device_gumbel(token_bits(params.key, token)) : logit;
    }
};

__device__ float max_of(const CandidatesScratch & scratch) {
    float max = scratch.max[0];
    for (int i = 1; i < kCandidateBlocks; i++) {
        max = fmaxf(max, scratch.max[i]);
    }
    return max;
}

__device__ float distance(float max, float rank) { return (max - rank) * kCandidateBinsPerUnit; }

__global__ void __launch_bounds__(kThreads) find_max(const Rows rows) {
    __shared__ BlockReducerMemory<float> memory;
    BlockReducer<float> reduce(memory);
    const Slice slice(rows);
    float max = -INFINITY;
    for (int i = slice.begin + threadIdx.x; i < slice.end; i += kThreads) {
        max = fmaxf(max, slice.rank(slice.logits[i], i));
    }
    max = reduce(max, Max());
    if (threadIdx.x == 0) {
        slice.scratch.max[blockIdx.x] = max;
    }
    for (int bin = blockIdx.x * kThreads + threadIdx.x; bin < kCandidateBins; bin += kCandidateBlocks * kThreads) {
        slice.scratch.histogram[bin] = 0;
    }
}

__global__ void __launch_bounds__(kThreads) count_bins(const Rows rows) {
    __shared__ uint32_t histogram[kCandidateBins];
    __shared__ BlockReducerMemory<float> memory;
    BlockReducer<float> reduce(memory);
    for (int bin = threadIdx.x; bin < kCandidateBins; bin += kThreads) {
        histogram[bin] = 0;
    }
    __syncthreads();
    const Slice slice(rows);
    const float max = max_of(slice.scratch);
    float sum = 0;
    for (int i = slice.begin + threadIdx.x; i < slice.end; i += kThreads) {
        const float rank = slice.rank(slice.logits[i], i);
        sum += expf((rank - max) * slice.params.scale);
        const float d = distance(max, rank);
        if (d < kCandidateBins) {
            atomicAdd(&histogram[(int) d], 1u);
        }
    }
    sum = reduce(sum, Sum());
    if (threadIdx.x == 0) {
        slice.scratch.sum[blockIdx.x] = sum;
    }
    for (int bin = threadIdx.x; bin < kCandidateBins; bin += kThreads) {
        if (histogram[bin] > 0) {
            atomicAdd(&slice.scratch.histogram[bin], histogram[bin]);
        }
    }
}

// The number of bins from the best one on that hold kCandidates tokens or fewer.
__device__ int chosen_bins(const CandidatesScratch & scratch, BlockReducer<int> & reduce) {
    const uint32_t * bins = scratch.histogram + threadIdx.x * kBinsPerThread;
    uint32_t own = 0;
    for (int i = 0; i < kBinsPerThread; i++) {
        own = min(own + bins[i], 1u << 20);
    }
    uint32_t before = own;  // inclusive scan over the warp, then over the warps
    for (int offset = 1; offset < kWarp; offset *= 2) {
        const uint32_t other = __shfl_up_sync(0xffffffffu, before, offset);
        before += threadIdx.x % kWarp >= offset ? other : 0;
    }
    __shared__ uint32_t of_warps[kThreads / kWarp];
    if (threadIdx.x % kWarp == kWarp - 1) {
        of_warps[threadIdx.x / kWarp] = before;
    }
    __syncthreads();
    before -= own;
    for (int i = 0; i < threadIdx.x / kWarp; i++) {
        before += of_warps[i];
    }
    int n = 0;
    for (int i = 0; i < kBinsPerThread && (before += bins[i]) <= kCandidates; i++) {
        n++;
    }
    return reduce(n, Sum());
}

__global__ void __launch_bounds__(kThreads) count_candidates(const Rows rows) {
    __shared__ BlockReducerMemory<int> memory;
    BlockReducer<int> reduce(memory);
    const Slice slice(rows);
    const float max = max_of(slice.scratch);
    const int n_bins = chosen_bins(slice.scratch, reduce);
    int count = 0;
    for (int i = slice.begin + threadIdx.x; i < slice.end; i += kThreads) {
        count += distance(max, slice.rank(slice.logits[i], i)) < n_bins;
    }
    count = reduce(count, Sum());
    if (threadIdx.x == 0) {
        slice.scratch.count[blockIdx.x] = count;
        if (blockIdx.x == 0) {
            slice.out.n_bins = n_bins;
        }
    }
}

__global__ void __launch_bounds__(kThreads) gather_candidates(const Rows rows) {
    __shared__ int of_warp[kThreads / kWarp];
    const Slice slice(rows);
    const float max = max_of(slice.scratch);
    const int n_bins = slice.out.n_bins;
    int next = 0;
    for (int i = 0; i < blockIdx.x; i++) {
        next += slice.scratch.count[i];
    }
    for (int base = slice.begin; base < slice.end; base += kThreads) {  // in the order of tokens
        const int i = base + threadIdx.x;
        const float logit = i < slice.end ? slice.logits[i] : -INFINITY;
        const bool chosen = i < slice.end && distance(max, slice.rank(logit, i)) < n_bins;
        const uint32_t in_warp = __ballot_sync(0xffffffffu, chosen);
        if (threadIdx.x % kWarp == 0) {
            of_warp[threadIdx.x / kWarp] = __popc(in_warp);
        }
        if (!__syncthreads_or(chosen)) {
            continue;
        }
        int place = next + __popc(in_warp & ((1u << threadIdx.x % kWarp) - 1));
        for (int w = 0; w < kThreads / kWarp; w++) {
            place += w < threadIdx.x / kWarp ? of_warp[w] : 0;
            next += of_warp[w];
        }
        if (chosen && place < kCandidates) {
            slice.out.token[place] = i;
            slice.out.logit[place] = logit;
        }
        __syncthreads();
    }
    if (blockIdx.x == kCandidateBlocks - 1 && threadIdx.x == 0) {
        slice.out.n = next;
        slice.out.max = max;
        slice.out.total = 0;
        for (int i = 0; i < kCandidateBlocks; i++) {
            slice.out.total += slice.scratch.sum[i];
        }
    }
}

}  // namespace

void pmtp_cuda_candidates(const float * logits, const ChoiceParams * params, const uint32_t * masks, Candidates * out,
                          CandidatesScratch * scratch, int n, int n_rows, cudaStream_t stream) {
    const dim3 grid(kCandidateBlocks, n_rows);
    const Rows rows = { logits, params, masks, out, scratch, n };
    find_max<<<grid, kThreads, 0, stream>>>(rows);
    count_bins<<<grid, kThreads, 0, stream>>>(rows);
    count_candidates<<<grid, kThreads, 0, stream>>>(rows);
    gather_candidates<<<grid, kThreads, 0, stream>>>(rows);
}
