// The pages of a mask's rows as kernels on a device read them, in a tensor of its own. So a row's chunks are those of
// its sequence's positions, wherever its pages lie and whatever else the cache holds.
#pragma once

#include "kernels/attention/device_chunks.h"
#include "kernels/attention/pages.h"

#include <cstdint>

namespace pmtp::attention {

// In words of 32 bits: the header, of every row how many chunks it has, and the chunks.
struct DeviceTable {
    struct Header {
        int32_t n_chunks;  // 0: there is no table, and cells are taken as they lie
        int32_t unused[3];
    };
    // Pages of consecutive positions, seen by rows of one sequence.
    struct Chunk {
        int32_t first_row, end_row;
        int32_t number;  // among those of its rows
        int32_t n_pages;
        int32_t first_cells[cuda::kMaxChunkPages];  // of the pages; -1: the cache has none of its positions
    };
    static constexpr int kHeaderWords = sizeof(Header) / sizeof(int32_t), kChunkWords = sizeof(Chunk) / sizeof(int32_t);

    // A device cuts a cache of up to so many cells into chunks of a page each, which needs no table.
    static constexpr int64_t kCellsWithout = 8192;
    // Largest window whose pages are a chunk each.
    static constexpr int64_t kWindow = 4096;

    static PMTP_HOST_DEVICE constexpr int64_t chunks_at(int64_t n_rows) { return kHeaderWords + (n_rows + 3) / 4 * 4; }
};

// Words of the table of n_rows rows of n_sequences sequences, each with its rows side by side; 0: a cache of n_cells
// needs none.
int64_t table_words(int64_t n_cells, int64_t n_rows, int64_t n_sequences);

// Writes the table of `pages`, or, where that is null or does not fit, that there is none. window: positions that a row
// sees, 0: all.
void write_table(const Pages * pages, int64_t window, int64_t n_cells, int64_t n_rows, int32_t * words,
                 int64_t n_words);

}  // namespace pmtp::attention
