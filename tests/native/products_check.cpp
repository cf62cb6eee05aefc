// Compares the product kernels with float64 products of weights dequantised here, value by value, and activations as
// they are coded, and every row in batches of many sizes with the same row alone, bit for bit. Prints "type n_in
// columns error scale" a case; exits with 77 without kernels.
#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"
#include "kernels/products/cpu/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
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

static double q5_0_value(const uint8_t * block, int, int i) {
    const uint8_t byte = block[6 + i % 16];
    const int high = load_as<uint32_t>(block + 2) >> i & 1;
    return half_at(block) * ((i < 16 ? byte & 15 : byte >> 4) + 16 * high - 16);
}
static double q5_K_value(const uint8_t * block, int, int i) {
    const int s = i / 32, l = i % 32;
    const uint8_t * packed = block + 4;
    const int scale = s < 4 ? packed[s] & 63 : (packed[s + 4] & 15) | packed[s - 4] >> 6 << 4;
    const int min = s < 4 ? packed[s + 4] & 63 : packed[s + 4] >> 4 | packed[s] >> 6 << 4;
    const uint8_t byte = block[48 + s / 2 * 32 + l];
    const int q = (s % 2 == 0 ? byte & 15 : byte >> 4) + 16 * (block[16 + l] >> s & 1);
    return half_at(block) * scale * q - half_at(block + 2) * min;
}
static double q3_K_value(const uint8_t * block, int, int i) {
    const int s = i / 16, l = i % 32, half = i / 128, quarter = i % 128 / 32;
    const uint8_t * packed = block + 96;
    const int low = s < 8 ? packed[s] & 15 : packed[s - 8] >> 4;
    const int scale = (low | (packed[8 + s % 4] >> (2 * (s / 4)) & 3) << 4) - 32;
    const int q = (block[32 + 32 * half + l] >> (2 * quarter) & 3) + 4 * (block[l] >> (i / 32) & 1);
    return half_at(block + 108) * scale * (q - 4);
}
static const int iq4_values[] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };
static double iq4_nl_value(const uint8_t * block, int, int i) {
    const uint8_t byte = block[2 + i % 16];
    return half_at(block) * iq4_values[i < 16 ? byte & 15 : byte >> 4];
}
static double iq4_nl_8x8_value(const uint8_t * block, int lane, int i) {
    const uint8_t byte = block[16 + i % 16 / 8 * 64 + lane * 8 + i % 8];
    return half_at(block + 2 * lane) * iq4_values[i < 16 ? byte & 15 : byte >> 4];
}
static double iq4_xs_value(const uint8_t * block, int, int i) {
    const int s = i / 32;
    const int low = block[4 + s / 2] >> (4 * (s % 2)) & 15, high = load_as<uint16_t>(block + 2) >> (2 * s) & 3;
    const uint8_t byte = block[8 + 16 * s + i % 16];
    return half_at(block) * ((low | high << 4) - 32) * iq4_values[i % 32 < 16 ? byte & 15 : byte >> 4];
}

static double f32_value(const uint8_t * block, int, int i) { return load_as<float>(block + 4 * i); }
static double f16_value(const uint8_t * block, int, int i) { return half_at(block + 2 * i); }
static double bf16_value(const uint8_t * block, int, int i) {
    const uint32_t bits = (uint32_t) load_as<uint16_t>(block + 2 * i) << 16;
    return load_as<float>(&bits);
}

// What is a number in a block: random bytes could be infinite.
enum class Number { half, single, bfloat };

struct Type {
    const char * name;
    Kernel kernel;
    Coding coding;
    int size, lanes, bytes;  // values of a weight row, weight rows and bytes in a block
    Number number;
    int numbers_at, n_numbers;
    double (*value)(const uint8_t *, int, int);
};

static const Type types[] = {
    { "q4_0", q4_0_8x8, Coding::zero_point, 32, 8, 144, Number::half, 0, 8, q4_0 },
    { "q4_K", q4_K_8x8, Coding::super, 256, 8, 1152, Number::half, 0, 16, q4_K },
    { "q8_0", q8_0, Coding::plain, 32, 1, 34, Number::half, 0, 1, q8_0_value },
    { "q6_K", q6_K, Coding::super, 256, 1, 210, Number::half, 208, 1, q6_K_value },
    { "q5_0", q5_0, Coding::plain, 32, 1, 22, Number::half, 0, 1, q5_0_value },
    { "q5_K", q5_K, Coding::super, 256, 1, 176, Number::half, 0, 2, q5_K_value },
    { "q3_K", q3_K, Coding::super, 256, 1, 110, Number::half, 108, 1, q3_K_value },
    { "iq4_nl", iq4_nl, Coding::plain, 32, 1, 18, Number::half, 0, 1, iq4_nl_value },
    { "iq4_nl_8x8", iq4_nl_8x8, Coding::zero_point, 32, 8, 144, Number::half, 0, 8, iq4_nl_8x8_value },
    { "iq4_xs", iq4_xs, Coding::super, 256, 1, 136, Number::half, 0, 1, iq4_xs_value },
    { "f32", f32, Coding::floats, 32, 1, 128, Number::single, 0, 32, f32_value },
    { "f16", f16, Coding::floats, 32, 1, 64, Number::half, 0, 32, f16_value },
    { "bf16", bf16, Coding::floats, 32, 1, 64, Number::bfloat, 0, 32, bf16_value },
};

