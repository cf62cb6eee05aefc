#include "kernels/products/cuda/products.cuh"

#include "kernels/rows/cuda/gelu.cuh"
#include "kernels/cuda/launch.cuh"

namespace {

constexpr int kTile = 8;          // rows of weights of a tensor-core instruction
constexpr int kBatch = 8;         // columns
constexpr int kStage = 256;       // values of a row that a warp takes at a time
constexpr int kWeightWords = 36;  // a row's share of a stage: 8 blocks of 18 bytes. Rows are 4 banks apart, so a warp's
                                  // reads are free of conflicts
constexpr int kColumnWords = 72;  // likewise of the activations, 8 blocks of 36 bytes,
constexpr int kColumnStride = 76;  // and from one to the next in shared memory, 12 banks apart
constexpr int kMaxWarps = 16;
constexpr int kGateTiles = 4;  // of a block with a gate: 32 values, which it can quantise

// 16 bytes to shared memory, in the background.
__device__ __forceinline__ void copy_16(uint32_t * to, const uint32_t * from) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((uint32_t) __cvta_generic_to_shared(to)), "l"(from));
#endif
}

__device__ __forceinline__ void end_group() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;");
#endif
}

template <int n_newer> __device__ __forceinline__ void wait_for_group() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(n_newer));
#endif
}

// c[i] of a lane: the sum over 32 values for batch row lane / 4 and weight row 2 (lane % 4) + i of the tile.
// x: values 4 (lane % 4) ... and 16 more on of row lane / 4 of the batch; w: likewise of the tile.
__device__ __forceinline__ void multiply_32(int (&c)[2], uint32_t x0, uint32_t x1, uint32_t w0, uint32_t w1) {
#if __CUDA_ARCH__ >= 800
    [[maybe_unused]] int unused[2];  // batch rows 8 to 15
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %5}, {%7, %8}, {%9, %9, %9, "
        "%9};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(unused[0]), "=r"(unused[1])
        : "r"(x0), "r"(0), "r"(x1), "r"(w0), "r"(w1), "r"(0));
#endif
}

__device__ __forceinline__ float half_at(const uint32_t * words, int half_index) {
    return __half2float(((const half *) words)[half_index]);
}

// A stage of the product of one tile. Of two blocks of Q4_0, 9 words, the first begins at a word and the second in the
// middle of one.
__device__ __forceinline__ void add_stage(float (&sum)[2], const uint32_t * tile, const uint32_t * columns) {
    const int t = threadIdx.x % 4;
    const uint32_t * w = tile + threadIdx.x % 32 / 4 * kWeightWords;
    const uint32_t * x = columns + threadIdx.x % 32 / 4 * kColumnStride;
    const uint32_t * scales = tile + 2 * t * kWeightWords;
#pragma unroll
    for (int pair = 0; pair < kStage / 64; pair++, w += 9, x += 18, scales += 9) {
        const uint32_t quants[2] = { __funnelshift_r(w[t], w[t + 1], 16), w[t + 5] };
#pragma unroll
        for (int block = 0; block < 2; block++) {
            int c[2];
            multiply_32(c, x[block * 9 + 1 + t], x[block * 9 + 5 + t], quants[block] & 0x0f0f0f0f,
                        quants[block] >> 4 & 0x0f0f0f0f);
            const float2 scale_and_sum = __half22float2(*(const half2 *) &x[block * 9]);
            for (int i = 0; i < 2; i++) {  // Q4_0 stores its values plus 8
                sum[i] +=
                    half_at(scales + i * kWeightWords, block * 9) * (c[i] * scale_and_sum.x - 8.0f * scale_and_sum.y);
            }
        }
    }
}

