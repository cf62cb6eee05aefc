#include "kernels/products/cuda/float_products.cuh"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"

namespace {

using pmtp::kWarp;

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
// Rows of activations that a block multiplies with a row of weights.
constexpr int kMostColumns = 8;
// Rows of weights of a block where rows of activations are many.
constexpr int kManyWeights = 4;
// Vectors of weights that a thread asks for before it waits for the kernels in front.
constexpr int kEarly = 6;

__device__ __forceinline__ void add(float & sum, const float4 & w, const float4 & x) {
    sum = __fmaf_rn(w.x, x.x, sum);
    sum = __fmaf_rn(w.y, x.y, sum);
    sum = __fmaf_rn(w.z, x.z, sum);
    sum = __fmaf_rn(w.w, x.w, sum);
}

// Thread t has vectors t, t + kThreads, ... of a row of weights, which is the block's.
template <int n_columns> __global__ __launch_bounds__(kThreads) void multiply_floats(const FloatProduct p) {
    __shared__ float sums[n_columns][kWarps];
    const int n_vectors = p.n_in / 4;
    const auto * weights = (const float4 *) (p.weights + (size_t) blockIdx.x * p.n_in);
    const int first_row = blockIdx.y * n_columns;
    const int n_rows = min(n_columns, p.n_rows - first_row);
    const auto * x = (const float4 *) (p.x + (size_t) first_row * p.n_in);
    const auto add_all = [&](float (&sum)[n_columns], const float4 & w, int at) {
#pragma unroll
        for (int row = 0; row < n_columns; row++) {
            if (row < n_rows) {
                add(sum[row], w, x[(size_t) row * n_vectors + at]);
            }
        }
    };

    let_next_begin();
    float4 early[kEarly];
#pragma unroll
    for (int i = 0; i < kEarly; i++) {
        const int at = threadIdx.x + i * kThreads;
        early[i] = at < n_vectors ? weights[at] : make_float4(0, 0, 0, 0);
    }
    wait_for_previous();
    float sum[n_columns] = {};
#pragma unroll
    for (int i = 0; i < kEarly; i++) {
        const int at = threadIdx.x + i * kThreads;
        if (at < n_vectors) {
            add_all(sum, early[i], at);
        }
    }
    for (int at = threadIdx.x + kEarly * kThreads; at < n_vectors; at += kThreads) {
        add_all(sum, weights[at], at);
    }
#pragma unroll
    for (int row = 0; row < n_columns; row++) {
        sum[row] = pmtp::reduce_lanes<kWarp>(sum[row], pmtp::Sum());
        if (threadIdx.x % kWarp == 0) {
            sums[row][threadIdx.x / kWarp] = sum[row];
        }
    }
    __syncthreads();
    if ((int) threadIdx.x < n_rows) {
        float total = 0.0f;
        for (int warp = 0; warp < kWarps; warp++) {
            total += sums[threadIdx.x][warp];
        }
        p.out[(size_t) (first_row + threadIdx.x) * p.n_out + blockIdx.x] = total;
    }
}

// The same of many rows of activations: a block has several rows of weights too.
__global__ __launch_bounds__(kThreads) void multiply_many_floats(const FloatProduct p) {
    __shared__ float sums[kMostColumns * kManyWeights][kWarps];
    const int n_vectors = p.n_in / 4;
    const int first_weight = blockIdx.x * kManyWeights;
    const int first_row = blockIdx.y * kMostColumns;
    const float4 * weights[kManyWeights];
    const float4 * x[kMostColumns];
#pragma unroll
    for (int i = 0; i < kManyWeights; i++) {
        weights[i] = (const float4 *) (p.weights + (size_t) min(first_weight + i, p.n_out - 1) * p.n_in);
    }
#pragma unroll
    for (int i = 0; i < kMostColumns; i++) {
        x[i] = (const float4 *) (p.x + (size_t) min(first_row + i, p.n_rows - 1) * p.n_in);
    }
    wait_for_previous();
    let_next_begin();
    float sum[kMostColumns][kManyWeights] = {};
    for (int at = threadIdx.x; at < n_vectors; at += kThreads) {
        float4 w[kManyWeights];
#pragma unroll
        for (int i = 0; i < kManyWeights; i++) {
            w[i] = weights[i][at];
        }
#pragma unroll
        for (int row = 0; row < kMostColumns; row++) {
            const float4 of_row = x[row][at];
#pragma unroll
            for (int i = 0; i < kManyWeights; i++) {
                add(sum[row][i], w[i], of_row);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < kMostColumns * kManyWeights; i++) {
        const float of_warp = pmtp::reduce_lanes<kWarp>(sum[i / kManyWeights][i % kManyWeights], pmtp::Sum());
        if (threadIdx.x % kWarp == 0) {
            sums[i][threadIdx.x / kWarp] = of_warp;
        }
    }
    __syncthreads();
    const int row = first_row + (int) threadIdx.x / kManyWeights,
              weight = first_weight + (int) threadIdx.x % kManyWeights;
    if (threadIdx.x < kMostColumns * kManyWeights && row < p.n_rows && weight < p.n_out) {
        float total = 0.0f;
        for (int warp = 0; warp < kWarps; warp++) {
            total += sums[threadIdx.x][warp];
        }
        p.out[(size_t) row * p.n_out + weight] = total;
    }
}

template <int n_columns> void launch(const FloatProduct & p, cudaStream_t stream) {
    launch_early(multiply_floats<n_columns>, dim3(p.n_out, (p.n_rows + n_columns - 1) / n_columns), kThreads, stream, 0,
                 p);
}

}  // namespace

void pmtp_cuda_launch_float_product(const FloatProduct & p, cudaStream_t stream) {
    if (p.n_rows > kPmtpVerifyFloatRows) {
        launch_early(multiply_many_floats,
                     dim3((p.n_out + kManyWeights - 1) / kManyWeights, (p.n_rows + kMostColumns - 1) / kMostColumns),
                     kThreads, stream, 0, p);
        return;
    }
    p.n_rows == 1   ? launch<1>(p, stream)
    : p.n_rows == 2 ? launch<2>(p, stream)
    : p.n_rows <= 4 ? launch<4>(p, stream)
                    : launch<kMostColumns>(p, stream);
}
