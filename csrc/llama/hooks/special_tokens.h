// The hook in llama_vocab::impl::tokenizer_st_partition, see csrc/llama/patches: cuts a text at its special tokens, as
// llama.cpp does, in a time that grows with the text's length only, or at those alone that may be some (Literals).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

struct Literals;
struct llama_vocab;

class SpecialTokens {
  public:
    struct Token {
        int32_t id;
        std::string text;
        bool always;                     // also where special tokens are not to be parsed
        bool strips_left, strips_right;  // white space beside it belongs to it
    };
    struct Fragment {
        int32_t token;  // -1: text
        size_t offset, length;
    };

    SpecialTokens() = default;

    // tokens: in the order in which llama.cpp looks for them, the longest first.
    explicit SpecialTokens(std::vector<Token> tokens);

    SpecialTokens(const llama_vocab & vocab, const std::vector<int32_t> & ids);

    std::vector<Fragment> cut(const std::string & text, bool parse_special) const;

    // buffer: llama.cpp's list of fragments, which holds one text. false: it is left to llama.cpp.
    template <typename Buffer> bool cut(Buffer & buffer, bool parse_special) const {
        if (!is_used()) {
            return false;
        }
        const std::string & text = buffer.front().raw_text;
        Buffer pieces;
        auto last = pieces.before_begin();
        for (const Fragment & f : cut(text, parse_special)) {
            last = f.token >= 0 ? pieces.emplace_after(last, f.token)
                                : pieces.emplace_after(last, text, f.offset, f.length);
        }
        buffer.swap(pieces);
        return true;
    }

  private:
    struct Group {  // tokens of one length
        size_t length;
        uint64_t power;                                       // of the hash's base
        std::array<bool, 256> begins{};                       // by the first byte
        std::unordered_multimap<uint64_t, size_t> by_hash{};  // index of the token
    };
    struct Match {
        size_t token, offset;
    };

    bool is_used() const;

    void find(const Group & group, std::string_view text, const std::vector<uint64_t> & hashes,
              const Fragment & fragment, bool parse_special, std::vector<Match> & matches,
              std::vector<size_t> & not_special) const;
    void take(const std::vector<Match> & matches, std::string_view text, const Fragment & fragment,
              std::vector<bool> & taken, std::vector<Fragment> & out) const;

    bool is_used_ = false;
    std::vector<Token> tokens_;
    std::vector<Group> groups_;
};
