// Products of more rows than verify batches have, those of prompts.
#include "kernels/products/cuda/expert_sharing.cuh"
#include "kernels/products/cuda/prompt_multiply.cuh"

namespace {

template <typename Format, int n_matrices, typename Share>
__global__ __launch_bounds__(kPromptWarps * 32, Share::kResident) void multiply_prompt(const WeightProduct p,
                                                                                       int n_splits, int n_buffers) {
    using Memory = PromptMemory<Format, Share>;
    constexpr int kOut = Share::block_out(n_matrices);
    extern __shared__ uint4 shared[];
    const int lane = threadIdx.x % 32;
    const int n_groups = p.n_in / 32;
    const PromptBlock<kOut> block(p);
    const WarpWeights<Format, Share::kTiles, n_matrices> weights(
        block.weights, p.gate, block.block * kOut + threadIdx.x / 32 * (kOut / kPromptWarps), block.n_out,
        (size_t) n_groups * Format::kBytes / Memory::kGroups);
    const int last_tile = (p.n_rows - 1) / kPmtpTileRows;
    const auto load_tile = [&](int stage, int r, uint32_t * to) {
        const size_t tile = min((int) blockIdx.y * Share::kRowTiles + r, last_tile);
        const uint32_t * from = (const uint32_t *) p.x +
                                (tile * pmtp_row_blocks(p.n_in) + stage * Memory::kGroups) * kPmtpTileWords + 4 * lane;
#pragma unroll
        for (int i = 0; i < Memory::kRowTileWords; i += 4 * 32) {
            copy_cached<16>(to + 4 * lane + i, from + i);
        }
    };
    float total[Share::kTiles][Share::kResults] = {};
    multiply_all<Format, n_matrices, Share>(total, weights, n_groups, n_splits, n_buffers, (uint32_t *) shared,
                                            load_tile);
    store_results<n_matrices, Share>(p, block, total, (float *) shared);
}

template <typename Format, int n_matrices, typename Share>
void launch(const WeightProduct & p, int n_splits, cudaStream_t stream) {
    using Memory = PromptMemory<Format, Share>;
    static_assert(Memory::bytes(1) >= Share::kRows * Share::block_out(n_matrices) * sizeof(float),
                  "results take the place of buffers");
    const int n_buffers = prompt_buffers<Format, Share>();
    launch_early(multiply_prompt<Format, n_matrices, Share>, prompt_grid<Share, n_matrices>(p), kPromptWarps * 32,
                 stream, Memory::bytes(n_buffers), p, n_splits, n_buffers);
}

// Rows of activations enough for those of weights, and blocks that registers and shared memory have room for.
template <typename Format> using PromptShare = Share<2, 4, Format::kSuper ? 2 : 3>;

// Whether there are too few blocks for all multiprocessors: those of tiled_products.cu are smaller.
template <typename Share> bool is_small(const WeightProduct & p) {
    const dim3 grid = p.gate != nullptr ? prompt_grid<Share, 2>(p) : prompt_grid<Share, 1>(p);
    return (int) (grid.x * grid.y) < attribute(cudaDevAttrMultiProcessorCount);
}

template <typename Format> void launch_format(const WeightProduct & p, int n_splits, cudaStream_t stream) {
    using Share = PromptShare<Format>;
    p.gate != nullptr ? launch<Format, 2, Share>(p, n_splits, stream) : launch<Format, 1, Share>(p, n_splits, stream);
}

}  // namespace

void pmtp_cuda_launch_prompt_product(const WeightProduct & p, cudaStream_t stream) {
    with_format(p.format, [&](auto format) {
        using Format = decltype(format);
        if constexpr (has_loose<Format>()) {
            if (p.n_in % Format::kStage != 0) {  // of fewer rows those of a single expert
                using Loose = formats::Loose<Format>;
                launch_format<Loose>(p, expert_splits<Loose, kGateTiles * kTile>(p.n_in), stream);
                return;
            }
        }
        if constexpr (Format::kQuantised) {
            is_small<PromptShare<Format>>(p) ? pmtp_cuda_launch_tiled_product(p, stream)
                                             : launch_format<Format>(p, geometry_of<Format>(p).n_warps, stream);
        }
    });
}
