#include "kernels/products/cpu/kernels.h"

#include <algorithm>

namespace pmtp::products {
namespace {

// Of a pass's activations, which every strip of weights reads again: beside the weights of a chunk in a second-level
// cache.
constexpr int64_t kPassBytes = 384 << 10;

}  // namespace

int64_t count_passes(const Activations & activations) {
    const int64_t n_tiles = activations.n_tiles();
    const int64_t in_a_pass = kPassBytes * n_tiles / std::max<int64_t>(1, (int64_t) activations.size());
    const int64_t most = std::clamp<int64_t>(in_a_pass, 1, kMaxTiles);
    return (n_tiles + most - 1) / most;
}

void multiply(Kernel kernel, const void * weights, const Activations & activations, float * result, int64_t stride,
              int64_t first, int64_t last, const int32_t * places) {
    const int64_t n_tiles = activations.n_tiles(), n_passes = count_passes(activations);
    for (int64_t pass = 0; pass < n_passes; pass++) {
        const int64_t begin = n_tiles * pass / n_passes, end = n_tiles * (pass + 1) / n_passes;
        Tile tiles[kMaxTiles];
        for (int64_t i = begin; i < end; i++) {
            tiles[i - begin] = activations.tile(i, result, stride, places);
        }
        kernel(weights, activations.n_in(), tiles, (int) (end - begin), first, last);
    }
}

}  // namespace pmtp::products
