// How the positions of a sequence are cut into chunks. Where one begins depends on nothing but its number and the
// layer's window.
#pragma once

#include <algorithm>
#include <cstdint>

namespace pmtp::attention {

class Chunks {
  public:
    // Chunks of `width` positions, a multiple of 64. 0: short at first, so that short sequences occupy several threads
    // too, and longer later, which bounds the partial results: chunks of 64 positions to 512, of 256 to 4096, of 1024
    // to 32768, then of 4096.
    explicit Chunks(int64_t width) : width_(width) {}

    int64_t begin(int64_t i) const {
        return width_ > 0 ? width_ * i
                          : 64 * std::min<int64_t>(i, 8) + 256 * std::clamp<int64_t>(i - 8, 0, 14) +
                                1024 * std::clamp<int64_t>(i - 22, 0, 28) + 4096 * std::max<int64_t>(i - 50, 0);
    }

    // How many begin before a position.
    int64_t count(int64_t position) const {
        if (width_ > 0) {
            return (position + width_ - 1) / width_;
        }
        return (std::min<int64_t>(position, 512) + 63) / 64 +
               (std::clamp<int64_t>(position - 512, 0, 4096 - 512) + 255) / 256 +
               (std::clamp<int64_t>(position - 4096, 0, 32768 - 4096) + 1023) / 1024 +
               (std::max<int64_t>(position - 32768, 0) + 4095) / 4096;
    }

    // The one that holds a position.
    int64_t at(int64_t position) const { return count(position + 1) - 1; }

  private:
    int64_t width_;
};

// Of a layer that sees `window` positions (0: all): some eight are enough for the threads.
inline int64_t chunk_width(int64_t window) { return window > 0 ? 64 * std::max<int64_t>(window / 512, 1) : 0; }

}  // namespace pmtp::attention
