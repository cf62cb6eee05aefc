#include "drafters/draft_planner.h"

#include <algorithm>

namespace pmtp {

void DraftPlanner::plan(std::vector<Ask> & asks, int n_rows, int longest, int most_rows) {
    drafts_.clear();
    for (int i = 0; i < (int) asks.size(); i++) {
        double worth = 1;
        for (int k = 0; k < std::min(asks[i].most, kAutoLimit); k++) {
            worth *= asks[i].rates->at(k);
            drafts_.push_back({ worth, i });
        }
    }
    std::stable_sort(drafts_.begin(), drafts_.end(),
                     [](const Draft & a, const Draft & b) { return a.worth > b.worth; });
    double tokens = (double) asks.size();
    double best = tokens / costs_.cost(n_rows, longest);
    size_t n_best = 0;
    std::vector<int> k(asks.size());
    const size_t limit = std::min(drafts_.size(), (size_t) std::max(0, most_rows - n_rows));
    for (size_t r = 0; r < limit; r++) {
        tokens += drafts_[r].worth;
        longest = std::max(longest, ++k[drafts_[r].ask]);
        const double speed = tokens / costs_.cost(n_rows + (int) r + 1, longest);
        if (speed > best) {
            best = speed;
            n_best = r + 1;
        }
    }
    for (size_t r = 0; r < n_best; r++) {
        asks[drafts_[r].ask].k++;
    }
}

}  // namespace pmtp
