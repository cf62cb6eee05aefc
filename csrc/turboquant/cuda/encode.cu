// Rows to blocks, which lie one after another or where a row's number says.
#include "turboquant/cuda/encode_block.cuh"

namespace pmtp::turboquant {

namespace {

// Warps of a thread block.
constexpr int kWarps = 4;

template <int bits, turbo_role role> __global__ void __launch_bounds__(kWarps * kWarp)
    encode_blocks(const char * __restrict__ x, Strides x_strides, char * __restrict__ blocks, Strides strides,
                  RowNumbers numbers, Shape shape, uint32_t n_blocks) {
    __shared__ Partial partial[kWarps];
    const uint32_t i = blockIdx.x * kWarps + threadIdx.x / kWarp;
    if (i >= n_blocks) {
        return;
    }
    const Place from(i, shape);
    Place to = from;
    const float * values =
        (const float *) (x + from.offset(x_strides, from.block * (int64_t) (TURBO_BLOCK * sizeof(float)))) +
        threadIdx.x % kLanes;
    float v[kParts];
#pragma unroll
    for (int p = 0; p < kParts; p++) {
        v[p] = values[p * kLanes];
    }
    int64_t row = from.row;
    if (numbers.data != nullptr) {
        const char * number = numbers.data + from.row * numbers.strides.row +
                              from.matrix % numbers.matrices * numbers.strides.matrix +
                              from.batch % numbers.batches * numbers.strides.batch;
        row = numbers.wide ? *(const int64_t *) number : *(const int32_t *) number;
    }
    to.row = 0;
    encode_block<bits>(v, role,
                       (uint8_t *) blocks + row * strides.row + to.offset(strides, from.block * kBlockBytes<bits>),
                       partial[threadIdx.x / kWarp]);
}

}  // namespace

void encode(int bits, turbo_role role, const float * x, Strides x_strides, void * blocks, Strides strides,
            RowNumbers numbers, Shape shape, cudaStream_t stream) {
    const uint32_t n_blocks = (uint32_t) shape.blocks();
    if (n_blocks == 0) {
        return;
    }
    with_bits(bits, [&](auto constant) {
        constexpr int b = decltype(constant)::value;
        const auto kernel = role == TURBO_VALUE ? encode_blocks<b, TURBO_VALUE> : encode_blocks<b, TURBO_KEY>;
        kernel<<<(n_blocks + kWarps - 1) / kWarps, kWarps * kWarp, 0, stream>>>(
            (const char *) x, x_strides, (char *) blocks, strides, numbers, shape, n_blocks);
    });
}

}  // namespace pmtp::turboquant
