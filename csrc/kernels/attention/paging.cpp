#include "kernels/attention/paging.h"

#include "kernels/attention/chunks.h"
#include "kernels/attention/device_table.h"

#include "ggml-backend.h"
#include "ggml.h"

#include <algorithm>
#include <utility>

namespace pmtp::attention {
namespace {

// The first cell of the page of a sequence's positions kPage * page ...; -1 if the cache has none of them, -2 if they
// do not lie in a page.
int64_t page_of(const llama_kv_cells & cells, llama_seq_id sequence, int64_t page) {
    const auto & all = cells.seq_pos_get(sequence);
    const auto first = all.lower_bound({ (llama_pos) (page * kPage), 0 });
    if (first == all.end() || first->first / kPage != page) {
        return -1;
    }
    const int64_t cell = (int64_t) first->second - first->first % kPage;
    return cell >= 0 && cell % kPage == 0 && cell + kPage <= cells.size() ? cell : -2;
}

// Whether page_of() is this cell, by the page's first position alone.
bool is_page(const llama_kv_cells & cells, llama_seq_id sequence, int64_t page, int64_t cell) {
    return cell >= 0 && cell + kPage <= cells.size() && cells.positions()[cell] == page * kPage &&
           cells.seq_has(cell, sequence);
}

// The pages of one batch, as they are found or taken.
class Taker {
  public:
    Taker(const llama_kv_cells & cells, uint32_t n_swa, llama_swa_type swa_type)
        : cells_(cells),
          n_swa_(n_swa),
          swa_type_(swa_type),
          in_use_(cells.size() / kPage) {}

    // -1 if there is none.
    int64_t cell(llama_seq_id sequence, llama_pos position) {
        Page * page = find(sequence, position / kPage);
        if (page == nullptr) {
            return -1;
        }
        const int at = position % kPage;
        const int64_t cell = page->cell + at;
        const bool given = page->given >> at & 1;
        page->given |= (uint64_t) 1 << at;
        return !given && (page->taken || cells_.is_empty(cell)) ? cell : -1;
    }

  private:
    struct Page {
        llama_seq_id sequence;
        int64_t number, cell;
        bool taken;      // now, not before
        uint64_t given;  // a bit a cell
    };

    Page * find(llama_seq_id sequence, int64_t number) {
        const auto same = [&](const Page & p) { return p.sequence == sequence && p.number == number; };
        const auto known = std::find_if(pages_.rbegin(), pages_.rend(), same);
        if (known != pages_.rend()) {
            return &*known;
        }
        int64_t cell = page_of(cells_, sequence, number);
        const bool taken = cell == -1;
        while (taken && next_ < in_use_.size() && (in_use_[next_] || !is_free(next_))) {
            next_++;
        }
        if (taken && next_ < in_use_.size()) {
            cell = (int64_t) next_ * kPage;
        }
        if (cell < 0) {
            return nullptr;
        }
        in_use_[cell / kPage] = true;
        pages_.push_back({ sequence, number, cell, taken, 0 });
        return &pages_.back();
    }

    bool is_free(size_t page) const {
        for (uint32_t cell = page * kPage; cell < (page + 1) * kPage; cell++) {
            if (!cells_.is_empty(cell) && !is_out_of_window(cell)) {
                return false;
            }
        }
        return true;
    }

    // As llama.cpp asks: seen from the position behind the sequence's last.
    bool is_out_of_window(uint32_t cell) const {
        return swa_type_ != LLAMA_SWA_TYPE_NONE && cells_.seq_count(cell) == 1 &&
               llama_hparams::is_masked_swa(n_swa_, swa_type_, cells_.pos_get(cell),
                                            cells_.seq_pos_max(cells_.seq_get(cell)) + 1);
    }

