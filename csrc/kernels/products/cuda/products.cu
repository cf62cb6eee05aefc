#include "kernels/products/cuda/products.cuh"

#include "kernels/cuda/launch.cuh"
#include "kernels/products/cuda/formats.cuh"
#include "kernels/rows/cuda/gelu.cuh"

namespace {

namespace formats = pmtp::formats;

constexpr int kTile = 8;     // rows of weights of a tensor-core instruction
constexpr int kBatch = 8;    // columns
constexpr int kStage = 256;  // values of a row that a warp takes at a time
// A stage of a row of activations, 8 blocks of 36 bytes,
constexpr int kColumnWords = 72;
// and from one to the next in shared memory, 12 banks apart.
constexpr int kColumnStride = 76;
constexpr int kMaxWarps = 16;
// Of a block with a gate: 32 values, which it can quantise.
constexpr int kGateTiles = 4;

// How a stage of a row of weights lies in shared memory: the chunks of 16 bytes that have a part of it.
template <typename Format> struct Layout {
    static constexpr bool kAligned = Format::kBytes % 16 == 0;
    // The furthest that a stage begins behind a chunk.
    static constexpr int kFurthest = kAligned ? 0 : Format::kBytes % 8 == 0 ? 8 : Format::kBytes % 4 == 0 ? 12 : 14;
    static constexpr int kChunks = (kFurthest + Format::kBytes + 15) / 16;
    // Rows are an odd number of 4 banks apart, so a warp's reads are free of conflicts.
    static constexpr int kWords = 4 * (kChunks | 1);

    static __device__ __forceinline__ formats::Stage stage(const uint32_t * row, uint32_t begin) {
        return kAligned ? formats::Stage{ row, 0 } : formats::Stage{ row + begin % 16 / 4, begin % 4 * 8 };
    }
};

// 16 bytes to shared memory, in the background; from n_bytes on they are 0, and nothing is read.
__device__ __forceinline__ void copy_16(uint32_t * to, const void * from, int n_bytes = 16) {
#if __CUDA_ARCH__ >= 800
    const auto at = (uint32_t) __cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(n_bytes));
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

// Likewise the sum over 16 values.
__device__ __forceinline__ void multiply_16(int (&c)[2], uint32_t x, uint32_t w) {
#if __CUDA_ARCH__ >= 800
    [[maybe_unused]] int unused[2];
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%5, %5, %5, %5};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(unused[0]), "=r"(unused[1])
        : "r"(x), "r"(0), "r"(w));
#endif
}

// A stage of the product of one tile, whose first row begins at byte `begin` of its matrix and each other one row_bytes
// further on.
template <typename Format> __device__ __forceinline__ void add_stage(float (&sum)[2], const uint32_t * tile,
                                                                     uint32_t begin, uint32_t row_bytes,
                                                                     const uint32_t * columns) {
    const int t = threadIdx.x % 4;
    const int row = threadIdx.x % 32 / 4;
    const uint32_t * x = columns + row * kColumnStride;
    const auto stage_of = [&](int i) {
        return Layout<Format>::stage(tile + i * Layout<Format>::kWords, begin + i * row_bytes);
    };
    const formats::Stage weights = stage_of(row);
    const formats::Stage scales[2] = { stage_of(2 * t), stage_of(2 * t + 1) };
    float scaled[2] = {};
    float least[2] = {};
#pragma unroll
    for (int group = 0; group < kStage / 32; group++, x += 9) {
        const formats::Quants quants = Format::quants(weights, group, t);
        const float2 scale_and_sum = __half22float2(*(const half2 *) x);
        int c[2];
        if constexpr (!Format::kSuper) {
            multiply_32(c, x[1 + t], x[5 + t], quants.first, quants.second);
            for (int i = 0; i < 2; i++) {
                sum[i] += Format::scale(scales[i], group) * (c[i] * scale_and_sum.x - Format::kBias * scale_and_sum.y);
            }
        } else if constexpr (Format::kGroup == 16) {
            int second[2];
            multiply_16(c, x[1 + t], quants.first);
            multiply_16(second, x[5 + t], quants.second);
            for (int i = 0; i < 2; i++) {
                scaled[i] += scale_and_sum.x * (float) (Format::sub_scale(scales[i], 2 * group) * c[i] +
                                                        Format::sub_scale(scales[i], 2 * group + 1) * second[i]);
            }
        } else {
            multiply_32(c, x[1 + t], x[5 + t], quants.first, quants.second);
            for (int i = 0; i < 2; i++) {
                scaled[i] += scale_and_sum.x * (float) (Format::sub_scale(scales[i], group) * c[i]);
                if constexpr (Format::kHasLeast) {
                    least[i] += scale_and_sum.y * (float) Format::sub_least(scales[i], group);
                }
            }
        }
    }
    if constexpr (Format::kSuper) {
        for (int i = 0; i < 2; i++) {
            sum[i] += Format::scale(scales[i]) * scaled[i];
            if constexpr (Format::kHasLeast) {
                sum[i] -= Format::least(scales[i]) * least[i];
            }
        }
    }
}

