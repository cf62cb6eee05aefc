#include "kernels/products/cuda/experts.cuh"

#include "kernels/products/cuda/expert_sharing.cuh"
#include "kernels/products/cuda/one_row.cuh"

#include <algorithm>

namespace {

// A block multiplies n_tiles tiles of one expert's rows of weights, and of its gate's, with the expert's pairs, eight
// after eight. Warps take the stages in turn.
template <typename Format, int n_tiles, int n_matrices> __global__ __launch_bounds__(
    Sharing<Format, n_matrices * n_tiles * kTile>::kWarps * 32,
    Sharing<Format, n_matrices * n_tiles * kTile>::kBlocks) void multiply_experts(const ExpertProduct p,
                                                                                  int n_columns) {
    constexpr int kWeightWords = Layout<Format>::kWords;
    constexpr int kColumnWords = Layout<Format>::kColumnWords;
    constexpr int kColumnStride = Layout<Format>::kColumnStride;
    constexpr int kRows = n_matrices * n_tiles * kTile;
    constexpr int kOut = n_tiles * kTile;
    constexpr int kGroups = Format::kStage / 32;
    static_assert(kBatch <= kWeightWords, "a warp's sums take the place of a buffer");
    static_assert(kRows % kSet == 0);
    extern __shared__ uint4 shared[];
    __shared__ PairsOfExpert of_expert;
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int n_warps = blockDim.x / 32;
    const int n_groups = p.n_in / 32;
    const int n_stages = (n_groups + kGroups - 1) / kGroups;
    const int buffer_words = kRows * kWeightWords + n_columns * kColumnStride;
    const auto buffer = [&](int of_warp) { return (uint32_t *) shared + of_warp * buffer_words; };
    uint32_t * own = buffer(warp);

    // Whoever comes next may then take ids for old.
    if (!p.ids_are_old) {
        wait_for_previous();
    }
    let_next_begin();
    const int expert = find_expert(of_expert, p, blockIdx.y);
    if (expert < 0) {
        return;
    }
    const int first_row = blockIdx.x * kOut;
    // In the expert's matrix, which is smaller than 4 GiB.
    const uint32_t row_bytes = (uint32_t) n_groups * Format::kBytes / kGroups;
    const auto begin_of = [&](int row, int stage) { return (first_row + row) * row_bytes + stage * Format::kBytes; };
    // A lane copies a chunk of some rows at a time.
    constexpr int kChunks = Layout<Format>::kChunks;
    constexpr int kAtOnce = 32 / kChunks;
    const int row_of_lane = lane / kChunks;
    const int chunk_of_lane = lane % kChunks;
    const auto load_weights = [&](int stage) {
        if (stage >= n_stages || row_of_lane >= kAtOnce) {
            return;
        }
        for (int m = 0; m < n_matrices; m++) {
            const char * matrix = (const char *) (m == 0 ? p.weights : p.gate) + expert * p.expert_bytes;
#pragma unroll 4
            for (int row = row_of_lane; row < kOut; row += kAtOnce) {
                uint32_t * chunk = own + (m * kOut + row) * kWeightWords + chunk_of_lane * 4;
                const uint32_t at = begin_of(row, stage) / 16 * 16 + chunk_of_lane * 16;
                if constexpr (Layout<Format>::kAligned) {
                    copy_16(chunk, matrix + at);
                } else {
                    const uint32_t end = p.n_out * row_bytes;
                    copy_16(chunk, matrix + min(at, end), (int) min(16u, end - min(at, end)));
                }
            }
        }
    };
    load_weights(warp);
    const int n_pairs = list_pairs(of_expert, p, expert);
    __syncthreads();
    if (p.ids_are_old) {
        wait_for_previous();
    }

    for (int first = 0; first < n_pairs; first += n_columns) {
        const int n_rows = min(n_columns, n_pairs - first);
        const auto load_columns = [&](int stage) {
            if (stage >= n_stages) {
                return;
            }
            // Rows are padded to whole stages. Chunks of one may be cut up into words of a tile.
            const int n_words = p.x_in_tiles ? 1 : 4;
            const int n_chunks = kColumnWords / n_words;
            for (int i = lane; i < n_rows * n_chunks; i += 32) {
                const int row = i / n_chunks;
                const int word = i % n_chunks * n_words;
                const int pair = of_expert.pairs[first + row];
                const int of_x = p.x_of_pairs ? pair : pair / p.n_used;
                uint32_t * to = own + kRows * kWeightWords + row * kColumnStride + word;
                if (!p.x_in_tiles) {
                    copy_cached<16>(to, (const uint32_t *) (p.x + of_x * pmtp_row_blocks(p.n_in)) +
                                            stage * kColumnWords + word);
                } else {
                    const PmtpQ8Place place = pmtp_place(const_cast<PmtpQ8Block *>(p.x), p.n_in, p.n_tokens, of_x,
                                                         stage * kGroups + word / 9);
                    copy_cached<4>(to,
                                   word % 9 == 0 ? (const uint32_t *) place.scale_and_sum : place.word(word % 9 - 1));
                }
            }
        };
        if (first > 0) {
            load_weights(warp);
        }
        load_columns(warp);
        end_group();
        const bool is_one = n_rows == 1;
        float sum[n_matrices * n_tiles][2] = {};
        OneRow<Format, kRows / kSet> of_one;
        for (int stage = warp; stage < n_stages; stage += n_warps) {
            wait_for_group<0>();
            __syncwarp();
            const uint32_t * columns = own + kRows * kWeightWords;
            if (is_one) {
                of_one.add_stage([&](int row) { return own + row * kWeightWords; },
                                 [&](int row) { return begin_of(row % kOut, stage); }, columns,
                                 n_groups - stage * kGroups);
            } else {
#pragma unroll
                for (int tile = 0; tile < n_matrices * n_tiles; tile++) {
                    add_stage<Format>(sum[tile],
                                      LaneWeights<Format>(own + tile * kTile * kWeightWords,
                                                          begin_of(tile % n_tiles * kTile, stage), row_bytes),
                                      columns, n_rows, n_groups - stage * kGroups);
                }
            }
            __syncwarp();
            load_weights(stage + n_warps);
            load_columns(stage + n_warps);
            end_group();
        }
        // A warp's sums take the place of its buffer: [matrix][batch row][weight row].
        auto * sums = (float *) own;
        for (int set = 0; is_one && set < kRows / kSet; set++) {
            const int row = of_one.row(set);
            sums[row / kOut * kBatch * kOut + row % kOut] = of_one.sum[set];
        }
        for (int tile = 0; !is_one && tile < n_matrices * n_tiles; tile++) {
            for (int i = 0; i < 2; i++) {
                const int row = lane / 4 * kOut + tile % n_tiles * kTile + 2 * (lane % 4) + i;
                sums[tile / n_tiles * kBatch * kOut + row] = sum[tile][i];
            }
        }
        __syncthreads();
        // With a gate the loop is left by whole warps, which quantise together.
        for (int at = threadIdx.x; at < n_rows * kOut; at += blockDim.x) {
            float total[n_matrices] = {};
            for (int w = 0; w < n_warps; w++) {
                for (int m = 0; m < n_matrices; m++) {
                    total[m] += ((const float *) buffer(w))[m * kBatch * kOut + at];
                }
            }
            float out = total[0];
            if constexpr (n_matrices == 2) {
                out *= gelu(total[1]);
            }
            const int pair = of_expert.pairs[first + at / kOut];
            const int column = first_row + at % kOut;
            put_result<n_matrices>(p, expert, pair, column, out);
        }
        __syncthreads();
    }
}

constexpr int kSumThreads = 128;

__global__ void sum_pairs(const float * x, float * out, int n, int n_used) {
    const int column = (blockIdx.x * kSumThreads + threadIdx.x) * 4;
    const size_t token = blockIdx.y;
    let_next_begin();
    wait_for_previous();
    if (column >= n) {
        return;
    }
    float4 sum = make_float4(0, 0, 0, 0);
    for (int i = 0; i < n_used; i++) {
        const float4 of_pair = *(const float4 *) (x + (token * n_used + i) * n + column);
        sum = make_float4(sum.x + of_pair.x, sum.y + of_pair.y, sum.z + of_pair.z, sum.w + of_pair.w);
    }
    *(float4 *) (out + token * n + column) = sum;
}

template <typename Format, int n_tiles, int n_matrices> void launch(const ExpertProduct & p, cudaStream_t stream) {
    constexpr int kRows = n_matrices * n_tiles * kTile;
    const int n_warps = expert_splits<Format, kRows>(p.n_in);
    const int n_columns = std::min(p.n_tokens, kBatch);
    const size_t bytes =
        n_warps * (kRows * Layout<Format>::kWords + n_columns * Layout<Format>::kColumnStride) * sizeof(uint32_t);
    const dim3 grid(p.n_out / (n_tiles * kTile), std::min(p.n_experts, p.n_used * p.n_tokens));
    launch_early(multiply_experts<Format, n_tiles, n_matrices>, grid, n_warps * 32, stream, bytes, p, n_columns);
}

}  // namespace

