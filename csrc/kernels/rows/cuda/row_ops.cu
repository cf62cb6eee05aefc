#include "kernels/rows/cuda/row_ops.cuh"

#include "kernels/rows/cuda/gelu.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"

namespace {

using namespace pmtp;

constexpr int kMaxThreads = 512;
constexpr int kThreads = 128;

__device__ __forceinline__ float sum_of_squares(const float4 & v) {
    return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
}

__device__ __forceinline__ float4 scaled(const float4 & v, float scale, const float4 & w) {
    return make_float4(scale * v.x * w.x, scale * v.y * w.y, scale * v.z * w.z, scale * v.w * w.w);
}

// A block a row; thread t has vectors t, t + blockDim, ... of the row in registers.
template <int n_vectors> __global__ void norm_chain(const NormChain c) {
    __shared__ BlockReducerMemory<float> memory;
    BlockReducer<float> reduce(memory);
    const int n_all = c.n / 4;
    const size_t row = blockIdx.x;
    const auto has = [&](int i) { return (int) (i * blockDim.x + threadIdx.x) < n_all; };
    const auto at = [&](const float * p, int i) -> const float4 & {
        return ((const float4 *) p)[i * blockDim.x + threadIdx.x];
    };
    const auto row_of = [&](const float * p) { return p + row * c.n; };

    float4 weight[n_vectors];
    float4 next_weight[n_vectors];
    for (int i = 0; i < n_vectors; i++) {
        weight[i] = has(i) ? at(c.weight, i) : make_float4(0, 0, 0, 0);
        next_weight[i] = has(i) && c.z != nullptr ? at(c.next_weight, i) : make_float4(0, 0, 0, 0);
    }
    const float factor = c.factor != nullptr ? *c.factor : 1.0f;
    wait_for_previous();
    let_next_begin();

    float4 v[n_vectors];
    float4 add[n_vectors];
    float sum = 0.0f;
    for (int i = 0; i < n_vectors; i++) {
        v[i] = has(i) ? at(row_of(c.x), i) : make_float4(0, 0, 0, 0);
        add[i] = has(i) && c.add != nullptr ? at(row_of(c.add), i) : make_float4(0, 0, 0, 0);
        sum += sum_of_squares(v[i]);
    }
    float scale = rsqrtf(reduce(sum, Sum()) / c.n + c.eps) * c.by;
    sum = 0.0f;
    for (int i = 0; i < n_vectors; i++) {
        v[i] = scaled(v[i], scale, weight[i]);
        v[i] = make_float4((v[i].x + add[i].x) * factor, (v[i].y + add[i].y) * factor, (v[i].z + add[i].z) * factor,
                           (v[i].w + add[i].w) * factor);
        if (has(i)) {
            ((float4 *) (c.y + row * c.n))[i * blockDim.x + threadIdx.x] = v[i];
        }
        sum += sum_of_squares(v[i]);
    }
    if (c.z != nullptr) {
        scale = rsqrtf(reduce(sum, Sum()) / c.n + c.next_eps);
        for (int i = 0; i < n_vectors; i++) {
            v[i] = scaled(v[i], scale, next_weight[i]);
            if (has(i)) {
                ((float4 *) (c.z + row * c.n))[i * blockDim.x + threadIdx.x] = v[i];
            }
        }
    }
    if (c.quantised != nullptr) {
        for (int i = 0; i < n_vectors; i++) {
            const float values[4] = { v[i].x, v[i].y, v[i].z, v[i].w };
            const int block = (int) (i * blockDim.x + threadIdx.x) / 8;
            pmtp_quantise(values,
                          has(i) ? pmtp_place(c.quantised, c.n, gridDim.x, (int64_t) row, block) : PmtpQ8Place());
        }
    }
}

__global__ void gelu_gate(const GeluGate op) {
    const int i = blockIdx.x * kThreads + threadIdx.x;
    wait_for_previous();
    let_next_begin();
    if (i >= op.n) {  // whole warps
        return;
    }
    const size_t row = blockIdx.y;
    const float y = gelu(op.x[row * op.n + i]) * op.gate[row * op.gate_stride + i];
    op.y[row * op.n + i] = y;
    if (op.quantised != nullptr) {
        const float values[1] = { y };
        pmtp_quantise(values, pmtp_place(op.quantised, op.n, gridDim.y, (int64_t) row, i / 32));
    }
}

__global__ void quantise_rows(const float * x, PmtpQ8Block * quantised, int n, bool in_tiles) {
    const int i = blockIdx.x * kThreads + threadIdx.x;
    wait_for_previous();
    let_next_begin();
    if (i < n) {  // whole warps
        const float values[1] = { x[blockIdx.y * (size_t) n + i] };
        pmtp_quantise(values, pmtp_place(quantised, n, in_tiles ? gridDim.y : 1, blockIdx.y, i / 32));
    }
}

}  // namespace

void pmtp_cuda_norm_chain(const NormChain & chain, int n_rows, cudaStream_t stream) {
    const int n_all = chain.n / 4;
    const int n_vectors = n_all <= kMaxThreads ? 1 : n_all <= 2 * kMaxThreads ? 2 : 4;
    const int n_threads = (n_all + n_vectors * kWarp - 1) / (n_vectors * kWarp) * kWarp;
    launch_early(n_vectors == 1   ? norm_chain<1>
                 : n_vectors == 2 ? norm_chain<2>
                                  : norm_chain<4>,
                 n_rows, n_threads, stream, 0, chain);
}

void pmtp_cuda_gelu_gate(const GeluGate & op, int n_rows, cudaStream_t stream) {
    launch_early(gelu_gate, dim3((op.n + kThreads - 1) / kThreads, n_rows), kThreads, stream, 0, op);
}

void pmtp_cuda_quantise_rows(const float * x, PmtpQ8Block * quantised, int n, int n_rows, cudaStream_t stream,
                             bool in_tiles) {
    launch_early(quantise_rows, dim3((n + kThreads - 1) / kThreads, n_rows), kThreads, stream, 0, x, quantised, n,
                 in_tiles);
}