// A block: n_tiles tiles of weight rows, and of the gate's; its warps take the stages of the rows in turn, each through
// a buffer or two of its own.
template <typename Format, int n_tiles, int n_matrices>
__global__ __launch_bounds__(kMaxWarps * 32) void multiply(const WeightProduct p) {
    constexpr int kWeightWords = Layout<Format>::kWords;
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
    const size_t row_bytes = (size_t) n_stages * Format::kBytes;
    const auto begin_of = [&](int row, int stage) { return (first_row + row) * row_bytes + stage * Format::kBytes; };
    const auto load_weights = [&](int stage, uint32_t * to) {
        constexpr int kChunks = Layout<Format>::kChunks;
        for (int i = lane; stage < n_stages && i < kRows * kChunks; i += 32) {
            const int row = i / kChunks;
            const auto * matrix = (const char *) (n_matrices == 1 || row < kOut ? p.weights : p.gate);
            uint32_t * chunk = to + row * kWeightWords + i % kChunks * 4;
            if constexpr (Layout<Format>::kAligned) {
                copy_16(chunk, matrix + begin_of(row % kOut, stage) + i % kChunks * 16);
            } else {
                const size_t at = begin_of(row % kOut, stage) / 16 * 16 + i % kChunks * 16;
                const size_t end = p.n_out * row_bytes;
                copy_16(chunk, matrix + min(at, end), (int) min((size_t) 16, end - min(at, end)));
            }
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
            add_stage<Format>(sum[tile], at + tile * kTile * kWeightWords,
                              (uint32_t) begin_of(tile % n_tiles * kTile, stage), (uint32_t) row_bytes,
                              at + kRows * kWeightWords);
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
Geometry geometry_of(const WeightProduct & p, int weight_words) {
    const int n_matrices = p.gate != nullptr ? 2 : 1;
    const int n_stages = p.n_in / kStage;
    const int enough = n_stages <= kMaxWarps ? 1 << 10 : 1 << 12;
    const int n_tiles = n_matrices == 2                                    ? kGateTiles
                        : p.n_out >= 1 << 14 && p.n_out % (4 * kTile) == 0 ? 4
                        : p.n_out >= enough && p.n_out % (2 * kTile) == 0  ? 2
                                                                           : 1;
    const size_t buffer = (n_matrices * n_tiles * kTile * weight_words + kBatch * kColumnStride) * sizeof(uint32_t);
    const size_t limit = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    for (int n_rounds = (n_stages + kMaxWarps - 1) / kMaxWarps;; n_rounds++) {
        const int n_warps = (n_stages + n_rounds - 1) / n_rounds;
        const size_t bytes = n_warps * (n_rounds > 1 ? 2 : 1) * buffer;
        if (bytes <= limit || n_warps == 1) {
            return { n_tiles, n_warps, bytes };
        }
    }
}

template <typename Format> void launch(const WeightProduct & p, cudaStream_t stream) {
    const Geometry g = geometry_of(p, Layout<Format>::kWords);
    const auto kernel = p.gate != nullptr ? multiply<Format, kGateTiles, 2>
                        : g.n_tiles == 4  ? multiply<Format, 4, 1>
                        : g.n_tiles == 2  ? multiply<Format, 2, 1>
                                          : multiply<Format, 1, 1>;
    launch_early(kernel, p.n_out / (g.n_tiles * kTile), g.n_warps * 32, stream, g.shared_bytes, p);
}

}  // namespace

bool pmtp_cuda_has_product(const WeightProduct & p) {
    return p.n_in > 0 && p.n_in % kStage == 0 && p.n_out % (p.gate != nullptr ? kGateTiles * kTile : kTile) == 0 &&
           p.n_rows <= kBatch && attribute(cudaDevAttrComputeCapabilityMajor) >= 8;
}

void pmtp_cuda_launch_product(const WeightProduct & p, cudaStream_t stream) {
    switch (p.format) {
        case WeightFormat::q4_0: return launch<formats::Q4_0>(p, stream);
        case WeightFormat::q5_0: return launch<formats::Q5_0>(p, stream);
        case WeightFormat::q8_0: return launch<formats::Q8_0>(p, stream);
        case WeightFormat::iq4_nl: return launch<formats::IQ4_NL>(p, stream);
        case WeightFormat::iq4_xs: return launch<formats::IQ4_XS>(p, stream);
        case WeightFormat::q4_K: return launch<formats::Q4_K>(p, stream);
        case WeightFormat::q5_K: return launch<formats::Q5_K>(p, stream);
        case WeightFormat::q6_K: return launch<formats::Q6_K>(p, stream);
    }
}
