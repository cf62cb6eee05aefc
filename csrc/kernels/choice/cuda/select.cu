#include "kernels/choice/cuda/select.cuh"

#include "kernels/cuda/order.cuh"
#include "kernels/cuda/reduce.cuh"

namespace {

using namespace pmtp;

// The better of two candidates: the larger value, then the smaller index.
struct Best {
    uint32_t order;
    uint32_t index;

    __device__ __forceinline__ void consider(uint32_t o, uint32_t i) {
        if (o > order || (o == order && i < index)) {
            order = o;
            index = i;
        }
    }
};

constexpr int kArgMaxThreads = 1024;
// Loads in flight for each thread.
constexpr int kArgMaxLoads = 8;

// One block a row.
__global__ void __launch_bounds__(kArgMaxThreads)
    arg_max(const float4 * __restrict__ x, int32_t * __restrict__ index, uint32_t n4) {
    x += (size_t) blockIdx.x * n4;
    Best best = { kOrderOfMinusInfinity, 0xffffffffu };
    const auto consider = [&](float value, uint32_t i) {
        const uint32_t order = order_of(value);
        if (order <= kOrderOfInfinity) {  // positive NaNs are above, negative ones below everything
            best.consider(order, i);
        }
    };
    const auto consider_four = [&](const float4 & v, uint32_t i) {
        consider(v.x, 4 * i);
        consider(v.y, 4 * i + 1);
        consider(v.z, 4 * i + 2);
        consider(v.w, 4 * i + 3);
    };
    uint32_t i = threadIdx.x;
    for (; i + (kArgMaxLoads - 1) * kArgMaxThreads < n4; i += kArgMaxLoads * kArgMaxThreads) {
        float4 v[kArgMaxLoads];
#pragma unroll
        for (int j = 0; j < kArgMaxLoads; j++) {
            v[j] = x[i + j * kArgMaxThreads];
        }
#pragma unroll
        for (int j = 0; j < kArgMaxLoads; j++) {
            consider_four(v[j], i + j * kArgMaxThreads);
        }
    }
    for (; i < n4; i += kArgMaxThreads) {
        consider_four(x[i], i);
    }
    __shared__ BlockReducerMemory<uint64_t> memory;
    const uint64_t rank = BlockReducer<uint64_t>(memory)(rank_of(best.order, best.index), Max());
    if (threadIdx.x == 0) {
        index[blockIdx.x] = order_in(rank) == kOrderOfMinusInfinity ? -1 : (int32_t) index_in(rank);
    }
}

constexpr int kTopKThreads = 128;
// Threads that share an element.
constexpr int kTopKLanes = 4;
// Elements of a block.
constexpr int kTopKElements = kTopKThreads / kTopKLanes;
constexpr int kTopKMax = 4096;

// An element's rank is the number of elements before it; those of rank below k write themselves to their place.
__global__ void __launch_bounds__(kTopKThreads)
    top_k(const float * __restrict__ x, int32_t * __restrict__ index, int n, int k) {
    __shared__ uint32_t order[kTopKMax];
    for (int i = threadIdx.x; i < n; i += kTopKThreads) {
        order[i] = order_of(x[i]);
    }
    __syncthreads();
    const int element = blockIdx.x * kTopKElements + threadIdx.x / kTopKLanes;
    const uint32_t mine = order[min(element, n - 1)];
    int rank = 0;
    for (int i = threadIdx.x % kTopKLanes; i < n; i += kTopKLanes) {
        rank += order[i] > mine || (order[i] == mine && i < element);
    }
    rank = reduce_lanes<kTopKLanes>(rank, Sum());
    if (threadIdx.x % kTopKLanes == 0 && element < n && rank < k) {
        index[rank] = element;
    }
}

}  // namespace

bool pmtp_cuda_arg_max(const float * x, int32_t * index, int64_t n, int64_t n_rows, cudaStream_t stream) {
    if (n % 4 != 0 || n < 4 * kArgMaxThreads || n > INT32_MAX || n_rows < 1 || n_rows > INT32_MAX ||
        (uintptr_t) x % sizeof(float4) != 0) {
        return false;
    }
    arg_max<<<(unsigned) n_rows, kArgMaxThreads, 0, stream>>>((const float4 *) x, index, (uint32_t) (n / 4));
    return true;
}

bool pmtp_cuda_top_k(const float * x, int32_t * index, int64_t n, int64_t n_rows, int64_t k, cudaStream_t stream) {
    if (n_rows != 1 || n < 1 || n > kTopKMax || k < 1 || k > n) {
        return false;
    }
    top_k<<<(unsigned) ((n + kTopKElements - 1) / kTopKElements), kTopKThreads, 0, stream>>>(x, index, (int) n,
                                                                                             (int) k);
    return true;
}
