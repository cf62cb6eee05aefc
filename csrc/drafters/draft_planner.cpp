#include "drafters/draft_planner.h"

#include <algorithm>

namespace pmtp {

namespace {

// What another number of drafts for all must bring, relative, to be worth a new graph.
constexpr double kWorthAnother = 1.04;
// Steps of one kind in which a device still prepares them.
constexpr int kPreparing = 3;

}  // namespace

void DraftPlanner::observe(int rows, int longest, double seconds) {
    n_seen_ = rows == seen_rows_ && longest == seen_longest_ ? n_seen_ + 1 : 0;
    seen_rows_ = rows;
    seen_longest_ = longest;
    if (!few_shapes_ || n_seen_ >= kPreparing) {
        costs_.observe(rows, longest, seconds);
    }
}

void DraftPlanner::plan_equal(std::vector<Ask> & asks, double plain, int n_rows, int longest, int most_rows) {
    double best = 0;
    int best_length = 0;
    for (int length = 0; length <= kAutoLimit; length++) {
        double tokens = plain;
        int rows = n_rows, most = longest;
        for (const Ask & ask : asks) {
            double worth = 1;
            for (int k = 0; k < std::min(length, ask.most); k++) {
                worth *= ask.rates->at(k);
                tokens += worth;
                most = std::max(most, k + 1);
                rows++;
            }
        }
        const double speed = tokens / costs_.cost(rows, most) * (length == last_length_ ? kWorthAnother : 1.0);
        if (rows <= most_rows && speed > best) {
            best = speed;
            best_length = length;
        }
    }
    for (Ask & ask : asks) {
        ask.k = std::min(best_length, ask.most);
    }
    last_length_ = best_length;
}

void DraftPlanner::plan(std::vector<Ask> & asks, int n_others, int n_rows, int longest, int most_rows) {
    const double plain = (double) asks.size() + n_others;
    if (few_shapes_) {
        plan_equal(asks, plain, n_rows, longest, most_rows);
        return;
    }
    drafts_.clear();
    int most = longest;
    for (int i = 0; i < (int) asks.size(); i++) {
        double worth = 1;
        for (int k = 0; k < std::min(asks[i].most, kAutoLimit); k++) {
            worth *= asks[i].rates->at(k);
            drafts_.push_back({ worth, i, k + 1 });
            most = std::max(most, k + 1);
        }
    }
    std::stable_sort(drafts_.begin(), drafts_.end(),
                     [](const Draft & a, const Draft & b) { return a.worth > b.worth; });
    double best = plain / costs_.cost(n_rows, longest);
    int best_rows = n_rows, best_length = longest;
    for (int length = std::max(1, longest); length <= most; length++) {
        double tokens = plain;
        int rows = n_rows;
        for (const Draft & draft : drafts_) {
            if (draft.number > length || rows == most_rows) {
                continue;
            }
            tokens += draft.worth;
            const double speed = tokens / costs_.cost(++rows, length);
            if (speed > best) {
                best = speed;
                best_rows = rows;
                best_length = length;
            }
        }
    }
    for (const Draft & draft : drafts_) {
        if (draft.number <= best_length && n_rows < best_rows) {
            asks[draft.ask].k++;
            n_rows++;
        }
    }
}

}  // namespace pmtp
