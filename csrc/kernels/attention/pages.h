// Where the attention kernel finds the cells of a batch's sequences. A sequence has its cells in pages: positions
// 64 t .. 64 t + 63 lie side by side, in this order, and pages lie anywhere in the cache (paged attention: Kwon and
// others 2023).
#pragma once

#include <cstdint>
#include <vector>

namespace pmtp::attention {

// Cells of a page, and of a tile of the kernel: their masks and weights, and 64 values of each of V, stay in the L1
// cache.
constexpr int kPage = 64;

// Hangs on the mask of a FLASH_ATTN_EXT as ggml_tensor::extra, see csrc/llama/README.md.
struct Pages {
    // Consecutive rows of one sequence, and the pages of the positions that they may see.
    struct Run {
        int first_row, n_rows;
        int64_t first_page, n_pages;  // pages counted from position 0
        int64_t cells;                // of the first page, in first_cells
    };
    std::vector<Run> runs;             // cover all rows, in their order
    std::vector<int32_t> first_cells;  // of a page; -1: the cache has none of its positions
    int64_t chunk = 0;                 // positions of a chunk, see chunks.h
};

}  // namespace pmtp::attention
