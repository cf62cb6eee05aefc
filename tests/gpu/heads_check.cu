// Compares the kernels of csrc/kernels/rows/cuda/heads.cu with loops in double precision, and the blocks that they
// write with those of the codecs for the floats that they give back. Built and run by test_kernels.py.
#include "device.cuh"
#include "kernels/rows/cuda/heads.cuh"
#include "quantised.cuh"

#include <cuda_bf16.h>

#include <cstring>
#include <random>

namespace {

int failures = 0;

void expect(bool condition, const char * what, int n, int n_rows, int kind) {
    if (!condition) {
        printf("%s: %d rows of heads of %d, kind %d\n", what, n_rows, n, kind);
        failures++;
    }
}

std::vector<float> draw(size_t n, std::mt19937 & random) {
    std::normal_distribution<float> normal(0, 3);
    std::vector<float> x(n);
    for (float & v : x) {
        v = normal(random);
    }
    return x;
}

std::vector<float> draw_signs(int n, std::mt19937 & random) {
    std::vector<float> signs(n);
    for (float & s : signs) {
        s = random() % 2 ? 0.125f : -0.125f;
    }
    return signs;
}

// R x of each `size` values.
void rotate(std::vector<double> & x, int size, const std::vector<float> & signs) {
    for (size_t begin = 0; begin < x.size(); begin += size) {
        std::vector<double> y(size, 0.0);
        for (int i = 0; i < size; i++) {
            for (int j = 0; j < size; j++) {
                const int negative = __builtin_popcount(i & j) + (signs[i] < 0) + (signs[j] < 0);
                y[i] += (negative % 2 ? -1 : 1) * x[begin + j];
            }
        }
        for (int i = 0; i < size; i++) {
            x[begin + i] = y[i] / std::sqrt((double) size);
        }
    }
}

constexpr float kBase = 10000.0f;
constexpr float kEps = 1e-5f;

struct Case {
    int n, n_heads, n_rows;
    bool norms, weighs, turns, factors;
    int rotation;
    bool signs;
};

struct Inputs {
    std::vector<float> x, weight, factors, signs;
    std::vector<int32_t> positions;
};

Inputs draw_inputs(const Case & c, std::mt19937 & random) {
    Inputs in;
    in.x = draw((size_t) c.n * c.n_heads * c.n_rows, random);
    in.weight = draw(c.n, random);
    for (int i = 0; i < c.n / 2; i++) {
        in.factors.push_back(c.factors ? (i % 4 == 3 ? 1e30f : 1.0f + i % 3) : 1.0f);
    }
    in.signs = c.signs ? draw_signs(c.n, random) : std::vector<float>(c.n, 1.0f);
    for (int i = 0; i < c.n_rows; i++) {
        in.positions.push_back((int32_t) (random() % 500));
    }
    return in;
}

std::vector<double> expected(const Case & c, const Inputs & in) {
    std::vector<double> out;
    for (int i = 0; i < c.n_heads * c.n_rows; i++) {
        std::vector<double> v(in.x.begin() + (size_t) i * c.n, in.x.begin() + (size_t) (i + 1) * c.n);
        double squares = 0.0;
        for (double x : v) {
            squares += x * x;
        }
        for (int j = 0; j < c.n; j++) {
            v[j] *= (c.norms ? 1.0 / std::sqrt(squares / c.n + kEps) : 1.0) * (c.weighs ? in.weight[j] : 1.0);
        }
        for (int j = 0; c.turns && j < c.n / 2; j++) {
            const double angle = in.positions[i / c.n_heads] * std::pow((double) kBase, -2.0 * j / c.n) / in.factors[j];
            const double a = v[j], b = v[j + c.n / 2];
            v[j] = a * std::cos(angle) - b * std::sin(angle);
            v[j + c.n / 2] = a * std::sin(angle) + b * std::cos(angle);
        }
        if (c.rotation > 0) {
            rotate(v, c.rotation, in.signs);
        }
        out.insert(out.end(), v.begin(), v.end());
    }
    return out;
}

// What device pointers point to.
struct OnDevice {
    explicit OnDevice(const Inputs & in)
        : x(in.x),
          weight(in.weight),
          factors(in.factors),
          signs(in.signs),
          positions(in.positions) {}

