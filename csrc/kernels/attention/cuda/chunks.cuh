// How cells are cut into chunks, in pages of 64. Where one begins depends on its number alone: chunks are short at
// first, so that short contexts occupy many multiprocessors, and longer later, which bounds the partial results.
#pragma once

namespace pmtp::attention::cuda {

constexpr int kPage = 64;  // cells
constexpr int kMaxChunkPages = 8;
// Widths double here; the last is kMaxChunkPages.
constexpr int kTier2 = 16, kTier4 = 64, kTier8 = 512;  // pages
constexpr int kChunk2 = kTier2, kChunk4 = kChunk2 + (kTier4 - kTier2) / 2, kChunk8 = kChunk4 + (kTier8 - kTier4) / 4;

// The first page of a chunk.
__host__ __device__ constexpr int chunk_begin(int i) {
    return i <= kChunk2   ? i
           : i <= kChunk4 ? kTier2 + 2 * (i - kChunk2)
           : i <= kChunk8 ? kTier4 + 4 * (i - kChunk4)
                          : kTier8 + 8 * (i - kChunk8);
}

// How many begin among the first pages.
__host__ __device__ constexpr int chunk_count(int pages) {
    return pages <= kTier2   ? pages
           : pages <= kTier4 ? kChunk2 + (pages - kTier2 + 1) / 2
           : pages <= kTier8 ? kChunk4 + (pages - kTier4 + 3) / 4
                             : kChunk8 + (pages - kTier8 + 7) / 8;
}

}  // namespace pmtp::attention::cuda
