// Products of a prompt's rows with weights that are floats, as prompt_products.cu has those of quantised ones. A row's
// parts are made once, in device memory; the arithmetic of a result is that of float_stages.cuh.
#include "kernels/products/cuda/float_chunks.cuh"

#include <cmath>

namespace {

// Gives out a lane's results; with two matrices the second half of the tiles are the gate's. shared: memory that no
// warp has a use for any more.
template <int n_matrices, typename Share>
__device__ __forceinline__ void store_floats(const WeightProduct & p,
                                             const PromptBlock<Share::block_out(n_matrices)> & own, int first_row,
                                             const Results<Share> & total, float * shared) {
    constexpr int kOut = Share::block_out(n_matrices);
    constexpr int kOwn = Share::kTiles / n_matrices;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_in_block = warp % Share::kRowWarps * kWarpRows + lane / 4;
    const int first_of_block = warp / Share::kRowWarps * (Share::kWarpWeights / n_matrices) + 2 * (lane % 4);
    const bool quantises = p.quantised != nullptr;
    if (quantises) {
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 2 * Share::kRowTiles; r++) {
#pragma unroll
        for (int tile = 0; tile < kOwn; tile++) {
            put_two<n_matrices>(p, own, first_row, first_in_block + 8 * r, first_of_block + tile * kTile,
                                &total[r / 2][tile][r % 2 * 2], &total[r / 2][(tile + kOwn) % Share::kTiles][r % 2 * 2],
                                shared);
        }
    }
    if (quantises) {
        __syncthreads();
        quantise_results<Share::kRows, kOut>(p, own.block, first_row, shared);
    }
}

template <typename Format, int n_matrices, typename Share>
__global__ __launch_bounds__(Share::kThreads, Share::kResident) void multiply_prompt_floats(const WeightProduct p,
                                                                                            int n_row_blocks,
                                                                                            int n_splits) {
    using Parts = FloatParts<Format>;
    using Copies = Copies<Format, n_matrices, Share>;
    constexpr int kBuffers = Share::kBuffers;
    extern __shared__ uint4 shared[];
    auto * buffers = (uint32_t *) shared;
    const int warp = threadIdx.x / 32;
    // Blocks of the same weights run together.
    const int first_row = blockIdx.x % n_row_blocks * Share::kRows;
    const int first_of_warp = warp % Share::kRowWarps * kWarpRows;
    const PromptBlock<Share::block_out(n_matrices)> own(p, blockIdx.x / n_row_blocks);
    const Copies copies(p, own.weights, own.n_out, own.block * Share::block_out(n_matrices), first_row);
    const auto * scales = (const float *) p.parts + (size_t) Parts::kParts * p.n_rows * p.n_in / 2;
    ChunkOrder ahead{ p.n_in / Format::kStage, n_splits };
    ChunkOrder order = ahead;
    const auto load_all = [&](uint32_t * buffer, bool weights, bool rows) {
        for (int i = 0; i < Copies::kSteps && ahead.is_there(); i++) {
            if (weights) {
                copies.load_weights(i, ahead.first_value(), buffer);
            }
            if (rows) {
                copies.load_rows(i, ahead.first_value(), buffer);
            }
        }
    };

    load_all(buffers, true, false);
    wait_for_previous();
    let_next_begin();
    load_all(buffers, false, true);
    end_group();
    ahead.advance();
    for (int i = 1; i + 1 < kBuffers; i++) {
        load_all(buffers + i * Copies::kWords, true, true);
        end_group();
        ahead.advance();
    }
    Results<Share> c = {}, sum = {}, total = {};
    int from = 0;
    for (; order.is_there(); order.advance(), ahead.advance()) {
        float back[Share::kRowTiles][2];
        if constexpr (Parts::kScaled) {
#pragma unroll
            for (int i = 0; i < 2 * Share::kRowTiles; i++) {
                const int row = first_row + first_of_warp + threadIdx.x % 32 / 4 + 8 * i;
                back[i / 2][i % 2] = scales[(size_t) order.stage * p.n_rows + min(row, p.n_rows - 1)];
            }
        }
        wait_for_group<kBuffers - 2>();
        // All have the chunk, and have done with the one before.
        __syncthreads();
        const uint32_t * buffer = buffers + from * Copies::kWords;
        uint32_t * next = buffers + (from == 0 ? kBuffers - 1 : from - 1) * Copies::kWords;
        from = from + 1 < kBuffers ? from + 1 : 0;
        const bool loads = ahead.is_there();
        const int value = ahead.first_value();
        constexpr int kChunksOfChain = Parts::kChain / kChunk;
        if (order.chunk % kChunksOfChain == 0) {
#pragma unroll
            for (int i = 0; i < Share::kRowTiles * Share::kTiles * 4; i++) {
                c[i / 4 / Share::kTiles][i / 4 % Share::kTiles][i % 4] = 0.0f;
            }
        }
        multiply_chunk<Format, Share>(c, buffer, first_of_warp, buffer + Copies::kXWords,
                                      warp / Share::kRowWarps * Share::kWarpWeights, [&](int i) {
                                          if (loads && i < Copies::kSteps) {
                                              copies.load_weights(i, value, next);
                                              copies.load_rows(i, value, next);
                                          }
                                      });
        end_group();
        if (order.chunk % kChunksOfChain != kChunksOfChain - 1) {
            continue;
        }
#pragma unroll
        for (int i = 0; i < Share::kRowTiles * Share::kTiles * 4; i++) {
            const int r = i / 4 / Share::kTiles, tile = i / 4 % Share::kTiles, j = i % 4;
            sum[r][tile][j] = __fmaf_rn(c[r][tile][j], Parts::kScaled ? back[r][j / 2] : 1.0f, sum[r][tile][j]);
        }
        if (order.ends_split()) {
#pragma unroll
            for (int i = 0; i < Share::kRowTiles * Share::kTiles * 4; i++) {
                const int r = i / 4 / Share::kTiles, tile = i / 4 % Share::kTiles, j = i % 4;
                total[r][tile][j] += sum[r][tile][j];
                sum[r][tile][j] = 0.0f;
            }
        }
    }
    wait_for_group<0>();
    store_floats<n_matrices, Share>(p, own, first_row, total, (float *) shared);
}

// A warp splits a stage of a row; a lane has four values.
template <typename Format>
__global__ __launch_bounds__(128) void split_floats(const float * x, uint16_t * parts, int n_in, int n_rows) {
    using Parts = FloatParts<Format>;
    static_assert(Format::kStage == 4 * 32);
    const int stage = blockIdx.x * 4 + threadIdx.x / 32;
    const int row = blockIdx.y;
    const size_t at = (size_t) row * n_in + stage * Format::kStage + threadIdx.x % 32 * 4;
    wait_for_previous();
    let_next_begin();
    if (stage >= n_in / Format::kStage) {
        return;
    }
    const float4 four = *(const float4 *) (x + at);
    const float largest = fmaxf(fmaxf(fabsf(four.x), fabsf(four.y)), fmaxf(fabsf(four.z), fabsf(four.w)));
    const StageScale scale = Parts::scale(Parts::kScaled ? pmtp::reduce_lanes<32>(largest, pmtp::Max()) : largest);
    uint32_t first[Parts::kParts], second[Parts::kParts];
    Parts::split(first, make_float2(four.x, four.y), scale);
    Parts::split(second, make_float2(four.z, four.w), scale);
#pragma unroll
    for (int part = 0; part < Parts::kParts; part++) {
        *(uint2 *) (parts + (size_t) part * n_rows * n_in + at) = make_uint2(first[part], second[part]);
    }
    if (Parts::kScaled && threadIdx.x % 32 == 0) {
        auto * scales = (float *) (parts + (size_t) Parts::kParts * n_rows * n_in);
        scales[(size_t) stage * n_rows + row] = scale.back;
    }
}

template <typename Share> int n_blocks(const WeightProduct & p) {
    const dim3 grid = p.gate != nullptr ? prompt_grid<Share, 2>(p) : prompt_grid<Share, 1>(p);
    return (int) (grid.x * grid.y);
}

template <typename Format, int n_matrices, typename Share>
void launch(const WeightProduct & p, int n_splits, cudaStream_t stream) {
    static_assert(Share::template bytes<Format>() >= Share::kRows * Share::block_out(n_matrices) * sizeof(float),
                  "results take the place of buffers");
    launch_early(multiply_prompt_floats<Format, n_matrices, Share>, n_blocks<Share>(p), Share::kThreads, stream,
                 Share::template bytes<Format>(), p, (p.n_rows + Share::kRows - 1) / Share::kRows, n_splits);
}

// With three parts a row of activations needs half as much memory again.
template <typename Format> constexpr bool kThree = FloatParts<Format>::kParts == 3;
using Large = FloatShare<4, 2, 8, 3, 1>;
template <typename Format> using Medium = FloatShare<2, 2, 8, kThree<Format> ? 2 : 3, 2>;
template <typename Format> using Small = FloatShare<2, 2, 4, 3, kThree<Format> ? 2 : 3>;

template <typename Format, typename Share> void launch_share(const WeightProduct & p, cudaStream_t stream) {
    const int n_splits = geometry_of<Format>(p).n_warps;
    p.gate != nullptr ? launch<Format, 2, Share>(p, n_splits, stream) : launch<Format, 1, Share>(p, n_splits, stream);
}

// Of which share blocks are: of that with which the busiest multiprocessor has least to do, or those of
// tiled_products.cu, which split rows themselves, where there would be too few others, or no memory for one.
enum class Blocks { tiled, small, medium, large };

// visit(Share(), blocks, by how much longer its results take than those of the largest, and those of a block that has
// a multiprocessor for itself): measured.
template <typename Format, typename Visit> void with_shares(Visit visit) {
    visit(Small<Format>(), Blocks::small, 1.3, 1.6);
    visit(Medium<Format>(), Blocks::medium, 1.1, kThree<Format> ? 1.6 : 1.25);
    visit(Large(), Blocks::large, 1.0, 1.0);
}

template <typename Format> Blocks blocks_of(const WeightProduct & p) {
    const size_t limit = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    const int n_processors = attribute(cudaDevAttrMultiProcessorCount);
    Blocks best = Blocks::tiled;
    double least = INFINITY;
    if (n_blocks<Small<Format>>(p) < n_processors / 5) {
        return best;
    }
    with_shares<Format>([&](auto share, Blocks blocks, double factor, double alone) {
        using Share = decltype(share);
        const int of_one = (n_blocks<Share>(p) + n_processors - 1) / n_processors;
        const double time = of_one * (double) (Share::kRows * Share::kWeights) * (of_one > 1 ? factor : alone);
        if (Share::template bytes<Format>() <= limit && time < least) {
            best = blocks;
            least = time;
        }
    });
    return best;
}

template <typename Format> void launch_format(const WeightProduct & p, cudaStream_t stream) {
    const Blocks blocks = p.parts != nullptr ? blocks_of<Format>(p) : Blocks::tiled;
    if (blocks == Blocks::tiled) {
        pmtp_cuda_launch_tiled_product(p, stream);
        return;
    }
    with_shares<Format>([&](auto share, Blocks of_share, double, double) {
        if (of_share == blocks) {
            launch_share<Format, decltype(share)>(p, stream);
        }
    });
}

// visit(Format()).
template <typename Visit> auto with_floats(WeightFormat format, Visit visit) {
    return format == WeightFormat::f16 ? visit(formats::F16()) : visit(formats::BF16());
}

}  // namespace

