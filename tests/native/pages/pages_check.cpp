// A KV cache of several sequences as C functions, for test_pages.py: llama.cpp's own calls, with arrays for structs.
#include "kernels/attention/device_table.h"
#include "llama/hooks/cache_types.h"
#include "llama/internal.h"

#include "ggml-backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

ggml_type type_named(const char * name) {
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        if (const char * known = ggml_type_name((ggml_type) i); known != nullptr && std::strcmp(name, known) == 0) {
            return (ggml_type) i;
        }
    }
    return GGML_TYPE_COUNT;
}

llama_memory_t memory(llama_context * context) { return llama_get_memory(context); }

const llama_kv_cache & cache(llama_context * context, bool sliding) {
    const auto & both = dynamic_cast<const llama_kv_cache_iswa &>(*memory(context));
    return sliding ? *both.get_swa() : *both.get_base();
}

}  // namespace

EXPORT llama_model * pages_load(const char * path) {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    return llama_model_load_from_file(path, params);
}

EXPORT void pages_unload(llama_model * model) { llama_model_free(model); }

EXPORT int pages_vocabulary(const llama_model * model) { return llama_vocab_n_tokens(llama_model_get_vocab(model)); }

EXPORT uint32_t pages_sliding_cells(uint32_t n_swa, uint32_t n_running, uint32_t n_batch) {
    return pmtp::attention::sliding_cells(n_swa, n_running, n_batch);
}

// Null if llama.cpp refuses.
EXPORT llama_context * pages_open(llama_model * model, uint32_t n_cells, uint32_t n_sliding, uint32_t n_sequences,
                                  uint32_t n_batch, const char * k, const char * v, int n_threads) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = n_cells;
    params.n_batch = params.n_ubatch = n_batch;
    params.n_seq_max = n_sequences;
    params.kv_unified = true;
    params.swa_full = false;
    params.n_threads = params.n_threads_batch = n_threads;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.type_k = type_named(k);
    params.type_v = type_named(v);
    const SlidingCache sliding(params.type_k, params.type_v, n_sliding);
    return llama_init_from_model(model, params);
}

EXPORT void pages_close(llama_context * context) { llama_free(context); }

EXPORT void pages_set_threads(llama_context * context, int n) { llama_set_n_threads(context, n, n); }

// llama_decode of n rows, and its result; logits [n][vocabulary].
EXPORT int pages_decode(llama_context * context, int n, llama_token * tokens, llama_pos * positions,
                        llama_seq_id * sequences, float * logits) {
    std::vector<int32_t> n_sequences(n, 1);
    std::vector<llama_seq_id *> ids(n);
    std::vector<int8_t> wanted(n, 1);
    for (int i = 0; i < n; i++) {
        ids[i] = sequences + i;
    }
    llama_batch batch{};
    batch.n_tokens = n;
    batch.token = tokens;
    batch.pos = positions;
    batch.n_seq_id = n_sequences.data();
    batch.seq_id = ids.data();
    batch.logits = wanted.data();
    const int status = llama_decode(context, batch);
    if (status != 0) {
        return status;
    }
    const int n_vocab = pages_vocabulary(llama_get_model(context));
    for (int i = 0; i < n; i++) {
        std::memcpy(logits + (size_t) i * n_vocab, llama_get_logits_ith(context, i), n_vocab * sizeof(float));
    }
    return 0;
}

EXPORT void pages_remove(llama_context * context, int sequence, int from, int to) {
    llama_memory_seq_rm(memory(context), sequence, from, to);
}

EXPORT void pages_share(llama_context * context, int source, int sequence, int from, int to) {
    llama_memory_seq_cp(memory(context), source, sequence, from, to);
}

// The state of a sequence, or with `window` that of its sliding layers alone; its size without a buffer.
EXPORT size_t pages_save(llama_context * context, int sequence, int window, uint8_t * data, size_t size) {
    const llama_state_seq_flags flags = window ? LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY : 0;
    return data == nullptr ? llama_state_seq_get_size_ext(context, sequence, flags)
                           : llama_state_seq_get_data_ext(context, data, size, sequence, flags);
}

