// A matcher of llguidance as a sequence's grammar, which may begin behind a thought.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pmtp {

// As pmtp_matcher.
struct Matcher {
    enum Phase : int32_t { begun, in_thought, before_all, in_text };

    void * matcher;
    int32_t (*compute_mask)(void * matcher, uint32_t * mask, size_t n_bytes);
    int32_t (*consume)(void * matcher, const uint32_t * tokens, size_t n);
    int32_t (*rollback)(void * matcher, size_t n);
    int32_t (*validate)(void * matcher, const uint32_t * tokens, size_t n);
    int32_t n_vocab;
    int32_t n_ends;
    const int32_t * ends;
    int32_t thought_begin;
    int32_t thought_end;
    int32_t opens;
    int32_t phase;

    // As those of pmtp_grammar.
    int masks(const int32_t * drafts, int n_drafts, uint32_t * allowed);
    int commit(const int32_t * tokens, int n);
    bool allows(const int32_t * tokens, int n) const;

  private:
    bool is_end(int32_t token) const;
    bool fill(Phase in, uint32_t * mask) const;
    Phase after(Phase in, int32_t token) const;
    bool consumes(Phase in, Phase next, int32_t token) const;
};

}  // namespace pmtp
