// What restricts a sequence's tokens: callbacks, and the masks that they filled for a turn.
#pragma once

#include "sampling/draft.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pmtp {

// As pmtp_grammar.
struct GrammarCallbacks {
    int32_t (*masks)(void * user, const int32_t * drafts, int32_t n_drafts, uint32_t * allowed) = nullptr;
    int32_t (*commit)(void * user, const int32_t * tokens, int32_t n) = nullptr;
    void * user = nullptr;
    int32_t (*allows)(void * user, const int32_t * tokens, int32_t n) = nullptr;
};

// Words of a mask: bit t % 32 of word t / 32 allows token t.
constexpr int mask_words(int n_vocab) { return (n_vocab + 31) / 32; }

inline bool allows(const uint32_t * mask, int32_t token) { return ((mask[token / 32] >> (token % 32)) & 1) != 0; }

class Grammar {
  public:
    Grammar(const GrammarCallbacks & callbacks, int n_vocab) : callbacks_(callbacks), n_words_(mask_words(n_vocab)) {}

    bool restricts() const { return callbacks_.masks != nullptr; }

    // Asks for the masks of the next token and of those after the drafts. Returns how many drafts are allowed: so many
    // masks and one more are filled. Throws Error.
    int fill(const std::vector<Draft> & drafts);

    // Instead of fill(): whether all drafts are allowed, if that can be told without masks. Then those are left out
    // until refusal() needs them.
    bool defer(const std::vector<Draft> & drafts);
    bool deferred() const { return deferred_; }

    // Mask i of the last fill(); nullptr: everything is allowed, or the masks were left out.
    const uint32_t * mask(int i) const { return restricts() && !deferred_ ? &masks_[(size_t) i * n_words_] : nullptr; }

    // After defer(): nullptr if the token is allowed after the first i drafts, else mask i. Throws Error.
    const uint32_t * refusal(int i, int32_t token);

    // Throws Error.
    void commit(const int32_t * tokens, int n);

  private:
    void take(const std::vector<Draft> & drafts);
    int fill();

    GrammarCallbacks callbacks_;
    int n_words_;
    std::vector<int32_t> drafts_;
    std::vector<int32_t> tokens_;
    std::vector<uint32_t> masks_;
    bool deferred_ = false;
};

}  // namespace pmtp
