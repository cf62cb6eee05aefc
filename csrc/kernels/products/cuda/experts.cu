#include "kernels/products/cuda/experts.cuh"

#include "kernels/products/cuda/expert_pairs.cuh"
#include "kernels/products/cuda/multiply.cuh"

#include <algorithm>

namespace {

// A block multiplies n_tiles tiles of one expert's rows of weights, and of its gate's, with the expert's pairs, eight
// after eight. Warps take the stages in turn.
template <typename Format, int n_tiles, int n_matrices>
__global__ __launch_bounds__(kMaxWarps * 32) void multiply_experts(const ExpertProduct p, int n_buffers) {
    constexpr int kWeightWords = Layout<Format>::kWords;
    constexpr int kColumnWords = Layout<Format>::kColumnWords;
    constexpr int kColumnStride = Layout<Format>::kColumnStride;
    constexpr int kRows = n_matrices * n_tiles * kTile;
    constexpr int kBufferWords = kRows * kWeightWords + kBatch * kColumnStride;
    constexpr int kOut = n_tiles * kTile;
    constexpr int kGroups = Format::kStage / 32;
    static_assert(kRows * kBatch <= kBufferWords, "a warp's sums take the place of a buffer");
    extern __shared__ uint4 shared[];
    __shared__ PairsOfExpert of_expert;
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int n_warps = blockDim.x / 32;
    const int n_groups = p.n_in / 32;
    const int n_stages = (n_groups + kGroups - 1) / kGroups;
    const auto buffer = [&](int of_warp, int i) {
        return (uint32_t *) shared + (of_warp * n_buffers + i) * kBufferWords;
    };

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
    const size_t row_bytes = (size_t) n_groups * Format::kBytes / kGroups;
    const auto begin_of = [&](int row, int stage) { return (first_row + row) * row_bytes + stage * Format::kBytes; };
    const auto load_weights = [&](int stage, uint32_t * to) {
        constexpr int kChunks = Layout<Format>::kChunks;
        for (int i = lane; stage < n_stages && i < kRows * kChunks; i += 32) {
            const int row = i / kChunks;
            const auto * matrix =
                (const char *) (n_matrices == 1 || row < kOut ? p.weights : p.gate) + expert * p.expert_bytes;
            uint32_t * chunk = to + row * kWeightWords + i % kChunks * 4;
            const size_t at = begin_of(row % kOut, stage) / 16 * 16 + i % kChunks * 16;
            if constexpr (Layout<Format>::kAligned) {
                copy_16(chunk, matrix + at);
            } else {
                const size_t end = p.n_out * row_bytes;
                copy_16(chunk, matrix + min(at, end), (int) min((size_t) 16, end - min(at, end)));
            }
        }
    };
    for (int i = 0; i < n_buffers; i++) {
        load_weights(warp + i * n_warps, buffer(warp, i));
    }
    const int n_pairs = list_pairs(of_expert, p, expert);
    __syncthreads();
    if (p.ids_are_old) {
        wait_for_previous();
    }

    for (int first = 0; first < n_pairs; first += kBatch) {
        const int n_rows = min(kBatch, n_pairs - first);
        const auto load_columns = [&](int stage, uint32_t * to) {
            // A row is padded to whole stages.
            for (int i = lane; stage < n_stages && i < n_rows * (kColumnWords / 4); i += 32) {
                const int row = i / (kColumnWords / 4);
                const int word = i % (kColumnWords / 4) * 4;
                const int pair = of_expert.pairs[first + row];
                const auto * x =
                    (const uint32_t *) (p.x + (p.x_of_pairs ? pair : pair / p.n_used) * pmtp_row_blocks(p.n_in));
                copy_16(to + kRows * kWeightWords + row * kColumnStride + word, x + stage * kColumnWords + word);
            }
        };
        for (int i = 0; i < n_buffers; i++) {
            if (first > 0) {
                load_weights(warp + i * n_warps, buffer(warp, i));
            }
            load_columns(warp + i * n_warps, buffer(warp, i));
            end_group();
        }
        float sum[n_matrices * n_tiles][2] = {};
        for (int stage = warp, i = 0; stage < n_stages; stage += n_warps, i = (i + 1) % n_buffers) {
            uint32_t * at = buffer(warp, i);
            n_buffers == 1 ? wait_for_group<0>() : wait_for_group<1>();
            __syncwarp();
#pragma unroll
            for (int tile = 0; tile < n_matrices * n_tiles; tile++) {
                add_stage<Format>(sum[tile],
                                  LaneWeights<Format>(at + tile * kTile * kWeightWords,
                                                      (uint32_t) begin_of(tile % n_tiles * kTile, stage),
                                                      (uint32_t) row_bytes),
                                  at + kRows * kWeightWords, n_groups - stage * kGroups);
            }
            __syncwarp();
            load_weights(stage + n_buffers * n_warps, at);
            load_columns(stage + n_buffers * n_warps, at);
            end_group();
        }
        wait_for_group<0>();
        __syncwarp();
        // A warp's sums take the place of its first buffer: [matrix][batch row][weight row].
        for (int tile = 0; tile < n_matrices * n_tiles; tile++) {
            for (int i = 0; i < 2; i++) {
                const int row = lane / 4 * kOut + tile % n_tiles * kTile + 2 * (lane % 4) + i;
                ((float *) buffer(warp, 0))[tile / n_tiles * kBatch * kOut + row] = sum[tile][i];
            }
        }
        __syncthreads();
        // With a gate the loop is left by whole warps, which quantise together.
        for (int at = threadIdx.x; at < n_rows * kOut; at += blockDim.x) {
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
            const int pair = of_expert.pairs[first + at / kOut];
            const int column = first_row + at % kOut;
            if constexpr (n_matrices == 1) {
                out *= p.scales != nullptr ? p.scales[expert] : 1.0f;
                out *= p.by != nullptr ? p.by[pair] : 1.0f;
            }
            p.out[(size_t) pair * p.n_out + column] = out;
            if constexpr (n_matrices == 2) {
                if (p.quantised != nullptr) {
                    const float values[1] = { out };
                    pmtp_quantise(values, pmtp_place(p.quantised, p.n_out, 1, pair, column / 32));
                }
            }
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

struct ExpertGeometry {
    int n_warps;
    int n_buffers;
    size_t shared_bytes;
};

// Two blocks share a multiprocessor, so that one loads while the other multiplies.
template <typename Format, int n_tiles, int n_matrices> ExpertGeometry expert_geometry(const ExpertProduct & p) {
    const int n_stages = (p.n_in + Format::kStage - 1) / Format::kStage;
    const size_t buffer = (n_matrices * n_tiles * kTile * Layout<Format>::kWords + kBatch * Layout<Format>::kColumnStride) *
                          sizeof(uint32_t);
    // What a block has beside its buffers.
    constexpr size_t kOwn = sizeof(PairsOfExpert) + 1024;
    const size_t limit = (size_t) attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / 2 - kOwn;
    for (int n_rounds = (n_stages + kMaxWarps - 1) / kMaxWarps;; n_rounds++) {
        const int n_warps = (n_stages + n_rounds - 1) / n_rounds;
        const int n_buffers = n_rounds > 1 ? 2 : 1;
        const size_t bytes = n_warps * n_buffers * buffer;
        if (bytes <= limit || n_warps == 1) {
            return { n_warps, n_buffers, bytes };
        }
    }
}

template <typename Format, int n_tiles, int n_matrices> void launch(const ExpertProduct & p, cudaStream_t stream) {
    const ExpertGeometry g = expert_geometry<Format, n_tiles, n_matrices>(p);
    const dim3 grid(p.n_out / (n_tiles * kTile), std::min(p.n_experts, p.n_used * p.n_tokens));
    launch_early(multiply_experts<Format, n_tiles, n_matrices>, grid, g.n_warps * 32, stream, g.shared_bytes, p,
                 g.n_buffers);
}

// Whether rows are no whole number of stages.
bool is_loose(const ExpertProduct & p) { return p.n_in % formats::Quantised::kStage != 0; }

template <typename Format> constexpr bool has_loose() {
    if constexpr (Format::kQuantised) {
        return !Format::kSuper;
    }
    return false;
}

}  // namespace

bool pmtp_cuda_has_expert_product(const ExpertProduct & p) {
    const bool loose = with_format(p.format, [](auto format) { return has_loose<decltype(format)>(); });
    return p.n_in > 0 && p.n_in % (loose ? 64 : formats::Quantised::kStage) == 0 && p.n_out > 0 &&
           p.n_out % (kGateTiles * kTile) == 0 && p.expert_bytes % 16 == 0 && !pmtp_takes_floats(p.format) &&
           p.n_tokens > 0 && p.n_tokens <= kPmtpMostTokens && p.n_used > 0 && p.n_used <= kPmtpMostPairs &&
           p.n_used * p.n_tokens <= kPmtpMostPairs && p.n_experts > 0 && p.n_experts <= kPmtpMostExperts &&
           !(is_loose(p) && p.gate != nullptr) && attribute(cudaDevAttrComputeCapabilityMajor) >= 8;
}

void pmtp_cuda_launch_expert_product(const ExpertProduct & p, cudaStream_t stream) {
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
