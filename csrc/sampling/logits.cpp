#include "sampling/logits.h"

namespace pmtp {

float largest(const float * x, int n) {
    float lanes[16];
    std::fill_n(lanes, 16, kForbidden);
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int j = 0; j < 16; j++) {
            lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
        }
    }
    for (; i < n; i++) {
        lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
    }
    return *std::max_element(lanes, lanes + 16);
}

int32_t arg_max(const float * logits, int n) {
    float best = kForbidden;
    int32_t index = 0;
    for (int begin = 0; begin < n; begin += kScanBlock) {
        const int size = std::min(kScanBlock, n - begin);
        if (largest(logits + begin, size) > best) {
            for (int i = begin; i < begin + size; i++) {
                if (logits[i] > best) {
                    best = logits[i];
                    index = i;
                }
            }
        }
    }
    return index;
}

double exp_sum(const float * logits, int n, float max, float scale) {
    double total = 0;
    for (int begin = 0; begin < n; begin += kScanBlock) {
        const int size = std::min(kScanBlock, n - begin);
        float lanes[16] = {};
        int i = 0;
        for (; i + 16 <= size; i += 16) {
            for (int j = 0; j < 16; j++) {
                lanes[j] += exp_nonpositive((logits[begin + i + j] - max) * scale);
            }
        }
        for (; i < size; i++) {
            lanes[0] += exp_nonpositive((logits[begin + i] - max) * scale);
        }
        for (float lane : lanes) {
            total += lane;
        }
    }
    return total;
}

void gather_largest(const float * logits, int n, int k, float floor, std::vector<Candidate> & out) {
    out.clear();
    for_each_at_least(logits, n, floor, [&](int32_t index, float logit) {
        if ((int) out.size() == k) {
            if (logit <= out.front().logit) {
                return;
            }
            std::pop_heap(out.begin(), out.end(), more_probable);
            out.pop_back();
        }
        out.push_back({ logit, index });
        std::push_heap(out.begin(), out.end(), more_probable);
        if ((int) out.size() == k) {
            floor = out.front().logit;
        }
    });
}

}  // namespace pmtp
