#include "llama/hooks/cache_types.h"

#include <cstdint>

namespace {

thread_local const SlidingCacheTypes * current = nullptr;

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

SlidingCacheTypes::SlidingCacheTypes(ggml_type k, ggml_type v) : k_(k), v_(v) { current = this; }

SlidingCacheTypes::~SlidingCacheTypes() { current = nullptr; }

ggml_type SlidingCacheTypes::k(ggml_type otherwise) { return current != nullptr ? current->k_ : otherwise; }

ggml_type SlidingCacheTypes::v(ggml_type otherwise) { return current != nullptr ? current->v_ : otherwise; }
