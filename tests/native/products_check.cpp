// Compares the product kernels with float64 products of weights dequantised here, value by value, and activations as
// they are coded, and every row in batches of many sizes, and among the rows of experts, with the same row alone, bit
// for bit. Prints "type n_in columns error scale" a case; exits with 77 without kernels.
#include "product_types.h"

#include "kernels/cpu/simd.h"
#include "kernels/products/cpu/experts.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#ifdef PMTP_SIMD

// Value i of a lone row, as the kernels see it.
static double coded_value(const Type & type, const Tile & alone, int i) {
    switch (type.coding) {
        case Coding::floats: return ((const float *) alone.values)[i];
        case Coding::super: return ((const int8_t *) alone.values)[i] * (double) alone.scales[i / 256];
#ifdef PMTP_SIMD_VNNI
        case Coding::plain: return (((const uint8_t *) alone.values)[i] - 128) * (double) alone.scales[i / 32];
#endif
        default: return ((const int8_t *) alone.values)[i] * (double) alone.scales[i / 32];
    }
}

// Weights of random bytes, and their values: [columns][n_in].
struct Matrix {
    Bytes weights;
    std::vector<double> values;

    Matrix(const Type & type, int n_in, int columns)
        : weights(random_weights(type, columns / type.lanes * (n_in / type.size))),
          values((size_t) columns * n_in) {
        for (int c = 0; c < columns; c++) {
            for (int i = 0; i < n_in; i++) {
                const uint8_t * block =
                    &weights[((size_t) c / type.lanes * (n_in / type.size) + i / type.size) * type.bytes];
                values[(size_t) c * n_in + i] = type.value(block, c % type.lanes, i % type.size);
            }
        }
    }
};

struct Errors {
    double error = 0, scale = 0;
};

// The products of a lone row: `result` has room for one of each column.
static void multiply_alone(const Type & type, const Matrix & matrix, int n_in, const float * x, float * result,
                           Errors & errors) {
    const int columns = (int) (matrix.values.size() / n_in);
    Bytes buffer(Activations::bytes(type.coding, n_in, 1), 0xff);
    const Activations activations(buffer.data(), type.coding, n_in, 1);
    activations.encode(x, 0, 0, 2);
    activations.encode(x, 0, 1, 2);
    multiply(type.kernel, matrix.weights.data(), activations, result, columns, 0, columns);
    const Tile tile = activations.tile(0, nullptr, 0);
    std::vector<double> row(n_in);
    for (int i = 0; i < n_in; i++) {
        row[i] = coded_value(type, tile, i);
    }
    for (int c = 0; c < columns; c++) {
        const double exact = std::inner_product(row.begin(), row.end(), &matrix.values[(size_t) c * n_in], 0.0);
        errors.error = std::isnan(result[c]) ? INFINITY : std::max(errors.error, std::fabs(exact - result[c]));
        errors.scale = std::max(errors.scale, std::fabs(exact));
    }
}

static std::vector<float> random_rows(int n_rows, int n_in) {
    std::normal_distribution<float> normal;
    std::vector<float> x((size_t) n_rows * n_in);
    for (float & value : x) {
        value = normal(random_bits);
    }
    return x;
}

static bool check(const Type & type, int n_in, int columns) {
    const Matrix matrix(type, n_in, columns);
    std::vector<int> batches(n_in <= 1536 ? 70 : 20);
    std::iota(batches.begin(), batches.end(), 1);
    if (n_in > 1536) {
        batches.insert(batches.end(), { 33, 64 });
    } else {
        batches.insert(batches.end(), { 71, 72, 73, 128, 512 });
    }
    const int n_rows = batches.back();
    std::vector<float> x = random_rows(n_rows, n_in);
    if (n_in > type.size) {
        std::fill_n(x.begin(), type.size, 0.0f);  // a block of zeros has no scale
    }
    std::vector<float> alone((size_t) n_rows * columns, NAN);
    Errors errors;
    for (int r = 0; r < n_rows; r++) {
        multiply_alone(type, matrix, n_in, &x[(size_t) r * n_in], &alone[(size_t) r * columns], errors);
    }
    std::printf("%s %d %d %g %g\n", type.name, n_in, columns, errors.error, errors.scale);
    Bytes buffer;
    for (const int n : batches) {
        std::vector<float> result((size_t) n * columns, NAN);
        buffer.assign(Activations::bytes(type.coding, n_in, n), 0xff);
        const Activations activations(buffer.data(), type.coding, n_in, n);
        const int n_shares = 1 + n % 5;
        for (int i = 0; i < n_shares; i++) {
            activations.encode(x.data(), n_in * sizeof(float), i, n_shares);
        }
        const int middle = columns / 2 / 8 * 8;
        multiply(type.kernel, matrix.weights.data(), activations, result.data(), columns, 0, middle);
        multiply(type.kernel, matrix.weights.data(), activations, result.data(), columns, middle, columns);
        if (std::memcmp(alone.data(), result.data(), result.size() * sizeof(float)) != 0) {
            std::printf("a row of %d is not equal to that row alone\n", n);
            return false;
        }
    }
    return true;
}

