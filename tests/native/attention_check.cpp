// The attention kernel as a C function, for test_attention.py. Threads are played one after the other.
#include "kernels/attention/cpu/decode.h"
#include "kernels/attention/plan.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"

#include <cstdlib>
#include <vector>

using namespace pmtp::attention;
using namespace pmtp::cpu;

// The types of the test, by the bits of a value: 2, 3, 4 turbo; 8 q8_0; 16 f16; 17 bf16; 32 f32; 40 q4_0; 41 iq4_nl;
// 80 q8_0 through a function, as any other type of ggml's is read.
static void decode_q8_0(const void * row, float * x, int64_t n) { DecodeQ8_0{}((const char *) row, x, (int) n); }

// As ggml's own.
template <int Type> static void decode_nibbles(const void * row, float * x, int64_t n) {
    static const int codebook[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };
    const auto value = [](int i) { return Type == 40 ? i - 8 : codebook[i]; };
    const char * block = (const char *) row;
    for (; n > 0; n -= 32, x += 32, block += 18) {
        const float scale = half_to_float(load_as<uint16_t>(block));
        for (int i = 0; i < 16; i++) {
            const int byte = (uint8_t) block[2 + i];
            x[i] = (float) value(byte & 15) * scale;
            x[i + 16] = (float) value(byte >> 4) * scale;
        }
    }
}

static Format format(int bits) {
    switch (bits) {
        case 2: return Format::turbo2;
        case 3: return Format::turbo3;
        case 4: return Format::turbo4;
        case 8: return Format::q8_0;
        case 16: return Format::f16;
        case 17: return Format::bf16;
        case 32: return Format::f32;
        case 40: return Format::q4_0;
        case 41: return Format::iq4_nl;
        default: return Format::other;
    }
}

static size_t bytes64(int bits) {
    switch (bits) {
        case 2: return 18;
        case 3: return 26;
        case 4: return 34;
        case 16:
        case 17: return 128;
        case 32: return 256;
        case 40:
        case 41: return 36;
        default: return 68;
    }
}

// [batches][heads][cells][row], cell rows `padding` bytes apart.
static Cells cells(int bits, const char * data, int size, int64_t n_cells, int n_kv_heads, size_t padding) {
    const size_t stride = size * bytes64(bits) / 64 + padding;
    const Decode decode = bits == 40 ? decode_nibbles<40> : bits == 41 ? decode_nibbles<41> : decode_q8_0;
    return { data, stride, stride * n_cells, stride * n_cells * n_kv_heads, format(bits), decode, bytes64(bits), size };
}

extern "C" int attention_lanes() { return kLanes; }

extern "C" void exp_vector(const float * x, float * y) { store(y, exp_nonpositive(load_floats(x))); }

static int64_t n_items;

// Pieces of work of the last call.
extern "C" int64_t attention_items() { return n_items; }

// Of layers that see `window` positions.
extern "C" int64_t attention_chunk_width(int64_t window) { return chunk_width(window); }

// q [batches][heads][rows][k_size], mask [mask_batches][mask_heads][rows][cells] f16 or null, sinks [heads] or null,
// result [batches][rows][heads][v_size]. With runs, [n_runs][first_row, n_rows, first_page, n_pages, cells], the cells
// are taken in pages.
extern "C" int attention(int k_bits, int v_bits, const char * k, const char * v, int k_size, int v_size, size_t padding,
                         const float * q, const uint16_t * mask, int mask_heads, int mask_batches, const float * sinks,
                         float * result, int64_t n_cells, int n_rows, int n_heads, int n_kv_heads, int n_batches,
                         int kv_batches, float scale, float softcap, int n_threads, const int64_t (*runs)[5],
                         int n_runs, const int32_t * first_cells, int64_t n_first_cells, int64_t chunk) {
    Task task{};
    task.k = cells(k_bits, k, k_size, n_cells, n_kv_heads, padding);
    task.v = cells(v_bits, v, v_size, n_cells, n_kv_heads, padding);
    task.q = (const char *) q;
    task.q_row_stride = k_size * sizeof(float);
    task.q_head_stride = n_rows * task.q_row_stride;
    task.q_batch_stride = n_heads * task.q_head_stride;
    task.mask = (const char *) mask;
    task.mask_row_stride = n_cells * sizeof(uint16_t);
    task.mask_head_stride = n_rows * task.mask_row_stride;
    task.mask_batch_stride = mask_heads * task.mask_head_stride;
    task.mask_heads = mask_heads;
    task.mask_batches = mask_batches;
    task.sinks = sinks;
    task.result = result;
    task.n_cells = n_cells;
    task.n_rows = n_rows;
    task.n_heads = n_heads;
    task.n_kv_heads = n_kv_heads;
    task.n_batches = n_batches;
    task.kv_batches = kv_batches;
    task.scale = scale;
    task.softcap = softcap;
    Pages pages{ {}, std::vector<int32_t>(first_cells, first_cells + n_first_cells), chunk };
    for (int i = 0; i < n_runs; i++) {
        const int64_t * run = runs[i];
        pages.runs.push_back({ (int) run[0], (int) run[1], run[2], run[3], run[4] });
    }
    task.pages = n_runs > 0 ? &pages : nullptr;
    const Plan plan(task, n_threads);
    n_items = plan.n_items();
    const size_t size = plan.work_size(n_threads);
    char * work = (char *) std::malloc(size + 64);
    std::memset(work, 0xff, size + 64);  // NaN: nothing may be read before it is written
    for (int64_t item = 0; item < plan.n_items(); item++) {
        plan.run_item(item, (int) (item * 7 % n_threads), work);
    }
    for (int64_t index = 0; index < plan.n_merges(); index++) {
        plan.merge(index, work);
    }
    int intact = 1;
    for (size_t i = size; i < size + 64; i++) {
        intact &= work[i] == (char) 0xff;
    }
    std::free(work);
    return intact;
}