bool pmtp_cuda_takes_parts(const WeightProduct & p) {
    return pmtp_takes_floats(p.format) && p.n_rows > kPmtpVerifyRows && p.n_in % formats::Floats::kStage == 0 &&
           with_floats(p.format, [&](auto format) { return blocks_of<decltype(format)>(p) != Blocks::tiled; });
}

size_t pmtp_cuda_part_bytes(WeightFormat format, int64_t n_in, int64_t n_rows) {
    return with_floats(format, [&](auto format) {
        using Parts = FloatParts<decltype(format)>;
        return (size_t) (n_in * n_rows * Parts::kParts) * sizeof(uint16_t) +
               (size_t) (Parts::kScaled ? n_in / decltype(format)::kStage * n_rows : 0) * sizeof(float);
    });
}

void pmtp_cuda_split_rows(WeightFormat format, const float * x, void * parts, int n_in, int n_rows,
                          cudaStream_t stream) {
    with_floats(format, [&](auto format) {
        using Format = decltype(format);
        launch_early(split_floats<Format>, dim3((n_in / Format::kStage + 3) / 4, n_rows), 128, stream, 0, x,
                     (uint16_t *) parts, n_in, n_rows);
    });
}

void pmtp_cuda_launch_prompt_floats(const WeightProduct & p, cudaStream_t stream) {
    with_floats(p.format, [&](auto format) { launch_format<decltype(format)>(p, stream); });
}
