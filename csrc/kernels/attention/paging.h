// Hands out the cells of a KV cache in pages, and finds the pages of a batch for the attention kernel. All of it
// follows from the cells: there is no state beside them. Built into llama.cpp, whose cache calls it
// (csrc/llama/patches/0021).
#pragma once

#include "kernels/attention/masks.h"
#include "kernels/attention/pages.h"

#include "llama-batch.h"
#include "llama-cparams.h"
#include "llama-hparams.h"
#include "llama-kv-cells.h"

#include <cstdint>
#include <vector>

struct ggml_context;
struct ggml_tensor;

namespace pmtp::attention {

// Cells of a sliding cache in which n_running sequences always find pages for a batch of n_batch rows in all. What
// sequences keep that do not run comes on top.
uint32_t sliding_cells(uint32_t n_swa, uint32_t n_running, uint32_t n_batch);

// The cell of every token of a batch: in the page of its sequence that holds its part of the positions, else in the
// first page that is free, all of whose cells are empty or out of their sequence's window. False if there is none, or
// if a cell that is wanted is occupied, as in a page that two sequences share and have not filled.
bool find_cells(const llama_kv_cells & cells, const llama_ubatch & batch, uint32_t n_swa, llama_swa_type swa_type,
                std::vector<uint32_t> & found);

// Empties the pages of the cells that were found of what another sequence, or another part of the same, has there, out
// of its window: all of it at once, or its owner could go back to what is left. last_removed: of each sequence, the
// last position that goes, with those before it.
void take_pages(llama_kv_cells & cells, const llama_ubatch & batch, const std::vector<uint32_t> & found,
                llama_pos * last_removed);

// Cells that a graph sees of a cache, the first n_used of which are in use: a multiple of n_multiple. A device builds
// and records a graph anew when the number changes, which takes longer than to pass over cells that nobody sees: there
// it has fewer values.
uint32_t seen_cells(uint32_t n_used, uint32_t n_multiple, const ggml_tensor * keys);

// Gives the mask of a batch a tensor for the table of its pages, where a device needs one: its src[0].
void add_table(ggml_context * context, ggml_tensor * mask, const llama_ubatch & batch, const llama_cparams & cparams);
// Whether the table of a mask, or that it has none, serves this batch too.
bool fits_table(const ggml_tensor * mask, const llama_ubatch & batch, const llama_cparams & cparams);
// Hands a FLASH_ATTN_EXT the table of its mask: as src[5], so that it comes to the device.
void pass_table(ggml_tensor * attention, const ggml_tensor * mask);

// The pages of the rows of one mask.
class PageTable {
  public:
    PageTable() = default;
    PageTable(const PageTable &) = delete;
    PageTable & operator=(const PageTable &) = delete;

    // The next row: it sees positions of the sequence up to any that the cache has, in a window behind `position`.
    void add(llama_seq_id sequence, llama_pos position);

    // Hangs the pages of the rows that were added on their mask [n_kv, rows], and forgets the rows. The mask refers to
    // this table until the next call, which may be for another mask of the same rows only. window 0: all positions are
    // seen. A cache whose cells were not handed out in pages leaves the mask without: the kernel then takes the cells
    // in their own order.
    void attach(ggml_tensor * mask, const llama_kv_cells & cells, int64_t window);

    // Likewise for the rows of a batch over a cache that is `paged`, whose mask is filled if they see themselves and
    // earlier positions (`causal`), in windows that are llama.cpp's standard ones or none: whether it was. The
    // mask's table is written, or that there is none.
    bool fill(ggml_tensor * mask, const llama_kv_cells & cells, const llama_ubatch & batch, uint32_t n_swa,
              llama_swa_type swa_type, bool paged, bool causal);

  private:
    bool find_pages(Pages::Run & run, llama_seq_id sequence, const llama_kv_cells & cells, int64_t n_kv);

    Pages pages_;
    struct Rows {
        llama_seq_id sequence;
        llama_pos first_position;
        int n_rows;
    };
    std::vector<Rows> rows_;
    bool attached_ = true;  // the next row is the first of another mask
};

}  // namespace pmtp::attention