static Bytes random_weights(const Type & type, int n_blocks) {
    Bytes weights((size_t) n_blocks * type.bytes);
    for (uint8_t & byte : weights) {
        byte = (uint8_t) random_bits();
    }
    for (size_t block = 0; block < weights.size(); block += type.bytes) {
        for (int i = 0; i < type.n_numbers; i++) {
            const float number = 0.001f * (1 + random_bits() % 50) * (type.size == 32 && random_bits() % 2 ? -1 : 1);
            const uint16_t half = _cvtss_sh(number, 0), bfloat = (uint16_t) (load_as<uint32_t>(&number) >> 16);
            uint8_t * at = &weights[block + type.numbers_at];
            switch (type.number) {
                case Number::half: std::memcpy(at + 2 * i, &half, 2); break;
                case Number::single: std::memcpy(at + 4 * i, &number, 4); break;
                case Number::bfloat: std::memcpy(at + 2 * i, &bfloat, 2); break;
            }
        }
    }
    return weights;
}

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

static bool check(const Type & type, int n_in, int columns) {
    const int n_blocks = n_in / type.size;
    const Bytes weights = random_weights(type, columns / type.lanes * n_blocks);
    std::vector<double> values((size_t) columns * n_in);
    for (int c = 0; c < columns; c++) {
        for (int i = 0; i < n_in; i++) {
            const uint8_t * block = &weights[((size_t) c / type.lanes * n_blocks + i / type.size) * type.bytes];
            values[(size_t) c * n_in + i] = type.value(block, c % type.lanes, i % type.size);
        }
    }
    std::vector<int> batches(70);
    std::iota(batches.begin(), batches.end(), 1);
    if (n_in <= 1536) {
        batches.insert(batches.end(), { 71, 72, 73, 128, 512 });
    }
    const int n_rows = batches.back();
    std::normal_distribution<float> normal;
    std::vector<float> x((size_t) n_rows * n_in);
    for (float & value : x) {
        value = normal(random_bits);
    }
    if (n_blocks > 1) {
        std::fill_n(x.begin(), type.size, 0.0f);  // a block of zeros has no scale
    }
    std::vector<float> alone((size_t) n_rows * columns, NAN);
    Bytes buffer(Activations::bytes(type.coding, n_in, 1), 0xff);
    double error = 0, scale = 0;
    for (int r = 0; r < n_rows; r++) {
        const Activations activations(buffer.data(), type.coding, n_in, 1);
        activations.encode(&x[(size_t) r * n_in], 0, 0, 2);
        activations.encode(&x[(size_t) r * n_in], 0, 1, 2);
        multiply(type.kernel, weights.data(), activations, &alone[(size_t) r * columns], columns, 0, columns);
        const Tile tile = activations.tile(0, nullptr, 0);
        std::vector<double> row(n_in);
        for (int i = 0; i < n_in; i++) {
            row[i] = coded_value(type, tile, i);
        }
        for (int c = 0; c < columns; c++) {
            const double exact = std::inner_product(row.begin(), row.end(), &values[(size_t) c * n_in], 0.0);
            const float found = alone[(size_t) r * columns + c];
            error = std::isnan(found) ? INFINITY : std::max(error, std::fabs(exact - found));
            scale = std::max(scale, std::fabs(exact));
        }
    }
    std::printf("%s %d %d %g %g\n", type.name, n_in, columns, error, scale);
    for (const int n : batches) {
        std::vector<float> result((size_t) n * columns, NAN);
        buffer.assign(Activations::bytes(type.coding, n_in, n), 0xff);
        const Activations activations(buffer.data(), type.coding, n_in, n);
        const int n_shares = 1 + n % 5;
        for (int i = 0; i < n_shares; i++) {
            activations.encode(x.data(), n_in * sizeof(float), i, n_shares);
        }
        const int middle = columns / 2 / 8 * 8;
        multiply(type.kernel, weights.data(), activations, result.data(), columns, 0, middle);
        multiply(type.kernel, weights.data(), activations, result.data(), columns, middle, columns);
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