bool pmtp_cuda_has_expert_product(const ExpertProduct & p) {
    const bool loose = with_format(p.format, [](auto format) { return has_loose<decltype(format)>(); });
    return p.n_in > 0 && p.expert_bytes < (size_t) 1 << 32 && p.n_in % (loose ? 64 : formats::Quantised::kStage) == 0 &&
           p.n_out > 0 && p.n_out % (kGateTiles * kTile) == 0 && p.expert_bytes % 16 == 0 &&
           !pmtp_takes_floats(p.format) && p.n_tokens > 0 && p.n_tokens <= kPmtpMostTokens && p.n_used > 0 &&
           p.n_used <= kPmtpMostPairs && p.n_used * p.n_tokens <= kPmtpMostPromptPairs && p.n_experts > 0 &&
           p.n_experts <= kPmtpMostExperts && !(is_loose(p) && p.gate != nullptr) &&
           attribute(cudaDevAttrComputeCapabilityMajor) >= 8;
}

void pmtp_cuda_launch_expert_product(const ExpertProduct & p, cudaStream_t stream) {
    if (pmtp_is_prompt_of_experts(p.n_tokens, p.n_used)) {
        pmtp_cuda_launch_prompt_experts(p, stream);
        return;
    }
    with_format(p.format, [&](auto format) {
        using Format = decltype(format);
        if constexpr (has_loose<Format>()) {
            if (is_loose(p)) {
                launch<formats::Loose<Format>, kGateTiles, 1>(p, stream);
                return;
            }
        }
        if constexpr (Format::kQuantised) {
            p.gate != nullptr ? launch<Format, kGateTiles, 2>(p, stream) : launch<Format, kGateTiles, 1>(p, stream);
        }
    });
}

void pmtp_cuda_sum_pairs(const float * x, float * out, int n, int n_used, int n_tokens, cudaStream_t stream) {
    launch_early(sum_pairs, dim3((n / 4 + kSumThreads - 1) / kSumThreads, n_tokens), kSumThreads, stream, 0, x, out, n,
                 n_used);
}