// 0: refused.
EXPORT size_t pages_restore(llama_context * context, int sequence, int window, const uint8_t * data, size_t size) {
    return llama_state_seq_set_data_ext(context, data, size, sequence, window ? LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY : 0);
}

EXPORT int pages_n_cells(llama_context * context, int sliding) { return (int) cache(context, sliding).get_size(); }

// Of every cell its position, or -1, and a bit for each of the first 32 sequences that it belongs to.
EXPORT void pages_cells(llama_context * context, int sliding, int32_t * positions, uint32_t * sequences) {
    const llama_kv_cells & cells = cache(context, sliding).get_cells(0);
    for (uint32_t i = 0; i < cells.size(); i++) {
        positions[i] = cells.is_empty(i) ? -1 : cells.pos_get(i);
        sequences[i] = 0;
        for (int s = 0; s < 32 && !cells.is_empty(i); s++) {
            sequences[i] |= (uint32_t) cells.seq_has(i, s) << s;
        }
    }
}

// Of cells that are taken, shared, moved and freed at random: how many are wrong in rows of masks, or lie outside the
// range that has a sequence's positions.
EXPORT int pages_wrong_masks(unsigned seed) {
    constexpr int kCells = 333, kSequences = 5, kMostSteps = 4000, kMostPositions = 400;
    std::mt19937 random(seed);
    llama_kv_cells cells;
    cells.resize(kCells);
    int n_wrong = 0;
    for (int step = 0; step < kMostSteps; step++) {
        const auto cell = (uint32_t) (random() % kCells);
        const auto sequence = (llama_seq_id) (random() % kSequences);
        if (cells.is_empty(cell)) {
            cells.pos_set(cell, (llama_pos) (random() % kMostPositions));
            cells.seq_add(cell, sequence);
        } else if (!cells.seq_has(cell, sequence)) {
            cells.seq_add(cell, sequence);
        } else if (random() % 3 == 0) {
            cells.rm(cell);
        } else if (random() % 3 == 0) {
            cells.seq_keep(cell, sequence);
        } else if (random() % 3 == 0) {
            cells.pos_add(cell, (llama_pos) (random() % 9) - 4);
        } else {
            cells.seq_rm(cell, sequence);
        }
        if (step % 40 != 0) {
            continue;
        }
        const auto first = (llama_pos) (random() % kMostPositions), last = (llama_pos) (first + random() % 90);
        const auto range = pmtp::attention::cells_of(cells, sequence, first, last + 1);
        std::vector<uint16_t> halves(kCells, 1);
        std::vector<float> floats(kCells, 1.0f);
        pmtp::attention::fill_mask_row(cells, sequence, first, last, halves.data(), kCells);
        pmtp::attention::fill_mask_row(cells, sequence, first, last, floats.data(), kCells);
        for (uint32_t i = 0; i < kCells; i++) {
            const bool seen = !cells.is_empty(i) && cells.seq_has(i, sequence) && cells.pos_in(i, first, last + 1);
            n_wrong += halves[i] != (seen ? 0 : 0xfc00) || floats[i] != (seen ? 0.0f : -INFINITY) ||
                       (seen && (i < range.begin || i >= range.end));
        }
    }
    return n_wrong;
}