    Heads heads(const Case & c) const {
        Heads h;
        h.x = x.get();
        h.n_heads = c.n_heads;
        h.norms = c.norms;
        h.eps = kEps;
        h.weight = c.weighs ? weight.get() : nullptr;
        h.turns = c.turns;
        h.rotation = c.rotation;
        h.signs = c.signs ? signs.get() : nullptr;
        return h;
    }
    Turn turn(const Case & c) const {
        Turn t;
        t.positions = positions.get();
        t.factors = c.factors ? factors.get() : nullptr;
        t.log2_base = (float) (-2.0 / c.n * std::log2(kBase));
        return t;
    }

    DeviceArray<float> x, weight, factors, signs;
    DeviceArray<int32_t> positions;
};

HeadsOp op_of(const Case & c, const OnDevice & in) {
    HeadsOp op;
    op.n_kinds = 1;
    op.n_rows = c.n_rows;
    op.turn = in.turn(c);
    op.kinds[0] = in.heads(c);
    return op;
}

std::vector<float> run(const Case & c, const OnDevice & in) {
    const DeviceArray<float> out((size_t) c.n * c.n_heads * c.n_rows);
    HeadsOp op = op_of(c, in);
    op.kinds[0].out = out.get();
    pmtp_cuda_finish_heads(op, c.n, nullptr);
    return out.host();
}

void check_values(const Case & c, const Inputs & in, const std::vector<float> & found) {
    const std::vector<double> right = expected(c, in);
    double worst = 0.0;
    for (size_t i = 0; i < right.size(); i++) {
        const double error = std::abs(found[i] - right[i]) / (1.0 + std::abs(right[i]));
        worst = error <= worst ? worst : error;  // keeps NaN
    }
    // an angle of 500 in 24 bits
    if (!(worst < (c.turns ? 3e-4 : 1e-5))) {
        printf("heads of %d, %d a row, %d rows: error %g\n", c.n, c.n_heads, c.n_rows, worst);
        failures++;
    }
}

int cell_block(CellType type) {
    switch (type) {
        case CellType::q8_0: return 34;
        case CellType::q4_0: return 18;
        case CellType::turbo4: return sizeof(block_turbo4);
        case CellType::turbo3: return sizeof(block_turbo3);
        case CellType::turbo2: return sizeof(block_turbo2);
        default: return 2;
    }
}

int values_of_block(CellType type) {
    return type == CellType::f16 || type == CellType::bf16    ? 1
           : type == CellType::q8_0 || type == CellType::q4_0 ? 32
                                                              : TURBO_BLOCK;
}

void encode(CellType type, turbo_role role, const float * x, uint8_t * block) {
    if (type == CellType::f16) {
        const half h = __float2half_rn(*x);
        std::memcpy(block, &h, sizeof(h));
    } else if (type == CellType::bf16) {
        const nv_bfloat16 h = __float2bfloat16_rn(*x);
        std::memcpy(block, &h, sizeof(h));
    } else if (type == CellType::q8_0 || type == CellType::q4_0) {
        float largest = 0.0f, signed_largest = 0.0f;
        for (int i = 0; i < 32; i++) {
            if (std::abs(x[i]) > largest) {
                largest = std::abs(x[i]);
                signed_largest = x[i];
            }
        }
        const float scale = type == CellType::q8_0 ? largest / 127 : signed_largest / -8;
        const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
        const half h = __float2half_rn(scale);
        std::memcpy(block, &h, sizeof(h));
        for (int i = 0; i < 32; i++) {
            if (type == CellType::q8_0) {
                block[2 + i] = (uint8_t) (int8_t) std::round(x[i] * inverse);
            } else {
                const int quant = std::min(15, (int) (int8_t) (x[i] * inverse + 8.5f));
                block[2 + i % 16] = (uint8_t) (i < 16 ? quant : block[2 + i % 16] | quant << 4);
            }
        }
    } else {
        turbo_encode_ref(type == CellType::turbo4 ? 4 : type == CellType::turbo3 ? 3 : 2, role, x, block, TURBO_BLOCK);
    }
}

void check_cells(const Case & c, const Inputs & in, const OnDevice & device, const std::vector<float> & values) {
    std::vector<int64_t> wide;
    for (int i = 0; i < c.n_rows; i++) {
        wide.push_back((i * 7 + 3) % (c.n_rows + 7));
    }
    const std::vector<int32_t> narrow(wide.begin(), wide.end());
    const DeviceArray<int64_t> device_wide(wide);
    const DeviceArray<int32_t> device_narrow(narrow);
    const CellType types[] = { CellType::f16,    CellType::bf16,   CellType::q8_0,  CellType::q4_0,
                               CellType::turbo4, CellType::turbo3, CellType::turbo2 };
    for (const CellType type : types) {
        const int n_values = values_of_block(type);
        const size_t row_bytes = (size_t) c.n * c.n_heads / n_values * cell_block(type), cell_bytes = row_bytes + 32;
        const turbo_role role = type == CellType::turbo3 ? TURBO_VALUE : TURBO_KEY;
        std::vector<uint8_t> right(cell_bytes * (c.n_rows + 7), 0x5a);
        for (int row = 0; row < c.n_rows; row++) {
            for (size_t b = 0; b < row_bytes / cell_block(type); b++) {
                encode(type, role, &values[(size_t) row * c.n * c.n_heads + b * n_values],
                       &right[wide[row] * cell_bytes + b * cell_block(type)]);
            }
        }
        const DeviceArray<uint8_t> cells(right.size());
        HeadsOp op = op_of(c, device);
        CellRows & to = op.kinds[0].cells;
        to.data = (char *) cells.get();
        to.type = type;
        to.role = role;
        to.cell_bytes = (int64_t) cell_bytes;
        to.wide = type == CellType::q8_0 || type == CellType::turbo4;
        to.numbers = to.wide ? (const char *) device_wide.get() : (const char *) device_narrow.get();
        pmtp_cuda_finish_heads(op, c.n, nullptr);
        expect(cells.host() == right, "cells", c.n, c.n_rows, (int) type);
    }
}

// Three kinds in one launch have the bits that each has alone, and a row those that it has alone; also in place.
void check_together(int n, int n_rows, std::mt19937 & random) {
    const Case cases[] = { { n, 4, n_rows, true, true, true, true, n, true },
                           { n, 2, n_rows, true, true, true, true, n, true },
                           { n, 2, n_rows, true, false, false, false, 64, false } };
    std::vector<Inputs> in;
    for (const Case & c : cases) {
        in.push_back(draw_inputs(c, random));
        in.back().factors = in[0].factors;
        in.back().positions = in[0].positions;
    }
    const OnDevice a(in[0]), b(in[1]), c(in[2]);
    const OnDevice * all[] = { &a, &b, &c };
    std::vector<float> alone[3];
    HeadsOp op = op_of(cases[0], a);
    op.n_kinds = 3;
    for (int i = 0; i < 3; i++) {
        alone[i] = run(cases[i], *all[i]);
        op.kinds[i] = all[i]->heads(cases[i]);
        op.kinds[i].out = all[i]->x.get();
    }
    Case one = cases[0];
    one.n_rows = 1;
    Inputs last = in[0];
    last.x.assign(in[0].x.end() - (size_t) n * 4, in[0].x.end());
    last.positions.assign(1, in[0].positions.back());
    const std::vector<float> row = run(one, OnDevice(last));
    expect(std::equal(row.begin(), row.end(), alone[0].end() - (ptrdiff_t) row.size()), "a row alone", n, n_rows, 0);
    pmtp_cuda_finish_heads(op, n, nullptr);
    check(cudaDeviceSynchronize());
    for (int i = 0; i < 3; i++) {
        expect(all[i]->x.host() == alone[i], "together", n, n_rows, i);
    }
}

// Queries, and the blocks of keys and values, of one launch: those of the floats that each kind gives alone.
void check_written_together(int n, int n_rows, std::mt19937 & random) {
    const Case cases[] = { { n, 3, n_rows, true, true, true, false, n, true },
                           { n, 1, n_rows, true, true, true, false, n, true },
                           { n, 2, n_rows, true, false, false, false, 64, true } };
    const CellType types[] = { CellType::f16, CellType::turbo4, CellType::turbo3 };
    std::vector<int32_t> numbers;
    for (int i = 0; i < n_rows; i++) {
        numbers.push_back(n_rows - 1 - i);
    }
    const DeviceArray<int32_t> device_numbers(numbers);
    std::vector<Inputs> in;
    for (const Case & c : cases) {
        in.push_back(draw_inputs(c, random));
        in.back().positions = in[0].positions;
    }
    const OnDevice q(in[0]), k(in[1]), v(in[2]);
    const OnDevice * all[] = { &q, &k, &v };
    const size_t bytes[] = { 0, (size_t) n / 64 * sizeof(block_turbo4), (size_t) n / 64 * 2 * sizeof(block_turbo3) };
    const DeviceArray<uint8_t> keys(bytes[1] * n_rows), values(bytes[2] * n_rows);
    const DeviceArray<uint8_t> * cells[] = { nullptr, &keys, &values };
    const DeviceArray<float> out((size_t) n * 3 * n_rows);
    HeadsOp op = op_of(cases[0], q);
    op.n_kinds = 3;
    for (int i = 0; i < 3; i++) {
        op.kinds[i] = all[i]->heads(cases[i]);
        if (i == 0) {
            op.kinds[i].out = out.get();
        } else {
            op.kinds[i].cells = { (char *) cells[i]->get(),
                                  types[i],
                                  i == 1 ? TURBO_KEY : TURBO_VALUE,
                                  (int64_t) bytes[i],
                                  (const char *) device_numbers.get(),
                                  false };
        }
    }
    pmtp_cuda_finish_heads(op, n, nullptr);
    check(cudaDeviceSynchronize());
    expect(out.host() == run(cases[0], q), "written together", n, n_rows, 0);
    for (const int i : { 1, 2 }) {
        const std::vector<float> alone = run(cases[i], *all[i]);
        const size_t row = alone.size() / n_rows;
        std::vector<uint8_t> right(bytes[i] * n_rows);
        for (int j = 0; j < n_rows; j++) {
            for (size_t b = 0; b < row / TURBO_BLOCK; b++) {
                encode(types[i], i == 1 ? TURBO_KEY : TURBO_VALUE, &alone[j * row + b * TURBO_BLOCK],
                       &right[numbers[j] * bytes[i] + b * cell_block(types[i])]);
            }
        }
        expect(cells[i]->host() == right, "written together", n, n_rows, i);
    }
}

void check_rotate_rows(int size, int n, int n_rows, bool has_signs, std::mt19937 & random) {
    const std::vector<float> x = draw((size_t) n * n_rows, random),
                             signs = has_signs ? draw_signs(size, random) : std::vector<float>(size, 1.0f);
    const DeviceArray<float> device_x(x), device_signs(signs);
    const DeviceArray<PmtpQ8Block> blocks(pmtp_all_blocks(n, n_rows));
    pmtp_cuda_rotate_rows(device_x.get(), has_signs ? device_signs.get() : nullptr, size, device_x.get(), blocks.get(),
                          n, n_rows, nullptr);
    check(cudaDeviceSynchronize());
    const std::vector<float> found = device_x.host();
    std::vector<double> right(x.begin(), x.end());
    rotate(right, size, signs);
    double worst = 0.0;
    for (size_t i = 0; i < right.size(); i++) {
        const double error = std::abs(found[i] - right[i]);
        worst = error <= worst ? worst : error;
    }
    expect(worst < 2e-5, "rotated rows", size, n_rows, n);
    failures += !is_quantised("rotated", n, n_rows, blocks.host(), found);
}

}  // namespace

