// Compares the kernels of csrc/kernels/attention/cuda with sums in double precision over the same values, and a row's
// bits alone with those that it has beside others, and with its pages at other places. Built and run by
// test_kernels.py.
#include "cache_cells.cuh"
#include "device.cuh"
#include "kernels/attention/cuda/attention.cuh"
#include "kernels/attention/device_table.h"
#include "kernels/rows/cuda/row_ops.cuh"

#include <algorithm>
#include <atomic>
#include <functional>
#include <numeric>
#include <random>
#include <thread>

namespace {

namespace cuda = pmtp::attention::cuda;

constexpr int kPage = 64;
constexpr int kWindow = 100;

std::atomic<int> failures = 0;

// What a row sees.
enum class Mask {
    none,     // everything, without a mask
    causal,   // all up to its own cell
    window,   // the last kWindow of these
    holes,    // cells and whole pages are missing, and what is seen has a bias
    two,      // the first rows one sequence, the others another, whose pages alternate
    shared,   // likewise, but the first half of the pages is both's
    nothing,  // row 1: nothing
};

struct Case {
    int head_size, n_kv_heads, group, n_rows, n_cells;
    Format k, v;
    Mask mask = Mask::causal;
    bool sinks = false;
    float softcap = 0.0f;
    int n_batches = 1;
};

int n_pages_of(int n_cells) { return (n_cells + kPage - 1) / kPage; }

int sequence_of(const Case & c, int row) {
    return (c.mask == Mask::two || c.mask == Mask::shared) && row >= c.n_rows / 2;
}

bool is_page_of(const Case & c, int page, int sequence) {
    return (c.mask != Mask::two && c.mask != Mask::shared) || page % 2 == sequence ||
           (c.mask == Mask::shared && page < n_pages_of(c.n_cells) / 2);
}

float bias_of(const Case & c, int row, int cell) {
    const int own = c.n_cells - c.n_rows + row;
    switch (c.mask) {
        case Mask::none: return 0.0f;
        case Mask::window: return cell > own || cell <= own - kWindow ? -INFINITY : 0.0f;
        case Mask::holes:
            return cell / kPage % 3 == 1 || (cell * 7 + row) % 5 == 0 ? -INFINITY : 0.25f * (float) ((cell + row) % 9);
        case Mask::two:
        case Mask::shared: return !is_page_of(c, cell / kPage, sequence_of(c, row)) || cell > own ? -INFINITY : 0.0f;
        case Mask::nothing: return row == 1 || cell > own ? -INFINITY : 0.0f;
        default: return cell > own ? -INFINITY : 0.0f;
    }
}

struct Inputs {
    std::vector<float> q;        // [batches][heads][rows][head size]
    std::vector<uint16_t> mask;  // [rows][cells]
    std::vector<float> sinks;    // [heads]
    DrawnCells k, v;             // of one batch after another

    Inputs(const Case & c, std::mt19937 & random)
        : k(c.k, TURBO_KEY, c.n_cells * c.n_batches, c.n_kv_heads, c.head_size, random),
          v(c.v, TURBO_VALUE, c.n_cells * c.n_batches, c.n_kv_heads, c.head_size, random) {
        std::normal_distribution<float> normal;
        q.resize((size_t) c.n_batches * c.n_kv_heads * c.group * c.n_rows * c.head_size);
        for (float & x : q) {
            x = 2.0f * normal(random);
        }
        sinks.resize(c.n_kv_heads * c.group);
        for (float & x : sinks) {
            x = normal(random);
        }
        mask.resize((size_t) c.n_rows * c.n_cells);
        for (int row = 0; row < c.n_rows; row++) {
            for (int cell = 0; cell < c.n_cells; cell++) {
                mask[(size_t) row * c.n_cells + cell] = half_of(bias_of(c, row, cell));
            }
        }
        for (int page = 0; page * kPage < c.n_cells; page++) {
            poison_if_hidden(c, page);
        }
    }

