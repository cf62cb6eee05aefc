#include "kernels/products/cpu/experts.h"

#include <algorithm>

namespace pmtp::products {
namespace {

// A number, and arrays of experts and pairs.
int64_t count_numbers(const Pairs & pairs) { return 1 + 2 * pairs.n_experts + 2 * pairs.count(); }

}  // namespace

// As if each pair were alone: several together need less.
size_t ExpertRows::bytes(Coding coding, int64_t n_in, const Pairs & pairs) {
    return (size_t) pairs.count() * Activations::bytes(coding, n_in, 1) +
           (size_t) count_numbers(pairs) * sizeof(int32_t);
}

ExpertRows::ExpertRows(void * buffer, Coding coding, int64_t n_in, const Pairs & pairs)
    : pairs_(pairs),
      coding_(coding),
      n_in_(n_in),
      n_active_((int32_t *) buffer),
      active_(n_active_ + 1),
      ends_(active_ + pairs.n_experts),
      order_(ends_ + pairs.n_experts),
      rows_(order_ + pairs.count()),
      coded_((char *) (rows_ + pairs.count())) {}

bool ExpertRows::sort() const {
    const auto for_each_pair = [&](auto f) {
        for (int64_t t = 0; t < pairs_.n_tokens; t++) {
            for (int64_t i = 0; i < pairs_.n_used; i++) {
                const int32_t expert = *(const int32_t *) (pairs_.ids + i * pairs_.step + t * pairs_.stride);
                if (expert < 0 || expert >= pairs_.n_experts) {
                    return false;
                }
                f(t, i, expert);
            }
        }
        return true;
    };
    std::fill_n(ends_, pairs_.n_experts, 0);
    if (!for_each_pair([&](int64_t, int64_t, int32_t expert) { ends_[expert]++; })) {
        return false;
    }
    int32_t n_active = 0, n_before = 0;
    for (int32_t e = 0; e < (int32_t) pairs_.n_experts; e++) {
        if (ends_[e] > 0) {
            active_[n_active++] = e;
        }
        n_before += ends_[e];
        ends_[e] = n_before - ends_[e];  // the beginning, until all pairs have been put there
    }
    *n_active_ = n_active;
    return for_each_pair([&](int64_t t, int64_t i, int32_t expert) {
        const int32_t at = ends_[expert]++;
        order_[at] = (int32_t) (t * pairs_.n_used + i);
        rows_[at] = (int32_t) (t * pairs_.n_rows + i % pairs_.n_rows);
    });
}

Activations ExpertRows::activations(int64_t i) const {
    void * at = coded_ + (size_t) first_pair(i) * Activations::bytes(coding_, n_in_, 1);
    return { at, coding_, n_in_, n_pairs(i) };
}

void ExpertRows::encode(const float * x, size_t stride, int i, int n) const {
    for (int64_t a = 0; a < n_active(); a++) {
        activations(a).encode(x, stride, i, n, rows_ + first_pair(a));
    }
}

void ExpertRows::multiply(Kernel kernel, const void * weights, size_t size, int64_t i, float * result, int64_t stride,
                          int64_t first, int64_t last) const {
    products::multiply(kernel, (const char *) weights + (size_t) active_[i] * size, activations(i), result, stride,
                       first, last, order_ + first_pair(i));
}

}  // namespace pmtp::products
