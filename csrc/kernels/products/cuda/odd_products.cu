// Products whose rows of weights are no whole number of stages, or whose results no whole number of tiles: without
// tensor cores. A warp multiplies a row of weights with up to 8 rows of activations.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/products/cuda/products.cuh"
#include "kernels/products/cuda/stages.cuh"

namespace {

using pmtp::kWarp;

constexpr int kWarps = 4;

// Adds a block of 32 values to the sums. block: of the weights, at an even address.
template <typename Format> __device__ __forceinline__ void add_block(float (&sum)[kBatch], const WeightProduct & p,
                                                                     const char * block, int at, int first_row) {
    constexpr int kBytes = Format::kBytes / (Format::kStage / 32);
    uint32_t words[(kBytes + 3) / 4 + 1] = {};
#pragma unroll
    for (int i = 0; i < kBytes / 2; i++) {
        words[i / 2] |= (uint32_t) ((const uint16_t *) block)[i] << 16 * (i % 2);
    }
    const formats::Stage stage = { words, 0 };
#pragma unroll
    for (int i = 0; i < kBatch; i++) {
        if (first_row + i >= p.n_rows) {
            break;
        }
        const PmtpQ8Place x = pmtp_place(const_cast<PmtpQ8Block *>(p.x), p.n_in, p.n_rows, first_row + i, at);
        int c = 0;
#pragma unroll
        for (int t = 0; t < 4; t++) {
            const formats::Quants quants = Format::quants(stage, 0, t);
            c = __dp4a((int) quants.first, (int) *x.word(t), c);
            c = __dp4a((int) quants.second, (int) *x.word(t + 4), c);
        }
        add_group<Format>(sum[i], stage, 0, c, __half22float2(*x.scale_and_sum));
    }
}

// The same of floats, of which a lane has two.
template <typename Format> __device__ __forceinline__ void add_floats_of_lane(float (&sum)[kBatch],
                                                                              const WeightProduct & p, uint32_t word,
                                                                              int at, int first_row) {
    const float low = __uint_as_float(Format::low(word)), high = __uint_as_float(Format::high(word));
#pragma unroll
    for (int i = 0; i < kBatch; i++) {
        if (first_row + i >= p.n_rows) {
            break;
        }
        const float2 x = *(const float2 *) (p.floats + (size_t) (first_row + i) * p.n_in + at);
        sum[i] = __fmaf_rn(high, x.y, __fmaf_rn(low, x.x, sum[i]));
    }
}

template <typename Format> __global__ __launch_bounds__(kWarps * kWarp) void multiply_odd(const WeightProduct p) {
    const int lane = threadIdx.x % kWarp;
    const int column = blockIdx.x * kWarps + threadIdx.x / kWarp;
    const int first_row = blockIdx.y * kBatch;
    wait_for_previous();
    let_next_begin();
    if (column >= p.n_out) {
        return;
    }
    float sum[kBatch] = {};
    if constexpr (Format::kQuantised) {
        constexpr int kBytes = Format::kBytes / (Format::kStage / 32);
        const int n_blocks = p.n_in / 32;
        const char * weights = (const char *) p.weights + (size_t) column * n_blocks * kBytes;
        for (int at = lane; at < n_blocks; at += kWarp) {
            add_block<Format>(sum, p, weights + at * kBytes, at, first_row);
        }
    } else {
        const auto * weights = (const uint32_t *) p.weights + (size_t) column * (p.n_in / 2);
        for (int at = lane; at < p.n_in / 2; at += kWarp) {
            add_floats_of_lane<Format>(sum, p, weights[at], 2 * at, first_row);
        }
    }
#pragma unroll
    for (int i = 0; i < kBatch; i++) {
        const float total = pmtp::reduce_lanes<kWarp>(sum[i], pmtp::Sum());
        if (lane == 0 && first_row + i < p.n_rows) {
            p.out[(size_t) (first_row + i) * p.n_out + column] = total;
        }
    }
}

template <typename Format> void launch(const WeightProduct & p, cudaStream_t stream) {
    const dim3 grid((p.n_out + kWarps - 1) / kWarps, (p.n_rows + kBatch - 1) / kBatch);
    launch_early(multiply_odd<Format>, grid, kWarps * kWarp, stream, 0, p);
}

}  // namespace

bool pmtp_cuda_has_odd_product(const WeightProduct & p) {
    const bool super = p.format == WeightFormat::iq4_xs || p.format == WeightFormat::q4_K ||
                       p.format == WeightFormat::q5_K || p.format == WeightFormat::q6_K;
    return !super && p.n_in > 0 && p.n_in % 32 == 0 && p.n_out > 0 && p.n_rows > 0 && p.n_rows <= kPmtpMostRows &&
           p.gate == nullptr && p.factor == nullptr && p.others[0].weights == nullptr;
}

void pmtp_cuda_launch_odd_product(const WeightProduct & p, cudaStream_t stream) {
    switch (p.format) {
        case WeightFormat::q4_0: launch<formats::Q4_0>(p, stream); break;
        case WeightFormat::q4_1: launch<formats::Q4_1>(p, stream); break;
        case WeightFormat::q5_0: launch<formats::Q5_0>(p, stream); break;
        case WeightFormat::q5_1: launch<formats::Q5_1>(p, stream); break;
        case WeightFormat::q8_0: launch<formats::Q8_0>(p, stream); break;
        case WeightFormat::iq4_nl: launch<formats::IQ4_NL>(p, stream); break;
        case WeightFormat::f16: launch<formats::F16>(p, stream); break;
        default: launch<formats::BF16>(p, stream); break;
    }
}
