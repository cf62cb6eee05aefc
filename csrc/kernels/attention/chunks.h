// How the cells of a cache are cut into chunks. Where one begins depends on nothing but its number.
#pragma once

#include <algorithm>
#include <cstdint>

namespace pmtp::attention {

// Chunks are short at first, so that short caches occupy several threads too, and longer later, which bounds the
// partial results: chunks of 64 cells to 512, of 256 to 4096, of 1024 to 32768, then of 4096.
inline int64_t chunk_begin(int64_t i) {
    return 64 * std::min<int64_t>(i, 8) + 256 * std::clamp<int64_t>(i - 8, 0, 14) +
           1024 * std::clamp<int64_t>(i - 22, 0, 28) + 4096 * std::max<int64_t>(i - 50, 0);
}

inline int64_t count_chunks(int64_t n_cells) {
    int64_t n = 0;
    while (chunk_begin(n) < n_cells) {
        n++;
    }
    return n;
}

}  // namespace pmtp::attention
