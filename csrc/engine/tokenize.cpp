#include "engine/tokenize.h"

#include "llama/hooks/tokenizing.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace pmtp {

// SentencePiece and Gemma 4's byte-pair encoding drop nothing if there is a token for every byte: a token's text, in
// which a space has three bytes, is never shorter than what it stands for. A special token that takes the white space
// beside it stands for any number of bytes.
TextLimits::TextLimits(const llama_vocab * vocab, const char * model) {
    const std::string kind = model != nullptr ? model : "";
    int n_bytes = 0;
    int64_t longest = 1;
    bool strips = false;
    for (int32_t token = 0; token < llama_vocab_n_tokens(vocab); token++) {
        const int attributes = llama_vocab_get_attr(vocab, token);
        n_bytes += (attributes & LLAMA_TOKEN_ATTR_BYTE) != 0;
        strips = strips || (attributes & (LLAMA_TOKEN_ATTR_LSTRIP | LLAMA_TOKEN_ATTR_RSTRIP)) != 0;
        longest = std::max<int64_t>(longest, strlen(llama_vocab_get_text(vocab, token)));
    }
    if ((kind == "llama" || kind == "gemma4") && n_bytes == 256 && !strips) {
        longest_ = longest;
    }
}

int32_t tokenize(const llama_vocab * vocab, const char * text, int32_t size, bool add_special, bool parse_special,
                 int32_t * tokens, int32_t capacity, const Watch & watch) {
    try {
        const Tokenizing tokenizing([&] { return watch.stopped(); });
        return llama_tokenize(vocab, text, size, tokens, capacity, add_special, parse_special);
    } catch (...) {
        watch.check();
        throw;
    }
}

}  // namespace pmtp
