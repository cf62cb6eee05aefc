// The attention kernel as a C function, for test_turboquant_attention.py. Threads are played one after the other.
#include "kernels/attention/cpu/decode.h"
#include "kernels/attention/plan.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/half.h"
#include "kernels/cpu/simd.h"

#include <cstdlib>

using namespace pmtp::attention;
using namespace pmtp::cpu;

static void decode_f16(const void * row, float * x, int64_t n) { halves_to_floats((const uint16_t *) row, x, (int) n); }

static void decode_q8_0(const void * row, float * x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const char * block = (const char *) row + i / 32 * 34;
        uint16_t half;
        std::memcpy(&half, block, sizeof(half));
        x[i] = half_to_float(half) * (float) (int8_t) block[2 + i % 32];
    }
}

// bits: 2, 3, 4: turbo; 8: q8_0; 16: f16. [batches][heads][cells][row], cell rows `padding` bytes apart.
static Cells cells(int bits, const char * data, int size, int64_t n_cells, int n_kv_heads, size_t padding) {
    const size_t bytes64 = bits == 16 ? 128 : bits == 8 ? 68 : bits == 4 ? 34 : bits == 3 ? 26 : 18;
    const size_t stride = size / 64 * bytes64 + padding;
    return { data,
             stride,
             stride * n_cells,
             stride * n_cells * n_kv_heads,
             bits <= 4 ? bits : 0,
             bits == 16 ? decode_f16 : decode_q8_0,
             bytes64,
             size };
}

extern "C" int attention_lanes() { return kLanes; }

extern "C" void exp_vector(const float * x, float * y) { store(y, exp_nonpositive(load_floats(x))); }

// q [batches][heads][rows][k_size], mask [mask_batches][mask_heads][rows][cells] f16 or null, sinks [heads] or null,
// result [batches][rows][heads][v_size].
extern "C" int attention(int k_bits, int v_bits, const char * k, const char * v, int k_size, int v_size, size_t padding,
                         const float * q, const uint16_t * mask, int mask_heads, int mask_batches, const float * sinks,
                         float * result, int64_t n_cells, int n_rows, int n_heads, int n_kv_heads, int n_batches,
                         int kv_batches, float scale, float softcap, int n_threads) {
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
    const Plan plan(task);
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
