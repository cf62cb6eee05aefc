// Fills masks of attention from a cache's cells, some microseconds for 100,000 of them.
#pragma once

#include "llama-batch.h"
#include "llama-hparams.h"
#include "llama-kv-cells.h"

#include <cstdint>

struct ggml_tensor;

namespace pmtp::attention {

// A row [n_kv] of a mask: 0 for cells of the sequence at positions first .. last, else minus infinity.
void fill_mask_row(const llama_kv_cells & cells, llama_seq_id sequence, int64_t first, int64_t last, uint16_t * halves,
                   int64_t n_kv);
void fill_mask_row(const llama_kv_cells & cells, llama_seq_id sequence, int64_t first, int64_t last, float * row,
                   int64_t n_kv);

// The mask [n_kv, rows], f16 or f32, of a batch whose rows see their own position and earlier ones. window 0: all of
// them.
void fill_mask(ggml_tensor * mask, const llama_kv_cells & cells, const llama_ubatch & batch, int64_t window);

// Cells [begin, end) have all of the sequence's positions first .. end_position - 1.
struct CellRange {
    uint32_t begin, end;
};
CellRange cells_of(const llama_kv_cells & cells, llama_seq_id sequence, llama_pos first, llama_pos end_position);

}  // namespace pmtp::attention
