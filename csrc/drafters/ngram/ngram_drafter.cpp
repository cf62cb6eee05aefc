#include "drafters/ngram/ngram_drafter.h"

#include <algorithm>

namespace pmtp {

namespace {

// Tokens of the end of the text that are looked for: the longest match is taken, of equal ones the last.
constexpr int kLongest = 4;
constexpr int kShortest = 2;

// A text in two pieces.
struct Text {
    const std::vector<int32_t> & prompt;
    const std::vector<int32_t> & generated;

    int size() const { return (int) (prompt.size() + generated.size()); }
    int32_t operator[](int i) const { return i < (int) prompt.size() ? prompt[i] : generated[i - (int) prompt.size()]; }
};

// Where the text goes on after the match, or its size if there is none.
int find_continuation(const Text & text) {
    const int n = text.size();
    int best = n, longest = kShortest - 1;
    for (int end = n - 1; end > longest && longest < kLongest; end--) {
        int length = 0;
        while (length < std::min(kLongest, end) && text[end - 1 - length] == text[n - 1 - length]) {
            length++;
        }
        if (length > longest) {
            longest = length;
            best = end;
        }
    }
    return best;
}

}  // namespace

bool NgramDrafter::begin(std::vector<DraftTurn> & turns) {
    for (DraftTurn & turn : turns) {
        const Text text{ *turn.prompt, *turn.generated };
        turn.drafts->clear();
        for (int i = find_continuation(text); i < text.size() && (int) turn.drafts->size() < turn.k; i++) {
            turn.drafts->push_back({ text[i], {} });
        }
    }
    return true;
}

}  // namespace pmtp
