#include "llama/hooks/tokenizing.h"

#include <stdexcept>

thread_local Tokenizing * pmtp_current_tokenizing = nullptr;

Tokenizing::Tokenizing(std::function<bool()> stopped, Literals * literals)
    : stopped_(std::move(stopped)),
      literals_(literals) {
    pmtp_current_tokenizing = this;
}

Tokenizing::~Tokenizing() { pmtp_current_tokenizing = nullptr; }

void Tokenizing::look() {
    if ((++n_calls_ & 0xfff) == 0 && stopped_()) {
        throw std::runtime_error("stopped");
    }
}
