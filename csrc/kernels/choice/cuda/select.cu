#include "kernels/choice/cuda/select.cuh"

#include "kernels/cuda/order.cuh"
#include "kernels/cuda/reduce.cuh"

#include <cooperative_groups.h>

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

// Blocks of a cluster, which share a long row.
constexpr int kArgMaxBlocks = 8;
// Vectors that make a row long.
constexpr uint32_t kLongRow = 4 * kArgMaxThreads;

// One block a row, or one cluster. none: the index where there is no number.
template <bool shared> __global__ void __launch_bounds__(kArgMaxThreads)
    arg_max(const float4 * __restrict__ x, int32_t * __restrict__ index, uint32_t n4, int32_t none) {
    constexpr uint32_t kBlocks = shared ? kArgMaxBlocks : 1;
    constexpr uint32_t kStep = kBlocks * kArgMaxThreads;
    const uint32_t row = blockIdx.x / kBlocks;
    x += (size_t) row * n4;
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
    uint32_t i = blockIdx.x % kBlocks * kArgMaxThreads + threadIdx.x;
    for (; i + (kArgMaxLoads - 1) * kStep < n4; i += kArgMaxLoads * kStep) {
        float4 v[kArgMaxLoads];
#pragma unroll
        for (int j = 0; j < kArgMaxLoads; j++) {
            v[j] = x[i + j * kStep];
        }
#pragma unroll
        for (int j = 0; j < kArgMaxLoads; j++) {
            consider_four(v[j], i + j * kStep);
        }
    }
    for (; i < n4; i += kStep) {
        consider_four(x[i], i);
    }
    __shared__ BlockReducerMemory<uint64_t> memory;
    uint64_t rank = BlockReducer<uint64_t>(memory)(rank_of(best.order, best.index), Max());
#if __CUDA_ARCH__ >= 900
    if constexpr (shared) {
        namespace cg = cooperative_groups;
        __shared__ uint64_t of_blocks[kArgMaxBlocks];
        const cg::cluster_group cluster = cg::this_cluster();
        cluster.sync();  // the first block has begun, and with it its memory
        if (threadIdx.x == 0) {
            *cluster.map_shared_rank(&of_blocks[cluster.block_rank()], 0) = rank;
        }
        cluster.sync();
        if (cluster.block_rank() != 0) {
            return;
        }
        for (const uint64_t other : of_blocks) {
            rank = Max()(rank, other);
        }
    }
#endif
    if (threadIdx.x == 0) {
        index[row] = order_in(rank) == kOrderOfMinusInfinity ? none : (int32_t) index_in(rank);
    }
}

// A block a row, of any length and alignment.
__global__ void __launch_bounds__(kArgMaxThreads)
    arg_max_of_any(const float * __restrict__ x, int32_t * __restrict__ index, uint32_t n, int32_t none) {
    x += (size_t) blockIdx.x * n;
    Best best = { kOrderOfMinusInfinity, 0xffffffffu };
    for (uint32_t i = threadIdx.x; i < n; i += kArgMaxThreads) {
        const uint32_t order = order_of(x[i]);
        if (order <= kOrderOfInfinity) {
            best.consider(order, i);
        }
    }
    __shared__ BlockReducerMemory<uint64_t> memory;
    const uint64_t rank = BlockReducer<uint64_t>(memory)(rank_of(best.order, best.index), Max());
    if (threadIdx.x == 0) {
        index[blockIdx.x] = order_in(rank) == kOrderOfMinusInfinity ? none : (int32_t) index_in(rank);
    }
}

// Whether the device, and what was compiled for it, have clusters.
bool has_clusters() {
    int device = 0, major = 0;
    cudaFuncAttributes attributes = {};
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9 &&
           cudaFuncGetAttributes(&attributes, arg_max<true>) == cudaSuccess && attributes.ptxVersion >= 90;
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

bool pmtp_cuda_arg_max(const float * x, int32_t * index, int64_t n, int64_t n_rows, int32_t none, cudaStream_t stream) {
    if (n < 1 || n > INT32_MAX || n_rows < 1 || n_rows > INT32_MAX) {
        return false;
    }
    if (n % 4 != 0 || n < 4 * kArgMaxThreads || (uintptr_t) x % sizeof(float4) != 0) {
        arg_max_of_any<<<(unsigned) n_rows, kArgMaxThreads, 0, stream>>>(x, index, (uint32_t) n, none);
        return true;
    }
    const auto n4 = (uint32_t) (n / 4);
    const auto launch = [&] {
        arg_max<false><<<(unsigned) n_rows, kArgMaxThreads, 0, stream>>>((const float4 *) x, index, n4, none);
        return true;
    };
    if (n4 < kLongRow || n_rows > INT32_MAX / kArgMaxBlocks || !has_clusters()) {
        return launch();
    }
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = { kArgMaxBlocks, 1, 1 };
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned) n_rows * kArgMaxBlocks);
    config.blockDim = dim3(kArgMaxThreads);
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = 1;
    if (cudaLaunchKernelEx(&config, arg_max<true>, (const float4 *) x, index, n4, none) != cudaSuccess) {
        (void) cudaGetLastError();  // another kernel takes its place
        return launch();
    }
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
