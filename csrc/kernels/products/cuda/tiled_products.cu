// Products of more than 8 rows: as many as several sequences verify, in tiles of 16.
#include "kernels/products/cuda/multiply.cuh"

namespace {

template <typename Format, int n_row_tiles> void launch(const WeightProduct & p, cudaStream_t stream) {
    const Geometry g = geometry_of<Format>(p);
    const int n_matrices = p.gate != nullptr ? 2 : 1;
    const int n_buffers = p.n_in / Format::kStage > g.n_warps ? 2 : 1;
    const size_t bytes =
        (size_t) g.n_warps * n_buffers * n_matrices * g.n_tiles * kTile * Layout<Format>::kWords * sizeof(uint32_t);
    const auto kernel = p.gate != nullptr ? multiply<Format, kGateTiles, 2, n_row_tiles, 1>
                        : g.n_tiles == 4  ? multiply<Format, 4, 1, n_row_tiles, 1>
                        : g.n_tiles == 2  ? multiply<Format, 2, 1, n_row_tiles, 1>
                                          : multiply<Format, 1, 1, n_row_tiles, 1>;
    const int block_rows = n_row_tiles * kPmtpTileRows;
    const dim3 grid(all_results(p) / (g.n_tiles * kTile), (p.n_rows + block_rows - 1) / block_rows);
    launch_early(kernel, grid, g.n_warps * 32, stream, bytes, p, n_buffers);
}

}  // namespace

void pmtp_cuda_launch_tiled_product(const WeightProduct & p, cudaStream_t stream) {
    with_format(p.format, [&](auto format) {
        using Format = decltype(format);
        // With scales of their own the sums of two tiles of rows would not fit into registers.
        constexpr int kMostRowTiles = Format::kSuper ? 1 : 2;
        // Blocks with little to do are faster if there are more of them.
        const bool little = p.gate == nullptr && p.n_in / Format::kStage <= kMaxWarps / 2 && all_results(p) < 1 << 14;
        p.n_rows <= kPmtpTileRows || little ? launch<Format, 1>(p, stream) : launch<Format, kMostRowTiles>(p, stream);
    });
}
