// Text to tokens by llama.cpp's tokenizer, and what can be said of their number before.
#pragma once

#include "base/watch.h"

#include "llama.h"

#include <cstdint>
#include <string>

namespace pmtp {

// How few tokens a text can have. Known where every byte of a text is part of a token; else the answer is 0.
class TextLimits {
  public:
    TextLimits() = default;

    // model: tokenizer.ggml.model, or nullptr.
    TextLimits(const llama_vocab * vocab, const char * model);

    int64_t least_tokens(size_t text_size) const { return longest_ > 0 ? (text_size + longest_ - 1) / longest_ : 0; }

  private:
    int64_t longest_ = 0;  // bytes of text that one token can stand for; 0: without a bound
};

// As llama_tokenize(). Throws Error(CANCELLED).
int32_t tokenize(const llama_vocab * vocab, const char * text, int32_t size, bool add_special, bool parse_special,
                 int32_t * tokens, int32_t capacity, const Watch & watch);

// The same for a text that is only partly a prompt's own: special tokens are found where all of their bytes may be a
// part of one, which is said byte by byte (0: no).
int32_t tokenize_parts(const llama_vocab * vocab, const std::string & text, const std::string & may_be_special,
                       bool add_special, int32_t * tokens, int32_t capacity, const Watch & watch);

}  // namespace pmtp
