// How pages of 64 cells are put together in chunks: those of a sequence by its positions where the mask has a page
// table (device_table.h), else those of the cache as they lie. Where a chunk begins depends on its number alone: chunks
// of one page first, which give the same either way, and longer ones later, which bounds the partial results.
#pragma once

#ifdef __CUDACC__
#define PMTP_HOST_DEVICE __host__ __device__
#else
#define PMTP_HOST_DEVICE
#endif

namespace pmtp::attention::cuda {

constexpr int kPage = 64;  // cells

// Chunks of `width` pages from chunk `chunk`, page `page` on.
struct Tier {
    int chunk, page, width;
};
constexpr int kTiers = 3;
constexpr int kMaxChunkPages = 8;

PMTP_HOST_DEVICE constexpr Tier tier(int i) {
    return i == 0 ? Tier{ 0, 0, 1 } : i == 1 ? Tier{ 128, 128, 2 } : Tier{ 320, 512, kMaxChunkPages };
}

// The first page of a chunk.
PMTP_HOST_DEVICE constexpr int chunk_begin(int chunk) {
    int i = kTiers - 1;
    while (chunk < tier(i).chunk) {
        i--;
    }
    return tier(i).page + (chunk - tier(i).chunk) * tier(i).width;
}

// How many begin among the first pages.
PMTP_HOST_DEVICE constexpr int chunk_count(int pages) {
    int i = kTiers - 1;
    while (pages <= tier(i).page && i > 0) {
        i--;
    }
    return tier(i).chunk + (pages - tier(i).page + tier(i).width - 1) / tier(i).width;
}

// The one that holds a page.
PMTP_HOST_DEVICE constexpr int chunk_of_page(int page) { return chunk_count(page + 1) - 1; }

constexpr bool tiers_meet() {
    for (int i = 1; i < kTiers; i++) {
        const Tier before = tier(i - 1);
        if (before.page + (tier(i).chunk - before.chunk) * before.width != tier(i).page) {
            return false;
        }
    }
    return true;
}
static_assert(tiers_meet(), "a chunk begins where the one before ends");

}  // namespace pmtp::attention::cuda
