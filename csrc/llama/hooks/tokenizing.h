// The hook in the loops of llama.cpp's tokenizers, see csrc/llama/patches: a long text can be given up.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

// What of a text may be a part of special tokens: bytes that are not 0. splits: text that reads like a special token
// and is none is cut in two, so that no tokenizer makes one of it. found: ids of the special tokens, in any order.
struct Literals {
    std::string bytes;
    bool splits = false;
    std::vector<int32_t> found{};
};

// While one lives, this thread's tokenizers end with an exception when `stopped` says so. literals: may be nullptr.
class Tokenizing {
  public:
    explicit Tokenizing(std::function<bool()> stopped, Literals * literals = nullptr);
    ~Tokenizing();
    Tokenizing(const Tokenizing &) = delete;
    Tokenizing & operator=(const Tokenizing &) = delete;

    void look();  // every so often: throws std::runtime_error if stopped

    Literals * literals() const { return literals_; }

  private:
    const std::function<bool()> stopped_;
    Literals * const literals_;
    unsigned n_calls_ = 0;
};

extern thread_local Tokenizing * pmtp_current_tokenizing;

// To be called once for every few bytes of text.
inline void pmtp_tokenizing() {
    if (pmtp_current_tokenizing != nullptr) {
        pmtp_current_tokenizing->look();
    }
}
