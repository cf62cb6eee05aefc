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
    const int bytes = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / (beside + 1) + 16 -
                      attribute(cudaDevAttrReservedSharedMemoryPerBlock);
    return (size_t) std::max(bytes, 0);  // of very many blocks a share is less than what is reserved
}

// How a product is launched with so many tiles a block and warps a stage.
template <typename Format, int n_tiles, int n_matrices, int n_splits> class Launch {
    static constexpr int kTiles = n_matrices * n_tiles / n_splits;  // of a warp
    static constexpr bool kPairs = Format::kQuantised && kTiles % 2 == 0;

  public:
    // n_warps: that take stages in turn, times n_splits in all. Each has the rows of x.
    Launch(const WeightProduct & p, int n_warps) : p_(p), n_warps_(n_warps * n_splits) {
        const int n_rounds = (p.n_in / Format::kStage + n_warps - 1) / n_warps;
        const size_t words = kTiles * kTile * Layout<Format>::kWords + p.n_rows * Layout<Format>::kColumnStride;
        const size_t buffers = n_warps_ * words * sizeof(uint32_t);
        n_buffers_ = n_rounds <= 2 || n_rounds * buffers <= kRoomyBytes ? n_rounds : 2;
        bytes_ = n_buffers_ * buffers;
    }

    bool fits() const { return bytes_ <= (size_t) attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }

    void run(cudaStream_t stream) const {
        if constexpr (kPairs) {
            if (p_.n_rows <= kBatch / 2) {
                run(multiply<Format, n_tiles, n_matrices, kUpTo4, n_splits>, stream);
                return;
            }
        }
        run(multiply<Format, n_tiles, n_matrices, kUpTo8, n_splits>, stream);
    }

  private:
    void run(void (*kernel)(WeightProduct, int), cudaStream_t stream) const {
        const int n_blocks = all_results(p_) / (n_tiles * kTile);
        launch_early(kernel, n_blocks, n_warps_ * 32, stream, std::max(bytes_, least_bytes(n_blocks)), p_, n_buffers_);
    }

    const WeightProduct & p_;
    const int n_warps_;
    int n_buffers_;
    size_t bytes_;
};

// With the first of the launches that fits; the last does.
template <typename First, typename... Others>
void launch_first(const WeightProduct & p, int n_warps, cudaStream_t stream) {
    const First first(p, n_warps);
    if constexpr (sizeof...(Others) > 0) {
        if (!first.fits()) {
            launch_first<Others...>(p, n_warps, stream);
            return;
        }
    }
    first.run(stream);
}

// Several warps a stage wait for less each, where a block has few; and pairs of tiles share instructions.
template <typename Format> void launch_few(const WeightProduct & p, cudaStream_t stream) {
    const Geometry g = geometry_of<Format>(p);
    if (p.gate != nullptr) {
        constexpr int kSplits = kSuper<Format> ? 1 : 2;
        launch_first<Launch<Format, kGateTiles, 2, kSplits>, Launch<Format, kGateTiles, 2, 1>>(p, g.n_warps, stream);
    } else if (p.factor != nullptr) {
        launch_first<Launch<Format, kGateTiles, 1, 2>, Launch<Format, kGateTiles, 1, 1>>(p, g.n_warps, stream);
    } else if (g.n_tiles == 4) {
        launch_first<Launch<Format, 4, 1, 1>>(p, g.n_warps, stream);
    } else if (g.n_tiles == 2) {
        launch_first<Launch<Format, 2, 1, 1>>(p, g.n_warps, stream);
    } else if (Format::kQuantised && fits_all(p, 2 * kTile)) {
        launch_first<Launch<Format, 2, 1, 1>, Launch<Format, 1, 1, 1>>(p, g.n_warps, stream);
    } else {
        launch_first<Launch<Format, 1, 1, 1>>(p, g.n_warps, stream);
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
    out.n_tokens = std::min(p.n_rows, kPmtpVerifyRows);  // those of prompts have no limit
    return out;
}

// Whether they are, with a kernel for them. An expert's product has neither a factor nor others beside it.
bool is_of_an_expert(const WeightProduct & p) {
    return is_loose(p) && !pmtp_takes_floats(p.format) && p.factor == nullptr && p.others[0].weights == nullptr &&
           p.n_rows <= kPmtpMostRows && pmtp_cuda_has_expert_product(as_expert(p));
}

bool is_in_stages(const WeightProduct & p) {
    const int stage = with_format(p.format, [](auto format) { return decltype(format)::kStage; });
    return p.n_in > 0 && p.n_in % stage == 0 &&
           fits_all(p, p.gate != nullptr || p.factor != nullptr ? kGateTiles * kTile : kTile) &&
           p.n_rows <= kPmtpMostRows;
}

}  // namespace

bool pmtp_cuda_has_product(const WeightProduct & p) {
    return attribute(cudaDevAttrComputeCapabilityMajor) >= 8 &&
           (is_in_stages(p) || is_of_an_expert(p) || pmtp_cuda_has_odd_product(p));
}

void pmtp_cuda_launch_product(const WeightProduct & p, cudaStream_t stream) {
    if (!is_in_stages(p) && !is_of_an_expert(p)) {
        pmtp_cuda_launch_odd_product(p, stream);
        return;
    }
    if (p.n_rows > kPmtpVerifyRows) {
        pmtp_takes_floats(p.format) ? pmtp_cuda_launch_prompt_floats(p, stream)
                                    : pmtp_cuda_launch_prompt_product(p, stream);
        return;
    }
    if (!is_in_stages(p)) {
        pmtp_cuda_launch_expert_product(as_expert(p), stream);
        return;
    }
    if (pmtp_is_tiled(p.n_rows)) {
        pmtp_cuda_launch_tiled_product(p, stream);
        return;
    }
    with_format(p.format, [&](auto format) { launch_few<decltype(format)>(p, stream); });
}
