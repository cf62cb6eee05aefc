#include "llama/hooks/special_tokens.h"

#include "llama-vocab.h"
#include "llama/hooks/tokenizing.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>

namespace {

// Of a window: the polynomial of its bytes, modulo 2^64. Equal hashes are compared byte by byte.
constexpr uint64_t kBase = 0x9e3779b97f4a7c15ull;

uint64_t appended(uint64_t hash, char byte) { return hash * kBase + (uint8_t) byte + 1; }

bool is_space(char c) { return isspace((unsigned char) c) != 0; }

Literals * current_literals() {
    return pmtp_current_tokenizing != nullptr ? pmtp_current_tokenizing->literals() : nullptr;
}

// Older vocabularies have runs of white space as user-defined tokens, which are as good as any text.
bool is_blank(const SpecialTokens::Token & token) {
    static const std::string space = "\xe2\x96\x81";
    for (size_t at = 0; at < token.text.size();) {
        const bool is_word = token.text.compare(at, space.size(), space) == 0;
        if (!is_word && !is_space(token.text[at])) {
            return false;
        }
        at += is_word ? space.size() : 1;
    }
    return token.always;
}

// Cuts fragments of text where they read like a special token. at: in any order.
void split(std::vector<SpecialTokens::Fragment> & fragments, std::vector<size_t> & at) {
    std::sort(at.begin(), at.end());
    std::vector<SpecialTokens::Fragment> out;
    auto next = at.begin();
    for (SpecialTokens::Fragment fragment : fragments) {
        const size_t end = fragment.offset + fragment.length;
        next = std::upper_bound(next, at.end(), fragment.offset);
        for (; fragment.token < 0 && next != at.end() && *next < end; next = std::upper_bound(next, at.end(), *next)) {
            out.push_back({ -1, fragment.offset, *next - fragment.offset });
            fragment.offset = *next;
        }
        out.push_back({ fragment.token, fragment.offset, end - fragment.offset });
    }
    fragments.swap(out);
}

size_t size_of_character(char first) {
    const uint8_t byte = (uint8_t) first;
    return byte < 0xc0 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

}  // namespace

SpecialTokens::SpecialTokens(std::vector<Token> tokens) : tokens_(std::move(tokens)) {
    const char * wish = getenv("PYLLAMA_MTP_SPECIAL_TOKENS");  // 0: llama.cpp's own way, for comparisons
    is_used_ = wish == nullptr || strcmp(wish, "0") != 0;
    for (size_t i = 0; i < tokens_.size(); i++) {
        const std::string & text = tokens_[i].text;
        if (text.empty()) {
            continue;
        }
        if (groups_.empty() || groups_.back().length != text.size()) {
            uint64_t power = 1;
            for (size_t n = 0; n < text.size(); n++) {
                power *= kBase;
            }
            groups_.push_back({ text.size(), power });
        }
        uint64_t hash = 0;
        for (char byte : text) {
            hash = appended(hash, byte);
        }
        groups_.back().begins[(uint8_t) text[0]] = true;
        groups_.back().by_hash.emplace(hash, i);
    }
}

SpecialTokens::SpecialTokens(const llama_vocab & vocab, const std::vector<int32_t> & ids)
    : SpecialTokens([&] {
          std::vector<Token> tokens;
          for (int32_t id : ids) {
              const auto & data = vocab.get_token_data(id);
              const auto has = [&](int attribute) { return (data.attr & attribute) != 0; };
              tokens.push_back({ id, data.text, !has(LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN),
                                 has(LLAMA_TOKEN_ATTR_LSTRIP), has(LLAMA_TOKEN_ATTR_RSTRIP) });
          }
          return tokens;
      }()) {}

// Every token of the group in a fragment of text, in the order in which they are taken.
void SpecialTokens::find(const Group & group, std::string_view text, const std::vector<uint64_t> & hashes,
                         const Fragment & fragment, bool parse_special, std::vector<Match> & matches,
                         std::vector<size_t> & not_special) const {
    const Literals * literals = current_literals();
    matches.clear();
    const size_t end = fragment.offset + fragment.length;
    for (size_t at = fragment.offset; at + group.length <= end; at++) {
        pmtp_tokenizing();
        if (!group.begins[(uint8_t) text[at]]) {
            continue;
        }
        const auto [first, last] = group.by_hash.equal_range(hashes[at + group.length] - hashes[at] * group.power);
        for (auto i = first; i != last; ++i) {
            const Token & token = tokens_[i->second];
            if ((parse_special || token.always) && text.compare(at, group.length, token.text) == 0) {
                if (literals != nullptr && memchr(literals->bytes.data() + at, 0, group.length) != nullptr &&
                    !is_blank(token)) {
                    not_special.push_back(at + size_of_character(text[at]));
                } else {
                    matches.push_back({ i->second, at });
                }
            }
        }
    }
    std::stable_sort(matches.begin(), matches.end(),
                     [](const Match & a, const Match & b) { return a.token < b.token; });
}

// Cuts a fragment at the matches that do not overlap those before them. taken: of the text, all false in the fragment.
void SpecialTokens::take(const std::vector<Match> & matches, std::string_view text, const Fragment & fragment,
                         std::vector<bool> & taken, std::vector<Fragment> & out) const {
    std::vector<Match> kept;
    const size_t end = fragment.offset + fragment.length;
    for (const Match & match : matches) {
        const Token & token = tokens_[match.token];
        const auto begin = taken.begin() + match.offset;
        if (std::find(begin, begin + token.text.size(), true) != begin + token.text.size()) {
            continue;
        }
        std::fill_n(begin, token.text.size(), true);
        for (size_t at = match.offset;
             token.strips_left && at > fragment.offset && !taken[at - 1] && is_space(text[at - 1]);) {
            taken[--at] = true;
        }
        for (size_t at = match.offset + token.text.size();
             token.strips_right && at < end && !taken[at] && is_space(text[at]); at++) {
            taken[at] = true;
        }
        kept.push_back(match);
    }
    std::sort(kept.begin(), kept.end(), [](const Match & a, const Match & b) { return a.offset < b.offset; });
    size_t at = fragment.offset;
    const auto add_text = [&](size_t until) {
        while (at < until && taken[at]) {
            at++;
        }
        size_t length = 0;
        while (at + length < until && !taken[at + length]) {
            length++;
        }
        if (length > 0) {
            out.push_back({ -1, at, length });
        }
    };
    for (const Match & match : kept) {
        add_text(match.offset);
        out.push_back({ tokens_[match.token].id, match.offset, tokens_[match.token].text.size() });
        at = match.offset + tokens_[match.token].text.size();
    }
    add_text(end);
}

bool SpecialTokens::is_used() const { return is_used_ || current_literals() != nullptr; }

std::vector<SpecialTokens::Fragment> SpecialTokens::cut(const std::string & text, bool parse_special) const {
    std::vector<uint64_t> hashes(text.size() + 1);
    for (size_t i = 0; i < text.size(); i++) {
        hashes[i + 1] = appended(hashes[i], text[i]);
    }
    std::vector<bool> taken(text.size());
    std::vector<Fragment> fragments{ { -1, 0, text.size() } }, next;
    std::vector<Match> matches;
    std::vector<size_t> not_special;
    for (const Group & group : groups_) {
        bool any = false;
        next.clear();
        for (const Fragment & fragment : fragments) {
            matches.clear();
            if (fragment.token < 0) {
                find(group, text, hashes, fragment, parse_special, matches, not_special);
            }
            if (matches.empty()) {
                next.push_back(fragment);
            } else {
                take(matches, text, fragment, taken, next);
                any = true;
            }
        }
        if (any) {
            fragments.swap(next);
        }
    }
    if (Literals * literals = current_literals()) {
        for (const Fragment & fragment : fragments) {
            if (fragment.token >= 0) {
                literals->found.push_back(fragment.token);
            }
        }
        if (literals->splits) {
            split(fragments, not_special);
        }
    }
    return fragments;
}
