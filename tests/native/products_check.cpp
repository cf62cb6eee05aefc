// Compares the product kernels with float64 products of weights dequantised here, value by value, and quantised
// activations, and every row with the same row alone, bit for bit. Prints "type n_in columns rows error scale" a case;
// exits with 77 without kernels.
#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"
#include "kernels/products/cpu/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

using namespace pmtp::cpu;
using namespace pmtp::products;

#ifdef PMTP_SIMD

using Bytes = std::vector<uint8_t>;

static std::mt19937 random_bits(1);

static double half_at(const uint8_t * p) { return half_to_float(load_as<uint16_t>(p)); }

// Weight `i` of block `block`, weight row `lane` of it.
static double q4_0(const uint8_t * block, int lane, int i) {
    const uint8_t byte = block[16 + i % 16 / 8 * 64 + lane * 8 + i % 8] ^ 0x88;  // as ggml repacks it
    return half_at(block + 2 * lane) * ((i < 16 ? byte & 15 : byte >> 4) - 8);
}
static double q4_K(const uint8_t * block, int lane, int i) {
    const int s = i / 32;
    const uint8_t * packed = block + 32 + 12 * s;
    const uint8_t low = packed[lane % 4], min_low = packed[4 + lane % 4], high = packed[8 + lane % 4];
    const int scale = lane < 4 ? low & 63 : (high & 15) | (low >> 6) << 4;
    const int min = lane < 4 ? min_low & 63 : high >> 4 | (min_low >> 6) << 4;
    const uint8_t byte = block[128 + (s / 2 * 4 + i % 32 / 8) * 64 + lane * 8 + i % 8];
    return half_at(block + 2 * lane) * scale * (s % 2 == 0 ? byte & 15 : byte >> 4) -
           half_at(block + 16 + 2 * lane) * min;
}
static double q8_0_value(const uint8_t * block, int, int i) { return half_at(block) * (int8_t) block[2 + i]; }
static double q6_K_value(const uint8_t * block, int, int i) {
    const int half = i / 128, l = i % 64, quarter = i % 128 / 32;
    const uint8_t low = block[64 * half + l], high = block[128 + 32 * half + i % 32];
    const int q = (quarter < 2 ? low & 15 : low >> 4) | (high >> (2 * quarter) & 3) << 4;
    return half_at(block + 208) * (int8_t) block[192 + i / 16] * (q - 32);
}

struct Type {
    const char * name;
    Kernel (*kernel)(int);
    Block block;
    int lanes, bytes;         // weight rows and bytes of a block
    int halves_at, n_halves;  // where the f16 scales are: random bytes could be infinite
    double (*value)(const uint8_t *, int, int);
};

static const Type types[] = {
    { "q4_0", q4_0_8x8, Block::k32, 8, 144, 0, 8, q4_0 },
    { "q4_K", q4_K_8x8, Block::k256, 8, 1152, 0, 16, q4_K },
    { "q8_0", q8_0, Block::k32, 1, 34, 0, 1, q8_0_value },
    { "q6_K", q6_K, Block::k256, 1, 210, 208, 1, q6_K_value },
};

static bool check(const Type & type, int n_in, int columns) {
    const int size = (int) type.block, n_blocks = n_in / size;
    Bytes weights((size_t) columns / type.lanes * n_blocks * type.bytes);
    for (uint8_t & byte : weights) {
        byte = (uint8_t) random_bits();
    }
    for (size_t block = 0; block < weights.size(); block += type.bytes) {
        for (int i = 0; i < type.n_halves; i++) {
            const uint16_t half = _cvtss_sh(0.001f * (1 + random_bits() % 50), 0);
            std::memcpy(&weights[block + type.halves_at + 2 * i], &half, 2);
        }
    }
    std::normal_distribution<float> normal;
    std::vector<float> x((size_t) kMaxRows * n_in);
    for (float & value : x) {
        value = normal(random_bits);
    }
    if (n_blocks > 1) {
        std::fill_n(x.begin(), size, 0.0f);  // a block of zeros has no scale
    }
    Bytes buffer(Activations::bytes(type.block, n_in, kMaxRows), 0xff);
    const Activations activations(buffer.data(), type.block, n_in);
    std::vector<float> alone((size_t) kMaxRows * columns, NAN);
    std::vector<double> exact((size_t) kMaxRows * columns);
    for (int r = 0; r < kMaxRows; r++) {
        activations.quantize(&x[(size_t) r * n_in], r, 0, n_blocks / 2);
        activations.quantize(&x[(size_t) r * n_in], r, n_blocks / 2, n_blocks);
        const Row row = activations.row(r, &alone[(size_t) r * columns]);
        type.kernel(1)(weights.data(), n_in, &row, 0, columns);
        for (int c = 0; c < columns; c++) {
            for (int i = 0; i < n_in; i++) {
                const uint8_t * block = &weights[((size_t) c / type.lanes * n_blocks + i / size) * type.bytes];
                exact[r * columns + c] +=
                    type.value(block, c % type.lanes, i % size) * row.values[i] * row.scales[i / size];
            }
        }
    }
    for (int n = 1; n <= kMaxRows; n++) {
        std::vector<float> result((size_t) n * columns, NAN);
        Row rows[kMaxRows];
        for (int r = 0; r < n; r++) {
            rows[r] = activations.row(r, &result[(size_t) r * columns]);
        }
        const int middle = columns / 2 / 8 * 8;
        type.kernel(n)(weights.data(), n_in, rows, 0, middle);
        type.kernel(n)(weights.data(), n_in, rows, middle, columns);
        double error = 0, scale = 0;
        for (size_t i = 0; i < result.size(); i++) {
            error = std::isnan(result[i]) ? INFINITY : std::max(error, std::fabs(exact[i] - result[i]));
            scale = std::max(scale, std::fabs(exact[i]));
        }
        std::printf("%s %d %d %d %g %g\n", type.name, n_in, columns, n, error, scale);
        if (std::memcmp(alone.data(), result.data(), result.size() * sizeof(float)) != 0) {
            std::printf("a row of %d is not equal to that row alone\n", n);
            return false;
        }
    }
    return true;
}

int main() {
    for (const Type & type : types) {
        for (int n_in : { 32, 96, 256, 1536, 12288 }) {
            for (int columns : { 8, 24, 64, 37 }) {
                if (n_in % (int) type.block == 0 && columns % type.lanes == 0 && !check(type, n_in, columns)) {
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