    const llama_kv_cells & cells_;
    const uint32_t n_swa_;
    const llama_swa_type swa_type_;
    std::vector<Page> pages_;
    std::vector<bool> in_use_;  // by this batch
    size_t next_ = 0;           // pages before it are not free
};

int64_t words_of_table(const ggml_tensor * mask, const llama_ubatch & batch, const llama_cparams & cparams) {
    return cparams.flash_attn && cparams.kv_unified ? table_words(mask->ne[0], batch.n_tokens, batch.n_seqs_unq) : 0;
}

}  // namespace

uint32_t sliding_cells(uint32_t n_swa, uint32_t n_running, uint32_t n_batch) {
    // A window begins and ends within pages; so do the rows of each sequence.
    const uint32_t touched = std::min(n_running, n_batch);
    return n_running * (GGML_PAD(n_swa, kPage) + kPage) + (touched + (n_batch - touched) / kPage) * kPage;
}

uint32_t seen_cells(uint32_t n_used, uint32_t n_multiple, const ggml_tensor * keys) {
    constexpr uint32_t kLeastOnDevice = 1024;
    uint32_t multiple = n_multiple;
    if (!ggml_backend_buffer_is_host(keys->buffer)) {
        multiple = std::max(multiple, kLeastOnDevice);
        while (multiple < n_used / 4) {
            multiple *= 2;
        }
    }
    return std::max(multiple, GGML_PAD(n_used, multiple));
}

void add_table(ggml_context * context, ggml_tensor * mask, const llama_ubatch & batch, const llama_cparams & cparams) {
    if (const int64_t n_words = words_of_table(mask, batch, cparams); n_words > 0) {
        mask->src[0] = ggml_new_tensor_1d(context, GGML_TYPE_I32, n_words);
        ggml_set_input(mask->src[0]);
        ggml_set_name(mask->src[0], "attn_inp_pages");
    }
}

bool fits_table(const ggml_tensor * mask, const llama_ubatch & batch, const llama_cparams & cparams) {
    return words_of_table(mask, batch, cparams) == (mask->src[0] != nullptr ? mask->src[0]->ne[0] : 0);
}

void pass_table(ggml_tensor * attention, const ggml_tensor * mask) {
    attention->src[5] = mask != nullptr && mask->op == GGML_OP_NONE ? mask->src[0] : nullptr;
}

bool find_cells(const llama_kv_cells & cells, const llama_ubatch & batch, uint32_t n_swa, llama_swa_type swa_type,
                std::vector<uint32_t> & found) {
    Taker taker(cells, n_swa, swa_type);
    for (uint32_t i = 0; i < batch.n_tokens; i++) {
        const int64_t cell = taker.cell(batch.seq_id[i][0], batch.pos[i]);
        if (cell < 0) {
            return false;
        }
        found.push_back((uint32_t) cell);
    }
    return true;
}

void take_pages(llama_kv_cells & cells, const llama_ubatch & batch, const std::vector<uint32_t> & found,
                llama_pos * last_removed) {
    uint32_t page = UINT32_MAX;
    for (uint32_t i = 0; i < batch.n_tokens; i++) {
        if (found[i] / kPage == page) {
            continue;
        }
        page = found[i] / kPage;
        for (uint32_t cell = page * kPage; cell < std::min<uint32_t>((page + 1) * kPage, cells.size()); cell++) {
            if (cells.is_empty(cell)) {
                continue;
            }
            const llama_pos position = cells.pos_get(cell);
            if (cells.seq_has(cell, batch.seq_id[i][0]) && position / kPage == batch.pos[i] / kPage) {
                continue;
            }
            llama_pos & last = last_removed[cells.seq_get(cell)];
            last = std::max(last, position | (kPage - 1));
            cells.rm(cell);
        }
    }
}

void PageTable::add(llama_seq_id sequence, llama_pos position) {
    if (std::exchange(attached_, true)) {  // until the row is there: if memory runs out no row is left
        rows_.clear();
    }
    if (rows_.empty() || rows_.back().sequence != sequence) {
        rows_.push_back({ sequence, position, 0 });
    }
    rows_.back().first_position = std::min(rows_.back().first_position, position);
    rows_.back().n_rows++;
    attached_ = false;
}

void PageTable::attach(ggml_tensor * mask, const llama_kv_cells & cells, int64_t window) {
    attached_ = true;
    pages_.chunk = chunk_width(window);
    pages_.runs.clear();
    pages_.first_cells.clear();
    bool paged = true;
    int row = 0;
    for (const Rows & rows : rows_) {
        const int64_t first = window > 0 ? std::max<int64_t>(rows.first_position - window + 1, 0) : 0;
        Pages::Run run = { row, rows.n_rows, first / kPage, 0, (int64_t) pages_.first_cells.size() };
        paged = paged && find_pages(run, rows.sequence, cells, mask->ne[0]);
        pages_.runs.push_back(run);
        row += rows.n_rows;
    }
    mask->extra = paged ? &pages_ : nullptr;
}

bool PageTable::fill(ggml_tensor * mask, const llama_kv_cells & cells, const llama_ubatch & batch, uint32_t n_swa,
                     llama_swa_type swa_type, bool paged, bool causal) {
    const int64_t window = swa_type == LLAMA_SWA_TYPE_STANDARD ? n_swa : 0;
    paged = paged && (window > 0 || swa_type == LLAMA_SWA_TYPE_NONE);
    if (paged) {
        for (uint32_t i = 0; i < batch.n_tokens; i++) {
            add(batch.seq_id[i][0], batch.pos[i]);
        }
        attach(mask, cells, window);
    }
    if (ggml_tensor * table = mask->src[0]; table != nullptr && table->data != nullptr) {
        write_table(paged && mask->extra != nullptr ? &pages_ : nullptr, window, mask->ne[0], batch.n_tokens,
                    (int32_t *) table->data, table->ne[0]);
    }
    if (!paged || !causal) {
        return false;
    }
    fill_mask(mask, cells, batch, window);
    return true;
}

bool PageTable::find_pages(Pages::Run & run, llama_seq_id sequence, const llama_kv_cells & cells, int64_t n_kv) {
    const int64_t last = cells.seq_pos_max(sequence);
    int64_t behind = -1;  // the page before, where most pages lie
    for (int64_t page = run.first_page; page * kPage <= last; page++) {
        const int64_t cell = is_page(cells, sequence, page, behind) ? behind : page_of(cells, sequence, page);
        behind = cell + kPage;
        if (cell < -1 || cell + kPage > n_kv) {
            return false;
        }
        pages_.first_cells.push_back((int32_t) cell);
        run.n_pages++;
    }
    return true;
}

}  // namespace pmtp::attention