// A block: n_tiles tiles of weight rows, and of the gate's; its warps take the stages of the rows in turn, each through
// a buffer or two of its own.
template <int n_tiles, int n_matrices> __global__ __launch_bounds__(kMaxWarps * 32) void multiply(const Q4Product p) {
    constexpr int kRows = n_matrices * n_tiles * kTile;
    constexpr int kBufferWords = kRows * kWeightWords + kBatch * kColumnStride;
    constexpr int kOut = n_tiles * kTile;
    extern __shared__ uint4 shared[];
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int n_warps = blockDim.x / 32;
    const int n_stages = p.n_in / kStage;
    const int n_buffers = n_stages > n_warps ? 2 : 1;
    const auto buffer = [&](int of_warp, int i) {
        return (uint32_t *) shared + (of_warp * n_buffers + i) * kBufferWords;
    };
    const int first_row = blockIdx.x * kOut;
    const auto load_weights = [&](int stage, uint32_t * to) {
        for (int i = lane; stage < n_stages && i < kRows * (kWeightWords / 4); i += 32) {
            const int row = i / (kWeightWords / 4);
            const auto * matrix = (const uint32_t *) (n_matrices == 1 || row < kOut ? p.weights : p.gate);
            const size_t at = ((size_t) (first_row + row % kOut) * n_stages + stage) * kWeightWords;
            copy_16(to + i * 4, matrix + at + i % (kWeightWords / 4) * 4);
        }
    };
    const auto load_columns = [&](int stage, uint32_t * to) {
        for (int i = lane; stage < n_stages && i < p.n_rows * (kColumnWords / 4); i += 32) {
            const int row = i / (kColumnWords / 4);
            const int word = i % (kColumnWords / 4) * 4;
            copy_16(to + kRows * kWeightWords + row * kColumnStride + word,
                    (const uint32_t *) (p.x + row * pmtp_row_blocks(p.n_in)) + stage * kColumnWords + word);
        }
    };

    let_next_begin();
    for (int i = 0; i < n_buffers; i++) {
        load_weights(warp + i * n_warps, buffer(warp, i));
    }
    wait_for_previous();
    for (int i = 0; i < 2; i++) {
        if (i < n_buffers) {
            load_columns(warp + i * n_warps, buffer(warp, i));
        }
        end_group();
    }
    float sum[n_matrices * n_tiles][2] = {};
    for (int stage = warp, i = 0; stage < n_stages; stage += n_warps, i ^= 1) {
        uint32_t * at = buffer(warp, i);
        wait_for_group<1>();
        __syncwarp();
#pragma unroll
        for (int tile = 0; tile < n_matrices * n_tiles; tile++) {
            add_stage(sum[tile], at + tile * kTile * kWeightWords, at + kRows * kWeightWords);
        }
        __syncwarp();
        load_weights(stage + 2 * n_warps, at);
        load_columns(stage + 2 * n_warps, at);
        end_group();
    }
    wait_for_group<0>();
    __syncwarp();
    for (int tile = 0; tile < n_matrices * n_tiles;
         tile++) {  // in place of the warp's first buffer: [matrix][batch row][weight row]
        for (int i = 0; i < 2; i++) {
            const int row = lane / 4 * kOut + tile % n_tiles * kTile + 2 * (lane % 4) + i;
            ((float *) buffer(warp, 0))[tile / n_tiles * kBatch * kOut + row] = sum[tile][i];
        }
    }
    __syncthreads();
    for (int at = threadIdx.x; at < p.n_rows * kOut; at += blockDim.x) {  // whole warps, with a gate
        float total[n_matrices] = {};
        for (int w = 0; w < n_warps; w++) {
            for (int m = 0; m < n_matrices; m++) {
                total[m] += ((const float *) buffer(w, 0))[m * kBatch * kOut + at];
            }
        }
        float out = total[0];
        if constexpr (n_matrices == 2) {
            out *= gelu(total[1]);
        }
        const int row = at / kOut;
        const int column = first_row + at % kOut;
        p.out[(size_t) row * p.n_out + column] = out;
        if constexpr (n_matrices == 2) {
            if (p.quantised != nullptr) {
                const float values[1] = { out };
                pmtp_quantise(values, &p.quantised[row * pmtp_row_blocks(p.n_out) + column / 32]);
            }
        }
    }
}

int attribute(cudaDeviceAttr name) {
    int device = 0;
    int value = 0;
    return cudaGetDevice(&device) == cudaSuccess && cudaDeviceGetAttribute(&value, name, device) == cudaSuccess ? value
                                                                                                                : 0;
}

struct Geometry {
    int n_tiles;
    int n_warps;
    size_t shared_bytes;
};

// As many warps as there are stages and memory for: few warps with much to do each wait too long. Few rows of weights
// are spread over all multiprocessors.
Geometry geometry_of(const Q4Product & p) {
    const int n_matrices = p.gate != nullptr ? 2 : 1;
    const int n_stages = p.n_in / kStage;
    const int enough = n_stages <= kMaxWarps ? 1 << 10 : 1 << 12;
    const int n_tiles = n_matrices == 2                                    ? kGateTiles
                        : p.n_out >= 1 << 14 && p.n_out % (4 * kTile) == 0 ? 4
                        : p.n_out >= enough && p.n_out % (2 * kTile) == 0  ? 2
                                                                           : 1;
    const size_t buffer = (n_matrices * n_tiles * kTile * kWeightWords + kBatch * kColumnStride) * sizeof(uint32_t);
    const size_t limit = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    for (int n_rounds = (n_stages + kMaxWarps - 1) / kMaxWarps;; n_rounds++) {
        const int n_warps = (n_stages + n_rounds - 1) / n_rounds;
        const size_t bytes = n_warps * (n_rounds > 1 ? 2 : 1) * buffer;
        if (bytes <= limit || n_warps == 1) {
            return { n_tiles, n_warps, bytes };
        }
    }
}

}  // namespace

bool pmtp_cuda_has_q4_product(const Q4Product & p) {
    return p.n_in > 0 && p.n_in % kStage == 0 && p.n_out % (p.gate != nullptr ? kGateTiles * kTile : kTile) == 0 &&
           p.n_rows <= kBatch && attribute(cudaDevAttrComputeCapabilityMajor) >= 8;
}

void pmtp_cuda_multiply_q4(const Q4Product & p, cudaStream_t stream) {
    const Geometry g = geometry_of(p);
    const auto kernel = p.gate != nullptr ? multiply<kGateTiles, 2>
                        : g.n_tiles == 4  ? multiply<4, 1>
                        : g.n_tiles == 2  ? multiply<2, 1>
                                          : multiply<1, 1>;
    launch_early(kernel, p.n_out / (g.n_tiles * kTile), g.n_warps * 32, stream, g.shared_bytes, p);
}