int main(int argc, char ** argv) {
    const bool small = argc > 1 && std::strcmp(argv[1], "small") == 0;
    std::mt19937 random(5);
    for (const int n : small ? std::vector<int>{ 64, 512 } : std::vector<int>{ 64, 128, 256, 512 }) {
        for (const int n_rows : small ? std::vector<int>{ 3 } : std::vector<int>{ 1, 4, 33 }) {
            for (int kind = 0; kind < (small ? 4 : 16); kind++) {
                const Case c = { n,
                                 1 + kind % 3,
                                 n_rows,
                                 (kind & 3) != 0,
                                 (kind & 3) > 1,
                                 (kind & 1) != 0,
                                 (kind & 4) != 0,
                                 (kind & 8) != 0   ? n
                                 : (kind & 2) != 0 ? 64
                                                   : 0,
                                 (kind & 4) == 0 };
                const Inputs in = draw_inputs(c, random);
                const OnDevice device(in);
                const std::vector<float> values = run(c, device);
                check_values(c, in, values);
                check_cells(c, in, device, values);
            }
            check_together(n, n_rows, random);
            check_written_together(n, n_rows, random);
        }
        for (const int n_rows : { 1, 5, 20 }) {
            check_rotate_rows(n, 2 * n, n_rows, n_rows != 5, random);
        }
    }
    if (failures == 0) {
        printf("ok\n");
    }
    return failures != 0;
}