    // What nobody sees a cell of is not read.
    void poison_if_hidden(const Case & c, int page) {
        const int end = std::min((page + 1) * kPage, c.n_cells);
        for (int row = 0; row < c.n_rows; row++) {
            for (int cell = page * kPage; cell < end; cell++) {
                if (bias_of(c, row, cell) != -INFINITY) {
                    return;
                }
            }
        }
        for (int batch = 0; batch < c.n_batches; batch++) {
            for (DrawnCells * cells : { &k, &v }) {
                const size_t first = (size_t) (batch * c.n_cells + page * kPage) * cells->cell_bytes();
                std::fill_n(&cells->bytes[first], (size_t) (end - page * kPage) * cells->cell_bytes(), (uint8_t) 0xff);
            }
        }
    }
};

// Where the pages lie; empty: in their order, and there is no table.
using Places = std::vector<int>;

// The table of rows of a case, which is behind them in a mask, or that there is none.
std::vector<int32_t> table_of(const Case & c, int first, int n_rows, int n_cells, const Places & places) {
    pmtp::attention::Pages pages;
    for (int row = first; row < first + n_rows;) {
        const int sequence = sequence_of(c, row), begin = row;
        while (row < first + n_rows && sequence_of(c, row) == sequence) {
            row++;
        }
        const int own = c.n_cells - c.n_rows + begin;
        const int first_page = c.mask == Mask::window ? std::max(own - kWindow + 1, 0) / kPage : 0;
        pages.runs.push_back({ begin - first, row - begin, first_page, 0, (int64_t) pages.first_cells.size() });
        for (int page = first_page; page < n_pages_of(n_cells); page++) {
            if (is_page_of(c, page, sequence)) {
                pages.first_cells.push_back(places.empty() ? 0 : places[page] * kPage);
                pages.runs.back().n_pages++;
            }
        }
    }
    using Table = pmtp::attention::DeviceTable;
    std::vector<int32_t> words(Table::chunks_at(n_rows) + 2 * n_pages_of(c.n_cells) * Table::kChunkWords);
    pmtp::attention::write_table(places.empty() ? nullptr : &pages, c.mask == Mask::window ? kWindow : 0, c.n_cells,
                                 n_rows, words.data(), (int64_t) words.size());
    return words;
}

// Inputs on the device, and any of their rows' results.
class Device {
  public:
    Device(const Case & c, const Inputs & in, const Places & places = {})
        : case_(c),
          places_(places),
          q_(in.q),
          sinks_(in.sinks),
          mask_(in.mask),
          k_(in.k.bytes),
          v_(in.v.bytes),
          k_head_(in.k.head_bytes()),
          v_head_(in.v.head_bytes()) {}

    // [batches][n_rows][heads][head size] of rows first ..., seeing the first cells only.
    std::vector<float> run(int first, int n_rows, int n_cells) const {
        const Case & c = case_;
        const int n_heads = c.n_kv_heads * c.group;
        const int64_t row = (int64_t) c.head_size * sizeof(float);
        const auto cells = [&](const DeviceArray<uint8_t> & bytes, int64_t head, Format format) {
            return cuda::Cells{ (const char *) bytes.get(), head * c.n_kv_heads, head, head * c.n_kv_heads * c.n_cells,
                                format };
        };
        cuda::Task task = {};
        task.k = cells(k_, k_head_, c.k);
        task.v = cells(v_, v_head_, c.v);
        task.q = (const char *) q_.get() + first * row;
        task.q_row_stride = row;
        task.q_head_stride = row * c.n_rows;
        task.q_batch_stride = row * c.n_rows * n_heads;
        task.mask = c.mask == Mask::none ? nullptr : (const char *) mask_.get() + first * c.n_cells * sizeof(uint16_t);
        task.mask_row_stride = c.n_cells * (int64_t) sizeof(uint16_t);
        task.sinks = c.sinks ? sinks_.get() : nullptr;
        task.head_size = c.head_size;
        task.n_cells = n_cells;
        task.n_rows = n_rows;
        task.n_heads = n_heads;
        task.n_kv_heads = c.n_kv_heads;
        task.n_batches = task.kv_batches = c.n_batches;
        task.mask_batches = 1;
        task.scale = 0.5f / std::sqrt((float) c.head_size);
        task.softcap = c.softcap;
        task.mask_is_old = n_rows % 2 == 1;
        const DeviceArray<int32_t> table(table_of(c, first, n_rows, n_cells, places_));
        task.table = places_.empty() && n_rows % 3 == 1 ? nullptr : table.get();
        return attend(task);
    }

