#include "kernels/products/cuda/experts.cuh"
#include "kernels/products/cuda/multiply.cuh"

namespace {

template <typename Format> void launch(const WeightProduct & p, cudaStream_t stream) {
    const Geometry g = geometry_of<Format>(p);
    const auto kernel = p.gate != nullptr ? multiply<Format, kGateTiles, 2, 0>
                        : g.n_tiles == 4  ? multiply<Format, 4, 1, 0>
                        : g.n_tiles == 2  ? multiply<Format, 2, 1, 0>
                                          : multiply<Format, 1, 1, 0>;
    launch_early(kernel, all_results(p) / (g.n_tiles * kTile), g.n_warps * 32, stream, g.shared_bytes, p);
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
    with_format(p.format, [&](auto format) { launch<decltype(format)>(p, stream); });
}
