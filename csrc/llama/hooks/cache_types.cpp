#include "llama/hooks/cache_types.h"

namespace {

thread_local const SlidingCache * current = nullptr;

// +1 or -1: bits of the SplitMix64 sequence of a fixed seed. The first is +1, so that R's first row tells all of them.
float sign(int i) {
    uint64_t z = ((uint64_t) i + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return i > 0 && (z >> 63) != 0 ? -1.0f : 1.0f;
}

}  // namespace

bool pmtp_is_turbo(ggml_type type) {
    return type == GGML_TYPE_TURBO2 || type == GGML_TYPE_TURBO3 || type == GGML_TYPE_TURBO4;
}

std::vector<float> pmtp_signed_rotation(const std::vector<float> & hadamard, int n) {
    std::vector<float> rotation(hadamard);
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) {
            rotation[(size_t) i * n + j] *= sign(i) * sign(j);
        }
    }
    return rotation;
}

SlidingCache::SlidingCache(ggml_type k, ggml_type v, uint32_t n_cells) : k_(k), v_(v), n_cells_(n_cells) {
    current = this;
}

SlidingCache::~SlidingCache() { current = nullptr; }

ggml_type SlidingCache::k(ggml_type otherwise) { return current != nullptr ? current->k_ : otherwise; }

ggml_type SlidingCache::v(ggml_type otherwise) { return current != nullptr ? current->v_ : otherwise; }

uint32_t SlidingCache::n_cells(uint32_t otherwise) {
    return current != nullptr && current->n_cells_ > 0 ? current->n_cells_ : otherwise;
}