  private:
    // And whether the rotated results are these, rotated.
    static std::vector<float> attend(cuda::Task & task) {
        std::vector<float> signs(64);
        for (int i = 0; i < 64; i++) {
            signs[i] = i * i % 7 < 4 ? 0.125f : -0.125f;
        }
        const DeviceArray<float> device_signs(signs);
        const std::vector<float> plain = compute(task);
        task.rotates = true;
        for (const bool has_signs : { true, false }) {
            task.signs = has_signs ? device_signs.get() : nullptr;
            std::vector<float> right = plain;
            for (size_t i = 0; i < right.size(); i += 64) {
                rotate(&right[i], has_signs ? signs : std::vector<float>(64, 1.0f));
            }
            const std::vector<float> found = compute(task);
            // Of what is no number the bits say nothing.
            const auto is_same = [](float a, float b) {
                return std::memcmp(&a, &b, sizeof(a)) == 0 || (std::isnan(a) && std::isnan(b));
            };
            if (!std::equal(found.begin(), found.end(), right.begin(), right.end(), is_same)) {
                printf("other rotated rows\n");
                failures++;
            }
        }
        return plain;
    }

    // R x of 64 values, in the order of the kernels' sums.
    static void rotate(float * x, const std::vector<float> & signs) {
        for (int i = 0; i < 64; i++) {
            x[i] *= std::copysign(0.125f, signs[i]);
        }
        for (int h = 1; h < 64; h *= 2) {
            for (int i = 0; i < 64; i++) {
                if ((i & h) == 0) {
                    const float a = x[i], b = x[i + h];
                    x[i] = a + b;
                    x[i + h] = a - b;
                }
            }
        }
        for (int i = 0; i < 64; i++) {
            x[i] = signs[i] < 0 ? -x[i] : x[i];
        }
    }

    // And whether its quantised rows, with one batch, are what quantising them would make.
    static std::vector<float> compute(cuda::Task & task) {
        const int n = task.n_heads * task.head_size;
        const DeviceArray<float> out((size_t) task.n_batches * task.n_rows * n);
        const DeviceArray<char> work(std::max<size_t>(1, cuda::work_size(task)));
        const std::vector<PmtpQ8Block> nothing(pmtp_all_blocks(n, task.n_rows));
        const DeviceArray<PmtpQ8Block> quantised(nothing), expected(nothing);
        task.result = out.get();
        task.quantised = task.n_batches == 1 ? quantised.get() : nullptr;
        if (cuda::work_size(task) == 0) {
            printf("no kernel\n");
            failures++;
            return out.host();
        }
        cuda::attend(task, work.get(), cudaStreamPerThread);
        if (task.n_batches == 1) {
            pmtp_cuda_quantise_rows(out.get(), expected.get(), n, task.n_rows, cudaStreamPerThread);
        }
        check(cudaStreamSynchronize(cudaStreamPerThread));
        const std::vector<PmtpQ8Block> found = quantised.host(), right = expected.host();
        if (std::memcmp(found.data(), right.data(), found.size() * sizeof(PmtpQ8Block)) != 0) {
            printf("other quantised rows\n");
            failures++;
        }
        return out.host();
    }