enum class Routing { random, all_to_one, most_to_one };

// Experts that get all rows, most of them, and none; a row of activations for each pair, and one for all of a token.
static bool check_experts(const Type & type, Routing routing, int n_tokens, int n_used, int n_rows) {
    constexpr int kExperts = 6, kColumns = 24;
    const int n_in = type.size == 32 ? 96 : 256, n_pairs = n_tokens * n_used;
    std::vector<Matrix> matrices;
    Bytes weights;
    for (int e = 0; e < kExperts; e++) {
        matrices.emplace_back(type, n_in, kColumns);
        weights.insert(weights.end(), matrices[e].weights.begin(), matrices[e].weights.end());
    }
    const int step = 2, stride = n_used * step + 3;
    std::vector<int32_t> ids((size_t) n_tokens * stride, -1);
    for (int pair = 0; pair < n_pairs; pair++) {
        const bool to_last = routing == Routing::all_to_one || (routing == Routing::most_to_one && pair != n_pairs / 2);
        ids[pair / n_used * stride + pair % n_used * step] = to_last ? kExperts - 1 : (int) (random_bits() % kExperts);
    }
    const std::vector<float> x = random_rows(n_tokens * n_rows, n_in);
    const Pairs pairs{ kExperts, n_used, n_tokens, n_rows, (const char *) ids.data(), step * 4, (size_t) stride * 4 };
    Bytes buffer(ExpertRows::bytes(type.coding, n_in, pairs), 0xff);
    const ExpertRows rows(buffer.data(), type.coding, n_in, pairs);
    bool right = rows.sort();
    for (int i = 0; i < 3; i++) {
        rows.encode(x.data(), n_in * sizeof(float), i, 3);
    }
    std::vector<float> result((size_t) n_pairs * kColumns, NAN), alone(kColumns);
    for (int i = 0; i < (int) rows.n_active(); i++) {
        rows.multiply(type.kernel, weights.data(), matrices[0].weights.size(), i, result.data(), kColumns, 0, 16);
        rows.multiply(type.kernel, weights.data(), matrices[0].weights.size(), i, result.data(), kColumns, 16,
                      kColumns);
    }
    Errors errors;
    for (int pair = 0; pair < n_pairs; pair++) {
        const int token = pair / n_used, i = pair % n_used;
        const Matrix & matrix = matrices[ids[token * stride + i * step]];
        multiply_alone(type, matrix, n_in, &x[(size_t) (token * n_rows + i % n_rows) * n_in], alone.data(), errors);
        right = right && std::memcmp(alone.data(), &result[(size_t) pair * kColumns], kColumns * sizeof(float)) == 0;
    }
    std::printf("experts:%s %d %d %g %g\n", type.name, n_in, kColumns, errors.error, errors.scale);
    ids[(n_tokens - 1) * stride] = kExperts;
    return right && !rows.sort();
}

static bool check_experts(const Type & type) {
    for (const Routing routing : { Routing::random, Routing::all_to_one, Routing::most_to_one }) {
        if (!check_experts(type, routing, 1, 3, 1) || !check_experts(type, routing, 4, 2, 2) ||
            !check_experts(type, routing, 41, 3, 1)) {
            std::printf("a row of experts is not equal to that row alone\n");
            return false;
        }
    }
    return true;
}

int main() {
    for (const Type & type : types) {
        if (!check_experts(type)) {
            return 1;
        }
        for (int n_in : { 32, 96, 256, 1536, 12288 }) {
            for (int columns : { 8, 24, 64, 37 }) {
                if (n_in % type.size == 0 && columns % type.lanes == 0 && !check(type, n_in, columns)) {
                    return 1;
                }
            }
        }
    }
    return 0;
}

#else

int main() { return 77; }

#endif
