#include "kernels/products/cuda/experts.cuh"
#include "kernels/products/cuda/multiply.cuh"

#include <algorithm>

namespace {

// Most bytes of a block whose warps hold all of their stages at once.
constexpr size_t kRoomyBytes = 72 << 10;

// Whether half as many tiles need more registers than twice as many threads have.
template <typename Format> constexpr bool kSuper = [] {
    if constexpr (Format::kQuantised) {
        return Format::kSuper;
    }
    return false;
}();

// What keeps blocks from lying more densely than all of them must: they begin while others still fill some
// multiprocessors, and would crowd on the rest.
size_t least_bytes(int n_blocks) {
    const int n_processors = attribute(cudaDevAttrMultiProcessorCount);
    const int beside = (n_blocks + n_processors - 1) / n_processors;
    return attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / (beside + 1) + 16 -
           attribute(cudaDevAttrReservedSharedMemoryPerBlock);
}

template <typename Format, int n_tiles, int n_matrices, int n_splits>
void launch(const WeightProduct & p, int n_warps, cudaStream_t stream) {
    constexpr int kRows = n_matrices * n_tiles / n_splits * kTile;
    const int n_rounds = (p.n_in / Format::kStage + n_warps - 1) / n_warps;
    const size_t buffers = (size_t) n_warps * n_splits *
                           (kRows * Layout<Format>::kWords + p.n_rows * Layout<Format>::kColumnStride) *
                           sizeof(uint32_t);
    const int n_buffers = n_rounds <= 2 || n_rounds * buffers <= kRoomyBytes ? n_rounds : 2;
    if constexpr (n_splits > 1) {  // each warp has the rows of x
        if (n_buffers * buffers > (size_t) attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)) {
            launch<Format, n_tiles, n_matrices, 1>(p, n_warps, stream);
            return;
        }
    }
    const int n_blocks = all_results(p) / (n_tiles * kTile);
    const auto kernel = p.n_rows <= kBatch / 2 ? multiply<Format, n_tiles, n_matrices, kUpTo4, n_splits>
                                               : multiply<Format, n_tiles, n_matrices, kUpTo8, n_splits>;
    launch_early(kernel, n_blocks, n_warps * n_splits * 32, stream,
                 std::max(n_buffers * buffers, least_bytes(n_blocks)), p, n_buffers);
}

// Several warps a stage wait for less each, where a block has few.
template <typename Format> void launch_few(const WeightProduct & p, cudaStream_t stream) {
    const Geometry g = geometry_of<Format>(p);
    if (p.gate != nullptr) {
        launch<Format, kGateTiles, 2, kSuper<Format> ? 1 : 2>(p, g.n_warps, stream);
    } else if (p.factor != nullptr) {
        launch<Format, kGateTiles, 1, 2>(p, g.n_warps, stream);
    } else if (g.n_tiles == 4) {
        launch<Format, 4, 1, 1>(p, g.n_warps, stream);
    } else if (Format::kQuantised ? fits_all(p, 2 * kTile) : g.n_tiles == 2) {
        launch<Format, 2, 1, 1>(p, g.n_warps, stream);
    } else {
        launch<Format, 1, 1, 1>(p, g.n_warps, stream);
    }
}

// Rows of weights that are no whole number of stages are those of a single expert.
bool is_loose(const WeightProduct & p) { return p.n_in % formats::Quantised::kStage != 0; }

ExpertProduct as_expert(const WeightProduct & p) {
    ExpertProduct out = {};
    out.format = p.format;
    out.weights = p.weights;
    out.gate = p.gate;
    out.x = p.x;
    out.x_in_tiles = pmtp_is_tiled(p.n_rows);
    out.out = p.out;
    out.quantised = p.quantised;
    out.ids_are_old = true;
    out.n_in = p.n_in;
    out.n_out = p.n_out;
    out.n_experts = 1;
    out.n_used = 1;
    out.n_tokens = p.n_rows;
    return out;
}

}  // namespace

bool pmtp_cuda_has_product(const WeightProduct & p) {
    if (is_loose(p) && !pmtp_takes_floats(p.format)) {
        // An expert's product has neither a factor nor others beside it.
        return p.factor == nullptr && p.others[0].weights == nullptr && pmtp_cuda_has_expert_product(as_expert(p));
    }
    const int stage = with_format(p.format, [](auto format) { return decltype(format)::kStage; });
    return p.n_in > 0 && p.n_in % stage == 0 &&
           fits_all(p, p.gate != nullptr || p.factor != nullptr ? kGateTiles * kTile : kTile) &&
           p.n_rows <= (pmtp_takes_floats(p.format) ? kBatch : kPmtpMostRows) &&
           attribute(cudaDevAttrComputeCapabilityMajor) >= 8;
}

void pmtp_cuda_launch_product(const WeightProduct & p, cudaStream_t stream) {
    if (is_loose(p) && !pmtp_takes_floats(p.format)) {
        pmtp_cuda_launch_expert_product(as_expert(p), stream);
        return;
    }
    if (pmtp_is_tiled(p.n_rows)) {
        pmtp_cuda_launch_tiled_product(p, stream);
        return;
    }
    with_format(p.format, [&](auto format) { launch_few<decltype(format)>(p, stream); });
}
