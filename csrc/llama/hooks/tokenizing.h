// The hook in the loops of llama.cpp's tokenizers, see csrc/llama/patches: a long text can be given up.
#pragma once

#include <functional>

// While one lives, this thread's tokenizers end with an exception when `stopped` says so.
class Tokenizing {
  public:
    explicit Tokenizing(std::function<bool()> stopped);
    ~Tokenizing();
    Tokenizing(const Tokenizing &) = delete;
    Tokenizing & operator=(const Tokenizing &) = delete;

    void look();  // every so often: throws std::runtime_error if stopped

  private:
    const std::function<bool()> stopped_;
    unsigned n_calls_ = 0;
};

extern thread_local Tokenizing * pmtp_current_tokenizing;

// To be called once for every few bytes of text.
inline void pmtp_tokenizing() {
    if (pmtp_current_tokenizing != nullptr) {
        pmtp_current_tokenizing->look();
    }
}