    const Case & case_;
    const Places places_;
    DeviceArray<float> q_, sinks_;
    DeviceArray<uint16_t> mask_;
    DeviceArray<uint8_t> k_, v_;
    int64_t k_head_, v_head_;
};

void fail(const Case & c, const char * what, double by = 0.0) {
    printf("head %d, %d heads of %d, %d rows, %d cells, %s/%s, mask %d, sinks %d, softcap %g: %s %g\n", c.head_size,
           c.n_kv_heads, c.group, c.n_rows, c.n_cells, name_of(c.k), name_of(c.v), (int) c.mask, c.sinks, c.softcap,
           what, by);
    failures++;
}

// The results of one KV head, [rows][group][head size].
std::vector<double> expected(const Case & c, const Inputs & in, int batch, int kv_head) {
    std::vector<std::vector<float>> keys, values;
    for (int cell = 0; cell < c.n_cells; cell++) {
        keys.push_back(in.k.row(batch * c.n_cells + cell, kv_head));
        values.push_back(in.v.row(batch * c.n_cells + cell, kv_head));
    }
    std::vector<double> out;
    std::vector<double> weights(c.n_cells);
    for (int row = 0; row < c.n_rows; row++) {
        for (int i = 0; i < c.group; i++) {
            const int head = kv_head * c.group + i;
            const float * q = &in.q[(((size_t) batch * c.n_kv_heads * c.group + head) * c.n_rows + row) * c.head_size];
            double max = c.sinks ? in.sinks[head] : -INFINITY;
            for (int cell = 0; cell < c.n_cells; cell++) {
                const float bias = bias_of(c, row, cell);
                double dot = 0.0;
                for (int d = 0; d < c.head_size && bias != -INFINITY; d++) {
                    dot += (double) q[d] * keys[cell][d];
                }
                dot *= 0.5f / std::sqrt((float) c.head_size);
                dot = c.softcap != 0.0f ? c.softcap * std::tanh(dot / c.softcap) : dot;
                weights[cell] = bias == -INFINITY ? -INFINITY : dot + bias;
                max = std::max(max, weights[cell]);
            }
            double sum = c.sinks ? std::exp(in.sinks[head] - max) : 0.0;
            std::vector<double> total(c.head_size);
            for (int cell = 0; cell < c.n_cells; cell++) {
                if (weights[cell] != -INFINITY) {
                    const double w = std::exp(weights[cell] - max);
                    sum += w;
                    for (int d = 0; d < c.head_size; d++) {
                        total[d] += w * values[cell][d];
                    }
                }
            }
            for (const double x : total) {
                out.push_back(sum > 0.0 ? x / sum : 0.0);
            }
        }
    }
    return out;
}

void check_values(const Case & c, const Inputs & in, const std::vector<float> & found) {
    const int n_heads = c.n_kv_heads * c.group;
    for (int batch = 0; batch < c.n_batches; batch++) {
        for (int kv_head = 0; kv_head < c.n_kv_heads; kv_head++) {
            const std::vector<double> all = expected(c, in, batch, kv_head);
            for (int column = 0; column < c.n_rows * c.group; column++) {
                const int row = column / c.group, head = kv_head * c.group + column % c.group;
                const float * got = &found[(((size_t) batch * c.n_rows + row) * n_heads + head) * c.head_size];
                double error = 0.0, size = 0.0;
                for (int d = 0; d < c.head_size; d++) {
                    const double x = all[(size_t) column * c.head_size + d];
                    error += (got[d] - x) * (got[d] - x);
                    size += x * x;
                }
                if (!(std::sqrt(error) <= 1.5e-3 * std::sqrt(size))) {
                    fail(c, "error", std::sqrt(error / size));
                    return;
                }
            }
        }
    }
}

void check_bits(const Case & c, const Device & device, const std::vector<float> & all) {
    const size_t row_size = (size_t) c.n_kv_heads * c.group * c.head_size;
    const auto compare = [&](int first, int n_rows, int n_cells, const char * what) {
        const std::vector<float> some = device.run(first, n_rows, n_cells);
        for (int batch = 0; batch < c.n_batches; batch++) {
            if (std::memcmp(&some[batch * n_rows * row_size], &all[(batch * c.n_rows + first) * row_size],
                            n_rows * row_size * sizeof(float)) != 0) {
                fail(c, what, n_rows);
                return;
            }
        }
    };
    for (const int n_rows : { 1, 2, 4, 9, 17, 64, 100 }) {
        if (n_rows < c.n_rows) {
            compare(0, n_rows, c.n_cells, "other bits: the first rows of");
            compare(c.n_rows - n_rows, n_rows, c.n_cells, "other bits: the last rows of");
        }
    }
    if (c.mask == Mask::causal && c.n_rows > 1) {  // cells behind those that a row sees
        compare(0, 1, c.n_cells - c.n_rows + 1, "other bits: fewer cells");
    }
}

// The same with whole pages at these places.
Inputs scattered(const Case & c, const Inputs & in, const Places & places) {
    Inputs out = in;
    for (int page = 0; page < c.n_cells / kPage; page++) {
        const size_t from = (size_t) page * kPage, at = (size_t) places[page] * kPage;
        for (int row = 0; row < c.n_rows; row++) {
            std::copy_n(&in.mask[row * c.n_cells + from], kPage, &out.mask[row * c.n_cells + at]);
        }
        for (int batch = 0; batch < c.n_batches; batch++) {
            for (auto [cells, moved] : { std::pair(&in.k, &out.k), std::pair(&in.v, &out.v) }) {
                const size_t bytes = cells->cell_bytes(), first = (size_t) batch * c.n_cells;
                std::copy_n(&cells->bytes[(first + from) * bytes], kPage * bytes, &moved->bytes[(first + at) * bytes]);
            }
        }
    }
    return out;
}

// A sliding cache gives pages out again, so that drafts which are rejected leave later ones at other places: two texts
// in three of the embedded pair differed with drafting on and off.
void check_places(const Case & c, const Inputs & in, const std::vector<float> & found, std::mt19937 & random) {
    if (c.mask == Mask::none) {
        return;
    }
    const bool few = c.n_cells <= pmtp::attention::DeviceTable::kCellsWithout;
    const auto expect = [&](const std::vector<float> & right, const std::vector<float> & again, const char * what) {
        if (std::memcmp(again.data(), right.data(), right.size() * sizeof(float)) != 0) {
            fail(c, what);
        }
    };
    Places places(n_pages_of(c.n_cells));
    std::iota(places.begin(), places.end(), 0);
    std::vector<float> with_table = found;
    if (c.n_batches == 1) {
        const Device device(c, in, places);
        with_table = device.run(0, c.n_rows, c.n_cells);
        check_values(c, in, with_table);
        check_bits(c, device, with_table);
        if (few) {
            expect(found, with_table, "other bits: with a table");
        }
    }
    std::shuffle(places.begin(), places.begin() + c.n_cells / kPage, random);
    const Inputs moved = scattered(c, in, places);
    if (few) {
        expect(found, Device(c, moved).run(0, c.n_rows, c.n_cells), "other bits: pages at other places");
    }
    if (c.n_batches == 1) {
        expect(with_table, Device(c, moved, places).run(0, c.n_rows, c.n_cells),
               "other bits: pages of a table at other places");
    }
}

// Keys that are not numbers, all of a page's or one: a chunk whose sum was NaN counted as one that nothing is seen of.
void check_invalid_keys(int head_size, bool all, std::mt19937 & random) {
    const Case c = { head_size, 1, 4, 3, 333, Format::f16, Format::f16 };
    Inputs in(c, random);
    const size_t bytes = in.k.cell_bytes();
    for (size_t at = kPage * bytes; at < (all ? 2 * kPage : kPage + 1) * bytes; at += sizeof(uint16_t)) {
        const uint16_t nan = 0x7e00;
        std::memcpy(&in.k.bytes[at], &nan, sizeof(nan));
    }
    const std::vector<float> found = Device(c, in).run(0, c.n_rows, c.n_cells);
    if (!std::all_of(found.begin(), found.end(), [](float x) { return std::isnan(x); })) {
        fail(c, "keys that are not numbers are left out", all);
    }
}

void check_case(const Case & c, unsigned seed) {
    std::mt19937 random(seed);
    const Inputs in(c, random);
    const Device device(c, in);
    const std::vector<float> found = device.run(0, c.n_rows, c.n_cells);
    check_values(c, in, found);
    check_bits(c, device, found);
    check_places(c, in, found, random);
}

std::vector<Case> cases(bool small) {
    const Format formats[] = { Format::f16,    Format::bf16,   Format::q8_0,  Format::q4_0,
                               Format::turbo4, Format::turbo3, Format::turbo2 };
    std::vector<Case> out;
    for (const int size : { 64, 128, 256, 512 }) {
        for (const Format f : formats) {
            out.push_back({ size, 1, 8, 4, 333, f, f });
        }
        out.push_back({ size, 2, 3, 5, 200, Format::turbo4, Format::turbo3, Mask::holes, true });
        out.push_back({ size, 1, 2, 20, 150, Format::q8_0, Format::turbo3 });
        out.push_back({ size, 1, 4, 5, 700, Format::f16, Format::turbo3, Mask::shared });
    }
    if (small) {  // for tools that follow every access
        return out;
    }
    for (const Format k : formats) {
        for (const Format v : formats) {
            if (k != v) {
                out.push_back({ 128, 1, 4, 3, 130, k, v, Mask::holes });
            }
        }
    }
    for (const int size : { 64, 128, 256, 512 }) {
        for (const int group : { 1, 2, 4, 7, 8, 16 }) {
            for (const int rows : { 1, 2, 4, 9, 16 }) {
                const Mask mask = group == 4 ? Mask::two : group == 7 ? Mask::window : Mask::causal;
                out.push_back({ size, group == 16 ? 1 : 2, group, rows, 700 + 13 * rows + group, Format::f16,
                                Format::f16, mask });
            }
        }
        const Format k = size == 64 ? Format::q4_0 : Format::turbo4, v = size == 128 ? Format::q8_0 : Format::turbo3;
        out.push_back({ size, 1, 8, 16, 1, k, v, Mask::none });
        out.push_back({ size, 1, 8, 9, 64, k, v });
        out.push_back({ size, 3, 5, 6, 65, k, v, Mask::none, true });
        out.push_back({ size, 1, 8, 3, 511, k, v, Mask::nothing });
        out.push_back({ size, 2, 1, 16, 1301, k, v, Mask::two, true, 5.0f });
        out.push_back({ size, 2, 2, 7, 2176, k, v, Mask::window, false, 50.0f });
        out.push_back({ size, 1, 4, 4, 321, k, v, Mask::holes, true, 20.0f, 3 });
        out.push_back({ size, 1, 8, 4, 3333, k, v });  // more chunks than a warp has lanes, but few
        out.push_back({ size, 1, 4, 3, 4000, v, k, Mask::holes, true });
        out.push_back({ size, 1, 1, 2, 34000, k, v, Mask::two });
        out.push_back({ size, 1, 2, 6, 12345, k, v, Mask::shared });
        out.push_back({ size, 1, 8, 3, 40000, v, k });
        out.push_back({ size, 1, 4, 2, 8192, k, v, Mask::two });
        out.push_back({ size, 1, 8, 16, 5000, Format::f16, k, Mask::two });
        // prompts
        out.push_back({ size, 1, 8, 65, 400, k, v });
        out.push_back({ size, 2, 2, 200, 700, Format::f16, Format::f16, Mask::window, true, 50.0f });
        out.push_back({ size, 1, 4, 17, 9000, Format::bf16, v, Mask::two });
        out.push_back({ size, 1, 4, 70, 9000, v, Format::f16, Mask::shared });
        out.push_back({ size, 1, 16, 300, 350, v, k, Mask::holes });
        out.push_back({ size, 2, 3, 40, 321, k, v, Mask::nothing, false, 0.0f, 3 });
    }
    return out;
}

}  // namespace

int main(int argc, char ** argv) {
    const bool small = argc > 1 && std::strcmp(argv[1], "small") == 0;
    const std::vector<Case> all = cases(small);
    std::atomic<size_t> next = 0;
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < (small ? 1 : std::max(1u, std::thread::hardware_concurrency())); i++) {
        threads.emplace_back([&] {
            for (size_t at = next++; at < all.size(); at = next++) {
                check_case(all[at], (unsigned) at);
            }
        });
    }
    for (std::thread & thread : threads) {
        thread.join();
    }
    std::mt19937 random(1);
    for (const int size : { 64, 512 }) {
        check_invalid_keys(size, false, random);
        check_invalid_keys(size, true, random);
    }
    printf(failures == 0 ? "ok\n" : "%d failures\n", failures.load());
    return failures != 0;
}
