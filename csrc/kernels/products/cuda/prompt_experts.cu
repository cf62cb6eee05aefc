// Products of a mixture of experts for the tokens of a prompt: pairs are put in order of their experts once, and a
// block multiplies some of one expert's with rows of its weights. The arithmetic of a result is that of
// expert_products.cu.
#include "kernels/products/cuda/expert_sharing.cuh"
#include "kernels/products/cuda/prompt_multiply.cuh"

#include <algorithm>

namespace {

// Of which experts have 16 to 64 rows mostly.
using ExpertShare = Share<2, 2, 4>;

constexpr int kOrderThreads = kPmtpMostExperts;

// Up to ExpertShare::kRows pairs of an expert, from the first-th in order on.
struct PairTile {
    int expert, first, n, unused;
};

// As many as there may be.
int64_t n_tiles_of(int64_t n_pairs, int64_t n_experts) {
    return n_pairs / ExpertShare::kRows + std::min(n_experts, n_pairs);
}
int n_tiles_of(const ExpertProduct & p) { return (int) n_tiles_of((int64_t) p.n_used * p.n_tokens, p.n_experts); }

__device__ __forceinline__ const int32_t * pairs_behind(const ExpertProduct & p, int n_tiles) {
    return (const int32_t *) ((const PairTile *) p.order + n_tiles);
}

// Sums of what the threads before have. All kOrderThreads call it.
__device__ __forceinline__ int sum_before(int value, int * of_warps) {
    const int lane = threadIdx.x % 32;
    int sum = value;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        const int before = __shfl_up_sync(kAllLanes, sum, offset);
        sum += lane >= offset ? before : 0;
    }
    if (lane == 31) {
        of_warps[threadIdx.x / 32] = sum;
    }
    __syncthreads();
    int before = 0;
    for (int i = 0; i < (int) threadIdx.x / 32; i++) {
        before += of_warps[i];
    }
    __syncthreads();
    return before + sum - value;
}

// One block. The order within an expert is any: results do not depend on it.
__global__ __launch_bounds__(kOrderThreads) void order_pairs(const ExpertProduct p, int n_tiles) {
    constexpr int kRows = ExpertShare::kRows;
    __shared__ int counts[kPmtpMostExperts];
    __shared__ int of_warps[kOrderThreads / 32];
    const int n_pairs = p.n_used * p.n_tokens;
    const int own = threadIdx.x;
    counts[own] = 0;
    wait_for_previous();
    let_next_begin();
    __syncthreads();
    for (int i = own; i < n_pairs; i += kOrderThreads) {
        atomicAdd(&counts[expert_of(p.ids, p.ids_stride, p.n_used, p.n_experts, i)], 1);
    }
    __syncthreads();
    const int count = counts[own];
    const int first = sum_before(count, of_warps);
    const int first_tile = sum_before((count + kRows - 1) / kRows, of_warps);
    auto * tiles = (PairTile *) p.order;
    for (int i = 0; i * kRows < count; i++) {
        tiles[first_tile + i] = { own, first + i * kRows, min(kRows, count - i * kRows), 0 };
    }
    if (own == kOrderThreads - 1) {
        for (int i = first_tile + (count + kRows - 1) / kRows; i < n_tiles; i++) {
            tiles[i] = { 0, 0, 0, 0 };
        }
    }
    counts[own] = first;
    __syncthreads();
    auto * pairs = (int32_t *) (tiles + n_tiles);
    for (int i = own; i < n_pairs; i += kOrderThreads) {
        pairs[atomicAdd(&counts[expert_of(p.ids, p.ids_stride, p.n_used, p.n_experts, i)], 1)] = i;
    }
}

// Copies a stage of a row of blocks, one after another, to where its words belong in a tile.
struct RowScatter {
    static constexpr int kWords = 8 * 9;  // of a stage
    int to[3];                            // of the lane's words: those at lane, lane + 32 and lane + 64
    bool is_scale[3];

    __device__ __forceinline__ RowScatter() {
        for (int i = 0; i < 3; i++) {
            const int word = threadIdx.x % 32 + 32 * i, in_block = word % 9;
            is_scale[i] = in_block == 0;
            to[i] = word / 9 * kPmtpTileWords +
                    (is_scale[i] ? 8 * kPmtpTileRows : (in_block - 1) % 4 * 4 + (in_block - 1) / 4 * 2);
        }
    }
    __device__ __forceinline__ void copy(uint32_t * tile, int row, const uint32_t * from) const {
#pragma unroll
        for (int i = 0; i < 3; i++) {
            const int lane = threadIdx.x % 32;
            if (32 * i + lane < kWords) {
                copy_cached<4>(tile + to[i] + (is_scale[i] ? row : row % 8 * 16 + row / 8), from + 32 * i + lane);
            }
        }
    }
};

