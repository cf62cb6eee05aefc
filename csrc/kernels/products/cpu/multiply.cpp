#include "kernels/products/cpu/kernels.h"

namespace pmtp::products {

void multiply(Kernel kernel, const void * weights, const Activations & activations, float * result, int64_t stride,
              int64_t first, int64_t last) {
    const int64_t n_tiles = activations.n_tiles(), n_passes = (n_tiles + kTiles - 1) / kTiles;
    for (int64_t pass = 0; pass < n_passes; pass++) {
        const int64_t begin = n_tiles * pass / n_passes, end = n_tiles * (pass + 1) / n_passes;
        Tile tiles[kTiles];
        for (int64_t i = begin; i < end; i++) {
            tiles[i - begin] = activations.tile(i, result, stride);
        }
        kernel(weights, activations.n_in(), tiles, (int) (end - begin), first, last);
    }
}

}  // namespace pmtp::products
