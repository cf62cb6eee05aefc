#include "engine/matcher.h"

#include "sampling/grammar.h"

#include <algorithm>

namespace pmtp {

namespace {

constexpr int kFailed = -1;

}  // namespace

bool Matcher::is_end(int32_t token) const { return std::find(ends, ends + n_ends, token) != ends + n_ends; }

// A text that ended in its thought, or was called from there, would be none of the grammar's.
bool Matcher::fill(Phase in, uint32_t * mask) const {
    const auto forbid = [&](int32_t token) { mask[token / 32] &= ~(1u << token % 32); };
    if (in == in_thought || in == in_text) {
        std::fill(mask, mask + mask_words(n_vocab), ~0u);
        if (in == in_thought) {
            std::for_each(ends, ends + n_ends, forbid);
        }
        if (opens >= 0 && (in == in_thought || matcher == nullptr)) {
            forbid(opens);
        }
        return true;
    }
    if (compute_mask(matcher, mask, mask_words(n_vocab) * sizeof(uint32_t)) != 0) {
        return false;
    }
    if (in == before_all && thought_begin >= 0) {
        mask[thought_begin / 32] |= 1u << thought_begin % 32;
    }
    return true;
}

Matcher::Phase Matcher::after(Phase in, int32_t token) const {
    switch (in) {
        case in_thought: return token == thought_end ? begun : in_thought;
        case before_all: return token == thought_begin ? in_thought : begun;
        case in_text: return token == opens ? begun : in_text;
        default: return begun;
    }
}

// Whether the matcher gets a token that leads from one phase to the other.
bool Matcher::consumes(Phase in, Phase next, int32_t token) const {
    return in != in_thought && next == begun && !is_end(token);
}

// The drafts go through the matcher one by one and are taken back.
int Matcher::masks(const int32_t * drafts, int n_drafts, uint32_t * allowed) {
    const size_t n_words = mask_words(n_vocab);
    Phase in = (Phase) phase;
    size_t consumed = 0;
    int n = 0;
    bool works = fill(in, allowed);
    while (works && n < n_drafts && pmtp::allows(allowed + n * n_words, drafts[n])) {
        const int32_t token = drafts[n];
        uint32_t * mask = allowed + ++n * n_words;
        if (is_end(token)) {  // nothing follows
            std::fill(mask, mask + n_words, ~0u);
            break;
        }
        const Phase next = after(in, token);
        if (consumes(in, next, token)) {
            const auto consumable = (uint32_t) token;
            works = consume(matcher, &consumable, 1) == 0;
            consumed += works;
        }
        in = next;
        works = works && fill(in, mask);
    }
    works = (consumed == 0 || rollback(matcher, consumed) == 0) && works;
    return works ? n : kFailed;
}

// The matcher is asked for all of its tokens at once. What it does not take may still be an end that is all it allows.
bool Matcher::allows(const int32_t * tokens, int n) const {
    Phase in = (Phase) phase;
    for (int i = 0; i < n; i++) {
        const int32_t token = tokens[i];
        const bool is_opened = token == opens && (in == in_thought || matcher == nullptr);
        if (is_opened || (in == in_thought && is_end(token))) {
            return false;
        }
        if (in == in_text && is_end(token)) {
            return i + 1 == n;
        }
        const Phase next = after(in, token);
        if (next == begun && in != in_thought) {
            return validate(matcher, reinterpret_cast<const uint32_t *>(tokens + i), n - i) == n - i;
        }
        in = next;
    }
    return true;
}

int Matcher::commit(const int32_t * tokens, int n) {
    for (int i = 0; i < n; i++) {
        const auto in = (Phase) phase;
        const Phase next = after(in, tokens[i]);
        const auto consumable = (uint32_t) tokens[i];
        if (consumes(in, next, tokens[i]) && consume(matcher, &consumable, 1) != 0) {
            return kFailed;
        }
        phase = next;
    }
    return 0;
}

}  // namespace pmtp