template <typename Format, int n_matrices>
__global__ __launch_bounds__(kPromptWarps * 32,
                             ExpertShare::kResident) void multiply_prompt_experts(const ExpertProduct p, int n_tiles,
                                                                                  int n_splits, int n_buffers) {
    using Memory = PromptMemory<Format, ExpertShare>;
    constexpr int kRows = ExpertShare::kRows;
    constexpr int kOut = ExpertShare::block_out(n_matrices);
    constexpr int kWarpOut = kOut / kPromptWarps;
    extern __shared__ uint4 shared[];
    __shared__ int pairs[kRows];
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    wait_for_previous();
    const PairTile tile = ((const PairTile *) p.order)[blockIdx.y];
    if (tile.n == 0) {
        let_next_begin();
        return;
    }
    if (threadIdx.x < kRows) {
        pairs[threadIdx.x] = pairs_behind(p, n_tiles)[tile.first + min((int) threadIdx.x, tile.n - 1)];
    }
    __syncthreads();
    const int n_groups = p.n_in / 32;
    const int first_out = blockIdx.x * kOut + warp * kWarpOut;
    const WarpWeights<Format, ExpertShare::kTiles, n_matrices> weights(
        (const char *) p.weights + tile.expert * p.expert_bytes, (const char *) p.gate + tile.expert * p.expert_bytes,
        first_out, p.n_out, (size_t) n_groups * Format::kBytes / Memory::kGroups);
    const RowScatter scatter;
    const auto load_tile = [&](int stage, int r, uint32_t * to) {
#pragma unroll 4
        for (int row = 0; row < kPmtpTileRows; row++) {
            const int pair = pairs[r * kPmtpTileRows + row];
            const int of_x = p.x_of_pairs ? pair : pair / p.n_used;
            scatter.copy(to, row, (const uint32_t *) (p.x + of_x * pmtp_row_blocks(p.n_in) + stage * Memory::kGroups));
        }
    };
    float total[ExpertShare::kTiles][ExpertShare::kResults] = {};
    multiply_all<Format, n_matrices, ExpertShare>(total, weights, n_groups, n_splits, n_buffers, (uint32_t *) shared,
                                                  load_tile);

    auto * results = (float *) shared;  // [row][column of the block]
    __syncthreads();
#pragma unroll
    for (int t = 0; t < ExpertShare::kTiles / n_matrices; t++) {
#pragma unroll
        for (int i = 0; i < ExpertShare::kResults; i++) {
            const int row = i / 4 * kPmtpTileRows + lane / 4 + i % 4 / 2 * 8;
            float out = total[t][i];
            if constexpr (n_matrices == 2) {
                out *= gelu(total[t + ExpertShare::kTiles / 2][i]);
            }
            results[row * kOut + warp * kWarpOut + t * kTile + 2 * (lane % 4) + i % 2] = out;
        }
    }
    __syncthreads();
    // Whole warps, as columns are multiples of 32.
    for (int i = threadIdx.x; i < tile.n * kOut; i += blockDim.x) {
        const int pair = pairs[i / kOut];
        const int column = blockIdx.x * kOut + i % kOut;
        if (column >= p.n_out) {
            continue;
        }
        put_result<n_matrices>(p, tile.expert, pair, column, results[i]);
    }
}

template <typename Format, int n_matrices> void launch(const ExpertProduct & p, cudaStream_t stream) {
    using Memory = PromptMemory<Format, ExpertShare>;
    const int n_buffers = prompt_buffers<Format, ExpertShare>();
    const int n_tiles = n_tiles_of(p);
    const int n_splits = expert_splits<Format, n_matrices * kGateTiles * kTile>(p.n_in);
    const int kOut = ExpertShare::block_out(n_matrices);
    launch_early(multiply_prompt_experts<Format, n_matrices>, dim3((p.n_out + kOut - 1) / kOut, n_tiles),
                 kPromptWarps * 32, stream, Memory::bytes(n_buffers), p, n_tiles, n_splits, n_buffers);
}

}  // namespace

size_t pmtp_cuda_expert_order_bytes(int64_t n_tokens, int64_t n_used, int64_t n_experts) {
    const int64_t n_pairs = n_tokens * n_used;
    return pmtp_is_prompt_of_experts(n_tokens, n_used)
               ? n_tiles_of(n_pairs, n_experts) * sizeof(PairTile) + n_pairs * sizeof(int32_t)
               : 0;
}

void pmtp_cuda_launch_prompt_experts(const ExpertProduct & p, cudaStream_t stream) {
    if (!p.is_ordered) {
        launch_early(order_pairs, 1, kOrderThreads, stream, 0, p, n_tiles_of(p));
    }
    with_format(p.format, [&](auto format) {
        using Format = decltype(format);
        if constexpr (has_loose<Format>()) {
            if (is_loose(p)) {
                launch<formats::Loose<Format>, 1>(p, stream);
                return;
            }
        }
        if constexpr (Format::kQuantised) {
            p.gate != nullptr ? launch<Format, 2>(p, stream) : launch<Format, 1>(p, stream);
        }
    });
}
