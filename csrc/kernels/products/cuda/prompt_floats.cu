// Products of a prompt's rows with weights that are floats, as prompt_products.cu has those of quantised ones: the
// arithmetic of a result is that of float_stages.cuh.
#include "kernels/products/cuda/prompt_blocks.cuh"

namespace {

// In shared memory: twice a stage of the block's rows, then of each warp's weights.
template <typename Format, typename Share> struct FloatMemory {
    static constexpr int kStride = Layout<Format>::kColumnStride;
    static constexpr int kXWords = Share::kRows * kStride;
    static constexpr int kStageWords = Share::kTiles * kTile * Layout<Format>::kWords;
    static constexpr size_t kBytes = 2 * (kXWords + kPromptWarps * kStageWords) * sizeof(uint32_t);
};

// Adds a stage of the product of the warp's tiles and the block's rows x. Sixteen rows share an instruction here, and
// what they lack of their activations has one of its own.
template <typename Format, typename Share>
__device__ __forceinline__ void add_prompt_floats(float (&sum)[Share::kTiles][Share::kResults],
                                                  const uint32_t * weights, const float * x) {
    constexpr int kStride = FloatMemory<Format, Share>::kStride;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const auto * w = (const uint2 *) (weights + g * Layout<Format>::kWords) + t;
    float near[Share::kTiles][Share::kRowTiles][4] = {}, rest[Share::kTiles][Share::kRowTiles][4] = {};
#pragma unroll
    for (int i = 0; i < Format::kStage / 16; i++) {
        uint2 words[Share::kTiles];
#pragma unroll
        for (int tile = 0; tile < Share::kTiles; tile++) {
            words[tile] = w[tile * kTile * Layout<Format>::kWords / 2 + 4 * i];
        }
#pragma unroll
        for (int r = 0; r < Share::kRowTiles; r++) {
            const auto * row = (const float4 *) (x + (r * kPmtpTileRows + g) * kStride) + t + 4 * i;
            const float4 a = row[0], b = row[8 * kStride / 4];
            const float values[2][4] = { { a.x, b.x, a.y, b.y }, { a.z, b.z, a.w, b.w } };
#pragma unroll
            for (int half = 0; half < 2; half++) {
                uint32_t large[4], small[4];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    large[j] = round_to_tf32(values[half][j]);
                    small[j] = round_to_tf32(values[half][j] - __uint_as_float(large[j]));
                }
#pragma unroll
                for (int tile = 0; tile < Share::kTiles; tile++) {
                    const uint32_t word = half == 0 ? words[tile].x : words[tile].y;
                    multiply_8(near[tile][r], large, Format::low(word), Format::high(word));
                    multiply_8(rest[tile][r], small, Format::low(word), Format::high(word));
                }
            }
        }
    }
#pragma unroll
    for (int tile = 0; tile < Share::kTiles; tile++) {
#pragma unroll
        for (int i = 0; i < Share::kResults; i++) {
            sum[tile][i] += near[tile][i / 4][i % 4] + rest[tile][i / 4][i % 4];
        }
    }
}

template <typename Format, int n_matrices, typename Share>
__global__ __launch_bounds__(kPromptWarps * 32, Share::kResident) void multiply_prompt_floats(const WeightProduct p,
                                                                                              int n_splits) {
    using Memory = FloatMemory<Format, Share>;
    constexpr int kWarpRows = Share::kTiles * kTile;
    extern __shared__ uint4 shared[];
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    auto * x = (uint32_t *) shared;
    uint32_t * buffers = x + 2 * (Memory::kXWords + warp * Memory::kStageWords);
    const PromptBlock<Share::block_out(n_matrices)> block(p);
    const WarpWeights<Format, Share::kTiles, n_matrices> weights(
        block.weights, p.gate, block.block * Share::block_out(n_matrices) + warp * kWarpRows / n_matrices, block.n_out,
        (size_t) p.n_in / Format::kStage * Format::kBytes);
    const auto load_rows = [&](int stage, uint32_t * to) {
#pragma unroll 4
        for (int i = warp; i < Share::kRows; i += kPromptWarps) {
            const size_t row = min((int) blockIdx.y * Share::kRows + i, p.n_rows - 1);
            copy_cached_16(to + i * Memory::kStride + 4 * lane,
                           p.floats + row * p.n_in + stage * Format::kStage + 4 * lane);
        }
    };

    weights.load(0, buffers);
    wait_for_previous();
    let_next_begin();
    load_rows(0, x);
    end_group();
    float sum[Share::kTiles][Share::kResults] = {};
    float total[Share::kTiles][Share::kResults] = {};
    StageOrder order{ p.n_in / Format::kStage, n_splits };
    for (int turn = 0;; turn ^= 1) {
        wait_for_group<0>();
        // All have the rows, and have done with those before.
        __syncthreads();
        const bool is_last = order.is_last();
        if (!is_last) {
            load_rows(order.next(), x + (turn ^ 1) * Memory::kXWords);
            weights.load(order.next(), buffers + (turn ^ 1) * Memory::kStageWords);
        }
        end_group();
        add_prompt_floats<Format, Share>(sum, buffers + turn * Memory::kStageWords,
                                         (const float *) x + turn * Memory::kXWords);
        if (order.ends_split()) {
#pragma unroll
            for (int i = 0; i < Share::kTiles * Share::kResults; i++) {
                total[i / Share::kResults][i % Share::kResults] += sum[i / Share::kResults][i % Share::kResults];
                sum[i / Share::kResults][i % Share::kResults] = 0.0f;
            }
        }
        if (is_last) {
            break;
        }
        order.stage = order.next();
    }
    store_results<n_matrices, Share>(p, block, total, (float *) shared);
}

template <typename Format, int n_matrices, typename Share>
void launch(const WeightProduct & p, int n_splits, cudaStream_t stream) {
    launch_early(multiply_prompt_floats<Format, n_matrices, Share>, prompt_grid<Share, n_matrices>(p),
                 kPromptWarps * 32, stream, FloatMemory<Format, Share>::kBytes, p, n_splits);
}

using FloatShare = Share<4, 2, 2>;

// Whether blocks are too few for all multiprocessors, or too large for one: those of tiled_products.cu are smaller.
template <typename Format> bool is_small(const WeightProduct & p) {
    const dim3 grid = p.gate != nullptr ? prompt_grid<FloatShare, 2>(p) : prompt_grid<FloatShare, 1>(p);
    return (int) (grid.x * grid.y) < attribute(cudaDevAttrMultiProcessorCount) ||
           FloatMemory<Format, FloatShare>::kBytes > (size_t) attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
}

template <typename Format> void launch_format(const WeightProduct & p, cudaStream_t stream) {
    const int n_splits = geometry_of<Format>(p).n_warps;
    if (is_small<Format>(p)) {
        pmtp_cuda_launch_tiled_product(p, stream);
    } else if (p.gate != nullptr) {
        launch<Format, 2, FloatShare>(p, n_splits, stream);
    } else {
        launch<Format, 1, FloatShare>(p, n_splits, stream);
    }
}

}  // namespace

void pmtp_cuda_launch_prompt_floats(const WeightProduct & p, cudaStream_t stream) {
    p.format == WeightFormat::f16 ? launch_format<formats::F16>(p, stream) : launch_format<formats::BF16>(p, stream);
}
