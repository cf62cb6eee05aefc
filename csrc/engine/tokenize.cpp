#include "engine/tokenize.h"

#include "llama/hooks/tokenizing.h"
#include "llama/internal.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <unordered_map>
#include <vector>

namespace pmtp {

namespace {

// Byte-pair encoding of GPT-2's kind writes the bytes of a text as letters, and drops what is no token.
bool drops_nothing(const llama_vocab & vocab) {
    for (int byte = 0; byte < 256; byte++) {
        if (vocab.text_to_token(unicode_byte_to_utf8((uint8_t) byte)) == LLAMA_TOKEN_NULL) {
            return false;
        }
    }
    for (std::string & merge : vocab.get_bpe_merges()) {
        const size_t space = merge.find(' ', 1);
        if (space != std::string::npos && vocab.text_to_token(merge.erase(space, 1)) == LLAMA_TOKEN_NULL) {
            return false;
        }
    }
    // Some pre-tokenizers do not write bytes as letters.
    llama_token token = LLAMA_TOKEN_NULL;
    return llama_tokenize(&vocab, "\x01", 1, &token, 1, /*add_special*/ false, /*parse_special*/ false) == 1 &&
           token == vocab.text_to_token(unicode_byte_to_utf8(1));
}

}  // namespace

// SentencePiece and Gemma 4's byte-pair encoding drop nothing if there is a token for every byte, and GPT-2's may be
// looked at. A token's text is never shorter than what it stands for: a space has three bytes there, or two. A special
// token that takes the white space beside it stands for any number of bytes.
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
    const bool keeps_all =
        kind == "llama" || kind == "gemma4" ? n_bytes == 256 : kind == "gpt2" && drops_nothing(*vocab);
    if (keeps_all && !strips) {
        longest_ = longest;
    }
}

namespace {

int32_t tokenize(const llama_vocab * vocab, const char * text, int32_t size, bool add_special, bool parse_special,
                 int32_t * tokens, int32_t capacity, const Watch & watch, Literals * literals) {
    try {
        const Tokenizing tokenizing([&] { return watch.stopped(); }, literals);
        return llama_tokenize(vocab, text, size, tokens, capacity, add_special, parse_special);
    } catch (...) {
        watch.check();
        throw;
    }
}

// Whether there is a special token more than was found in the text: some tokenizers build a token out of pieces
// whatever it is for.
bool has_others(const llama_vocab * vocab, const int32_t * tokens, int32_t n, const std::vector<int32_t> & found) {
    const int special = LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN | LLAMA_TOKEN_ATTR_USER_DEFINED;
    std::unordered_map<int32_t, int32_t> left;
    for (int32_t token : found) {
        left[token]++;
    }
    for (int32_t i = 0; i < n; i++) {
        if ((llama_vocab_get_attr(vocab, tokens[i]) & special) != 0 && left[tokens[i]]-- <= 0) {
            return true;
        }
    }
    return false;
}

}  // namespace

int32_t tokenize(const llama_vocab * vocab, const char * text, int32_t size, bool add_special, bool parse_special,
                 int32_t * tokens, int32_t capacity, const Watch & watch) {
    return tokenize(vocab, text, size, add_special, parse_special, tokens, capacity, watch, nullptr);
}

int32_t tokenize_parts(const llama_vocab * vocab, const std::string & text, const std::string & may_be_special,
                       bool add_special, int32_t * tokens, int32_t capacity, const Watch & watch) {
    Literals literals{ may_be_special };
    const auto run = [&] {
        return tokenize(vocab, text.data(), (int32_t) text.size(), add_special, /*parse_special*/ true, tokens,
                        capacity, watch, &literals);
    };
    const int32_t n = run();
    if (add_special) {
        literals.found.insert(literals.found.end(), { llama_vocab_bos(vocab), llama_vocab_eos(vocab) });
    }
    if (n <= 0 || !has_others(vocab, tokens, n, literals.found)) {
        return n;
    }
    literals.found.clear();
    literals.splits = true;
    return run();
}

}  // namespace pmtp
