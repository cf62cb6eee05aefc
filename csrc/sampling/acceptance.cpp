#include "sampling/acceptance.h"

#include <algorithm>

namespace pmtp {

namespace {

double q_of(const Draft & draft) {  // probability that the draft had, 1 where it was not drawn
    for (const WeightedToken & w : draft.q) {
        if (w.token == draft.token) {
            return w.p;
        }
    }
    return 1.0;
}

// Visits (token, q) of the draft's distribution.
template <typename Visit> void for_each_q(const Draft & draft, Visit visit) {
    if (draft.q.empty()) {
        visit(draft.token, 1.0);
    }
    for (const WeightedToken & w : draft.q) {
        visit(w.token, w.p);
    }
}

// Sum over all tokens of max(share * p - q, 0).
double residual_mass(Distribution & p, double share, const Draft & draft) {
    double inside = 0, covered = 0;
    for_each_q(draft, [&](int32_t token, double q) {
        const double probability = p.probability(token);
        covered += probability;
        inside += std::max(0.0, share * probability - q);
    });
    return inside + share * std::max(0.0, 1.0 - covered);
}

Rule resolve(Rule rule, const Warp & warp, bool reproducible, bool finds_candidates) {
    if (warp.greedy()) {
        return Rule::coupled;  // p is 1 at one token: every rule compares
    }
    if (rule != Rule::automatic) {
        return rule;
    }
    // Untruncated, the other rules need whole rows, which take longer to bring to the host than the drafts that
    // coupling accepts less often.
    return reproducible || (finds_candidates && !warp.truncates()) ? Rule::coupled : Rule::block;
}

}  // namespace

Acceptance::Acceptance(Rule rule, const Warp & warp, uint64_t seed, bool reproducible, bool finds_candidates,
                       std::vector<double> synthetic)
    : rule_(resolve(rule, warp, reproducible, finds_candidates)),
      seed_(seed),
      synthetic_(std::move(synthetic)) {}

Draw Acceptance::draw() const {
    switch (rule_) {
        case Rule::rejection:
        case Rule::block: return Draw::independent;
        case Rule::rejection_greedy: return Draw::greedy;
        default: return Draw::coupled;
    }
}

void Acceptance::begin(Sampler & sampler, const std::vector<Draft> & drafts, const std::vector<TargetRow> & rows) {
    round_++;
    row_ = 0;
    drafts_ = &drafts;
    target_ = rows;
    rows_.resize(std::max(rows_.size(), rows.size()));
    n_accepted_ = 0;
    if (!synthetic_.empty()) {
        const double u = uniform(Purpose::synthetic, 0);
        while (n_accepted_ < (int) std::min(synthetic_.size(), drafts.size()) && u < synthetic_[n_accepted_]) {
            n_accepted_++;
        }
    } else if (rule_ == Rule::block) {
        accept_block(sampler);
    }
}

Choice Acceptance::next(Sampler & sampler) {
    const int row = row_++;
    if (rule_ != Rule::block || !synthetic_.empty()) {
        sampler.prepare(target_[row], rows_[row]);
    }
    const Choice choice = choose(sampler, row);
    sampler.commit(rows_[row], choice.token);
    return choice;
}

Choice Acceptance::choose(const Sampler & sampler, int row) {
    if (!synthetic_.empty()) {
        return choose_synthetic(sampler, row);
    }
    switch (rule_) {
        case Rule::rejection:
        case Rule::rejection_greedy: return choose_by_rejection(row);
        case Rule::block: return choose_of_block(row);
        default: return choose_coupled(sampler, row);
    }
}

Choice Acceptance::choose_coupled(const Sampler & sampler, int row) {
    const int32_t token = rows_[row].p.draw(Noise(seed_, Purpose::token, sampler.position()));
    return { token, has_draft(row) && token == (*drafts_)[row].token };
}

Choice Acceptance::choose_by_rejection(int row) {
    Distribution & p = rows_[row].p;
    if (!has_draft(row)) {
        return { p.draw(uniform(Purpose::residual, row)), false };
    }
    const Draft & draft = (*drafts_)[row];
    if (uniform(Purpose::acceptance, row) * q_of(draft) < p.probability(draft.token)) {
        return { draft.token, true };
    }
    return { draw_residual(row, 1.0), false };
}

// Every row's distribution assumes that all drafts before it were accepted, so the sampler runs ahead and is taken
// back.
void Acceptance::accept_block(Sampler & sampler) {
    const int n_before = (int) sampler.generated().size();
    const int k = (int) drafts_->size();
    joint_.assign(1, 1.0);
    for (int i = 0;; i++) {
        Distribution & p = rows_[i].p;
        sampler.prepare(target_[i], rows_[i]);
        const double joint = joint_.back();
        double accepts = joint;  // probability of accepting i drafts, unless more are accepted
        if (i < k) {
            const double mass = residual_mass(p, joint, (*drafts_)[i]);
            accepts = mass + 1.0 - joint > 0 ? mass / (mass + 1.0 - joint) : 0.0;
        }
        if (i > 0 && uniform(Purpose::acceptance, i) < accepts) {
            n_accepted_ = i;
        }
        if (i == k) {
            break;
        }
        const Draft & draft = (*drafts_)[i];
        const double probability = p.probability(draft.token);
        if (probability == 0.0) {  // no continuation of this can be accepted, nor be shown to a mask
            break;
        }
        joint_.push_back(std::min(1.0, joint * probability / q_of(draft)));
        sampler.commit(rows_[i], draft.token);
    }
    sampler.truncate(n_before);
}

Choice Acceptance::choose_of_block(int row) {
    if (row < n_accepted_) {
        return { (*drafts_)[row].token, true };
    }
    return { has_draft(row) ? draw_residual(row, joint_[row]) : rows_[row].p.draw(uniform(Purpose::residual, row)),
             false };
}

Choice Acceptance::choose_synthetic(const Sampler & sampler, int row) {
    const int32_t token = rows_[row].p.draw(Noise(seed_, Purpose::token, sampler.position()));
    return row < n_accepted_ ? Choice{ (*drafts_)[row].token, true } : Choice{ token, false };
}

// A token from max(share * p - q, 0), normalised: one of q's support, or one of the rest of p, where q is 0.
int32_t Acceptance::draw_residual(int row, double share) {
    Sampler::Row & target = rows_[row];
    Distribution & p = target.p;
    residual_.clear();
    double inside = 0;
    const double total = p.total();
    for_each_q((*drafts_)[row], [&](int32_t token, double q) {
        const double probability = p.probability(token);
        if (probability > 0) {
            residual_.push_back({ token, std::max(0.0, share * probability - q) });
            inside += residual_.back().p;
            if (target.logits != nullptr) {
                target.changed.push_back({ target.logits[token], token });
            }
        }
    });
    // The rest is summed afresh: 1 less what is covered would be a rounding error where little is left.
    const int32_t fallback = p.most_probable();
    p.remove(residual_);
    const double outside = share * p.total() / total;
    double u = uniform(Purpose::residual, row) * (inside + outside);
    for (const WeightedToken & w : residual_) {
        if (w.p > 0 && u < w.p) {
            return w.token;
        }
        u -= w.p;
    }
    return outside > 0 ? p.draw(std::clamp(u / outside, 0.0, 1.0)) : fallback;
}

}  // namespace pmtp
