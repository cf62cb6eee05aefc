#include "kernels/products/cuda/multiply.cuh"

namespace {

template <typename Format> void launch(const WeightProduct & p, cudaStream_t stream) {
    const Geometry g = geometry_of<Format>(p);
    const auto kernel = p.gate != nullptr ? multiply<Format, kGateTiles, 2, 0>
                        : g.n_tiles == 4  ? multiply<Format, 4, 1, 0>
                        : g.n_tiles == 2  ? multiply<Format, 2, 1, 0>
                                          : multiply<Format, 1, 1, 0>;
    launch_early(kernel, p.n_out / (g.n_tiles * kTile), g.n_warps * 32, stream, g.shared_bytes, p);
}

}  // namespace

bool pmtp_cuda_has_product(const WeightProduct & p) {
    const int stage = with_format(p.format, [](auto format) { return decltype(format)::kStage; });
    return p.n_in > 0 && p.n_in % stage == 0 && p.n_out % (p.gate != nullptr ? kGateTiles * kTile : kTile) == 0 &&
           p.n_rows <= (pmtp_takes_floats(p.format) ? kBatch : kPmtpMostRows) &&
           attribute(cudaDevAttrComputeCapabilityMajor) >= 8;
}

void pmtp_cuda_launch_product(const WeightProduct & p, cudaStream_t stream) {
    if (pmtp_is_tiled(p.n_rows)) {
        pmtp_cuda_launch_tiled_product(p, stream);
        return;
    }
    with_format(p.format, [&](auto format) { launch<decltype(format)>(p, stream); });
}