// The table for a device, of sequences whose first pages are one's and whose others lie anywhere: how much of it is
// wrong.
EXPORT int pages_wrong_tables(unsigned seed, int window) {
    using pmtp::attention::DeviceTable, pmtp::attention::kPage;
    constexpr int kCells = 25600, kSequences = 3;
    std::mt19937 random(seed);
    llama_kv_cells cells;
    cells.resize(kCells);
    std::vector<int> free_pages(kCells / kPage);
    std::iota(free_pages.begin(), free_pages.end(), 0);
    std::shuffle(free_pages.begin(), free_pages.end(), random);
    const int n_shared = (int) (random() % 40);  // pages
    std::vector<int> first_cells[kSequences], lengths;
    for (int s = 0; s < kSequences; s++) {
        lengths.push_back(n_shared * kPage + 1 + (int) (random() % 7000));
        for (int position = 0; position < lengths[s]; position += kPage) {
            const bool is_shared = s > 0 && position < n_shared * kPage;
            first_cells[s].push_back(is_shared ? first_cells[0][position / kPage] : free_pages.back() * kPage);
            if (!is_shared) {
                free_pages.pop_back();
            }
            for (int at = 0; at < kPage && position + at < lengths[s]; at++) {
                const auto cell = (uint32_t) (first_cells[s].back() + at);
                if (!is_shared) {
                    cells.pos_set(cell, position + at);
                }
                cells.seq_add(cell, s);
            }
        }
    }

    std::vector<llama_seq_id> sequences;
    std::vector<llama_pos> positions;
    for (int s = 0; s < kSequences; s++) {
        const int n = std::min(lengths[s], 1 + (int) (random() % 100));
        for (int i = 0; i < n; i++) {
            sequences.push_back(s);
            positions.push_back(lengths[s] - n + i);
        }
    }
    std::vector<llama_seq_id *> ids;
    for (llama_seq_id & s : sequences) {
        ids.push_back(&s);
    }
    const int n_rows = (int) positions.size();
    llama_ubatch batch{};
    batch.n_tokens = (uint32_t) n_rows;
    batch.pos = positions.data();
    batch.seq_id = ids.data();
    llama_cparams cparams{};
    cparams.flash_attn = cparams.kv_unified = true;
    batch.n_seqs_unq = kSequences;
    const std::unique_ptr<ggml_context, decltype(&ggml_free)> context(
        ggml_init({ (size_t) (n_rows * kCells * 2 + (1 << 20)), nullptr, false }), ggml_free);
    ggml_tensor * mask = ggml_new_tensor_2d(context.get(), GGML_TYPE_F16, kCells, n_rows);
    pmtp::attention::add_table(context.get(), mask, batch, cparams);
    const auto fill = [&](bool paged) {
        pmtp::attention::PageTable().fill(mask, cells, batch, (uint32_t) window,
                                          window > 0 ? LLAMA_SWA_TYPE_STANDARD : LLAMA_SWA_TYPE_NONE, paged, true);
    };
    const auto * words = (const int32_t *) mask->src[0]->data;
    const auto n_chunks = [&] { return ((const DeviceTable::Header *) words)->n_chunks; };
    fill(true);
    if (n_chunks() == 0) {
        return -1;
    }
    int n_wrong = 0;
    const auto * chunks = (const DeviceTable::Chunk *) (words + DeviceTable::chunks_at(n_rows));
    for (int row = 0; row < n_rows; row++) {
        // Its chunks by number: their pages are those of its sequence's positions from the run's first on, in order.
        std::map<int, DeviceTable::Chunk> own;
        for (int i = 0; i < n_chunks(); i++) {
            if (row >= chunks[i].first_row && row < chunks[i].end_row) {
                n_wrong += !own.emplace(chunks[i].number, chunks[i]).second;
            }
        }
        const int sequence = sequences[row];
        const auto run = std::find(sequences.begin(), sequences.end(), sequence) - sequences.begin();
        int page = window > 0 ? std::max(positions[run] - window + 1, 0) / kPage : 0;
        n_wrong += (int) own.size() != words[DeviceTable::kHeaderWords + row];
        for (const auto & [number, chunk] : own) {
            const int whole = window > 0 ? 1 : page < 128 ? 1 : 2;  // fewer than 512 pages
            const int left = (int) first_cells[sequence].size() - page;
            n_wrong += number >= (int) own.size() || chunk.n_pages != std::min(whole, left);
            for (int i = 0; i < chunk.n_pages; i++) {
                n_wrong += chunk.first_cells[i] != first_cells[sequence][page++];
            }
        }
        n_wrong += page != (int) first_cells[sequence].size();
    }
    fill(false);  // a table that is left from before would be believed
    return n_wrong + n_chunks();
}
