#include "drafters/draft_planner.h"

#include <algorithm>

namespace pmtp {

void DraftPlanner::plan(std::vector<Ask> & asks, int n_others, int n_rows, int longest, int most_rows) {
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
    const double plain = (double) asks.size() + n_others;
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
