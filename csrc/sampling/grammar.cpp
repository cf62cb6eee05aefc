#include "sampling/grammar.h"

#include "base/error.h"

namespace pmtp {

void Grammar::take(const std::vector<Draft> & drafts) {
    drafts_.clear();
    for (const Draft & draft : drafts) {
        drafts_.push_back(draft.token);
    }
}

int Grammar::fill(const std::vector<Draft> & drafts) {
    take(drafts);
    return fill();
}

bool Grammar::defer(const std::vector<Draft> & drafts) {
    take(drafts);
    const int n = (int) drafts_.size();
    deferred_ = callbacks_.allows != nullptr && (n == 0 || callbacks_.allows(callbacks_.user, drafts_.data(), n) == 1);
    return deferred_;
}

// A token that is the next draft was allowed with the drafts.
const uint32_t * Grammar::refusal(int i, int32_t token) {
    if (i < (int) drafts_.size() && drafts_[i] == token) {
        return nullptr;
    }
    tokens_.assign(drafts_.begin(), drafts_.begin() + i);
    tokens_.push_back(token);
    if (callbacks_.allows(callbacks_.user, tokens_.data(), i + 1) == 1) {
        return nullptr;
    }
    if (deferred_ && fill() < i) {
        throw Error(Status::internal, "the grammar's masks() refused drafts that its allows() allowed");
    }
    return mask(i);
}

int Grammar::fill() {
    deferred_ = false;
    const int n = (int) drafts_.size();
    masks_.assign((size_t) (n + 1) * n_words_, 0);
    const int allowed = callbacks_.masks(callbacks_.user, drafts_.data(), n, masks_.data());
    if (allowed < 0 || allowed > n) {
        throw Error(Status::internal, format("the grammar's masks() failed with %d", allowed));
    }
    for (int i = 0; i < allowed; i++) {
        if (!allows(mask(i), drafts_[i])) {
            throw Error(Status::internal, format("the grammar's masks() allowed %d drafts, but mask %d does not allow "
                                                 "token %d",
                                                 allowed, i, drafts_[i]));
        }
    }
    return allowed;
}

void Grammar::commit(const int32_t * tokens, int n) {
    if (restricts() && n > 0) {
        const int status = callbacks_.commit(callbacks_.user, tokens, n);
        if (status < 0) {
            throw Error(Status::internal, format("the grammar's commit() failed with %d", status));
        }
    }
}

}  // namespace pmtp
