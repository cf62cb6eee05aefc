#include "engine/kv_cache.h"

#include "engine/state_file.h"
#include "llama/internal.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

namespace pmtp {

namespace {

llama_kv_cache * sliding_cache(const llama_context & context) {
    const auto * iswa = dynamic_cast<const llama_kv_cache_iswa *>(llama_get_memory(&context));
    return iswa != nullptr ? iswa->get_swa() : nullptr;
}

// The cache of the layers that see all positions, or nullptr.
llama_kv_cache * full_cache(const llama_context & context) {
    llama_memory_t memory = llama_get_memory(&context);
    if (const auto * iswa = dynamic_cast<const llama_kv_cache_iswa *>(memory)) {
        return iswa->get_base();
    }
    return dynamic_cast<llama_kv_cache *>(memory);
}

class Writer : public llama_io_write_i {
  public:
    void write(const void * data, size_t size) override {
        bytes.insert(bytes.end(), (const uint8_t *) data, (const uint8_t *) data + size);
    }
    void write_tensor(ggml_tensor * tensor, size_t offset, size_t size) override {
        bytes.resize(bytes.size() + size);
        ggml_backend_tensor_get(tensor, bytes.data() + bytes.size() - size, offset, size);
    }
    size_t n_bytes() override { return bytes.size(); }

    std::vector<uint8_t> bytes;
};

class Reader : public llama_io_read_i {
  public:
    explicit Reader(const std::vector<uint8_t> & bytes) : bytes_(bytes) {}
    void read(void * out, size_t size) override { std::memcpy(out, take(size), size); }
    void read_tensor(ggml_tensor * tensor, size_t offset, size_t size) override {
        ggml_backend_tensor_set(tensor, take(size), offset, size);
    }
    size_t n_bytes() override { return at_; }

  private:
    const uint8_t * take(size_t size) {
        if (size > bytes_.size() - at_) {
            throw std::runtime_error("a saved state is too short");
        }
        at_ += size;
        return bytes_.data() + at_ - size;
    }

    const std::vector<uint8_t> & bytes_;
    size_t at_ = 0;
};

// Whether the bytes from `begin` on describe cells at these positions, each of them once, of one sequence each.
bool describes(const std::vector<uint8_t> & saved, size_t begin, int low, int high) {
    struct Cell {
        int32_t position;
        uint32_t n_sequences;
        int32_t sequence;
    };
    struct {
        uint32_t n_streams, n_cells;
    } head;
    const size_t n = (size_t) (high - low);
    if (low < 0 || high <= low || saved.size() < begin + sizeof(head) + n * sizeof(Cell)) {
        return false;
    }
    std::memcpy(&head, saved.data() + begin, sizeof(head));
    if (head.n_streams != 1 || head.n_cells != n) {
        return false;
    }
    std::vector<bool> seen(n);
    for (size_t i = 0; i < n; i++) {
        Cell cell;
        std::memcpy(&cell, saved.data() + begin + sizeof(head) + i * sizeof(Cell), sizeof(Cell));
        if (cell.position < low || cell.position >= high || seen[cell.position - low] || cell.n_sequences != 1) {
            return false;
        }
        seen[cell.position - low] = true;
    }
    return true;
}

// The cells that every position takes, or nullptr.
const llama_kv_cells * full_cells(const llama_context & context) {
    const llama_kv_cache * cache = full_cache(context);
    return cache != nullptr ? &cache->get_cells(0) : nullptr;
}

}  // namespace

KvCache::KvCache(llama_context & context, int n_slots)
    : context_(context),
      n_slots_(n_slots),
      n_pages_((int) llama_n_ctx(&context) / kPageCells),
      n_swa_(sliding_cache(context) != nullptr ? llama_model_n_swa(llama_get_model(&context)) : 0),
      can_truncate_(full_cache(context) != nullptr) {}

bool KvCache::truncate(int slot, int n) {
    llama_memory_t memory = llama_get_memory(&context_);
    if (n > 0 && llama_memory_seq_rm(memory, slot, n, -1)) {
        return true;
    }
    llama_memory_seq_rm(memory, slot, -1, -1);
    return n <= 0;
}

void KvCache::clear() { llama_memory_clear(llama_get_memory(&context_), /*data*/ false); }

void KvCache::share(int from, int to, int n) { full_cache(context_)->seq_cp(from, to, 0, n); }

bool KvCache::shares_page(int slot, int n) const {
    const llama_kv_cells & cells = *full_cells(context_);
    const int first = n / kPageCells * kPageCells;
    for (uint32_t i = 0; i < cells.used_max_p1(); i++) {
        if (!cells.is_empty(i) && cells.seq_has(i, slot) && cells.pos_in(i, first, first + kPageCells)) {
            return cells.seq_count(i) > 1;
        }
    }
    return false;
}

// Every position between the first and the last is there.
WindowRange KvCache::window(int slot) const {
    const llama_kv_cache * cache = sliding_cache(context_);
    if (cache == nullptr) {
        return {};
    }
    const llama_pos last = cache->get_cells(0).seq_pos_max(slot);
    return last < 0 ? WindowRange{} : WindowRange{ cache->get_cells(0).seq_pos_min(slot), last + 1 };
}

std::vector<uint8_t> KvCache::save_window(int slot) const {
    std::vector<uint8_t> saved(llama_state_seq_get_size_ext(&context_, slot, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY));
    saved.resize(
        llama_state_seq_get_data_ext(&context_, saved.data(), saved.size(), slot, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY));
    return saved;
}

bool KvCache::restore_window(int slot, const std::vector<uint8_t> & saved, int n) {
    const size_t read =
        llama_state_seq_set_data_ext(&context_, saved.data(), saved.size(), slot, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
    if (read != saved.size()) {
        return false;
    }
    sliding_cache(context_)->seq_rm(slot, n, -1);
    return true;
}

void KvCache::drop_window(int slot) {
    if (llama_kv_cache * cache = sliding_cache(context_)) {
        cache->seq_rm(slot, -1, -1);
    }
}

std::vector<uint8_t> KvCache::save_full(int slot) const {
    Writer writer;
    full_cache(context_)->state_write(writer, slot, 0);
    return std::move(writer.bytes);
}

bool KvCache::restore_full(int slot, const std::vector<uint8_t> & saved, int n) {
    llama_kv_cache & cache = *full_cache(context_);
    if (cache.has_cell_ext() || !describes(saved, 0, 0, n)) {
        return false;
    }
    Reader reader(saved);
    try {
        cache.state_read(reader, slot, 0);
    } catch (const std::exception &) {  // llama.cpp has logged why
        cache.seq_rm(slot, -1, -1);
        return false;
    }
    return reader.n_bytes() == saved.size();
}

// Behind llama_state_seq_get_data_ext's magic and number.
bool KvCache::is_window(const std::vector<uint8_t> & saved, const WindowRange & range) const {
    return has_windows() && !sliding_cache(context_)->has_cell_ext() &&
           describes(saved, sizeof(uint32_t) + sizeof(llama_seq_id), range.low, range.high);
}

// Of every tensor its name, type and shape, and some bytes of its values.
uint64_t KvCache::fingerprint() const {
    const llama_model & model = context_.get_model();
    uint64_t hash = 0;
    const auto add = [&](const ggml_tensor & tensor, bool values) {
        hash = hash_bytes(tensor.name, std::strlen(tensor.name), hash);
        hash = hash_bytes(&tensor.type, sizeof(tensor.type), hash);
        hash = hash_bytes(tensor.ne, values ? sizeof(tensor.ne) : sizeof(tensor.ne[0]), hash);
        uint8_t bytes[256] = {};
        if (values) {
            const size_t size = std::min(sizeof(bytes), ggml_nbytes(&tensor));
            ggml_backend_tensor_get(&tensor, bytes, (ggml_nbytes(&tensor) - size) / 2, size);
        }
        hash = hash_bytes(bytes, sizeof(bytes), hash);
    };
    for (const auto & [name, tensor] : llama_internal_get_tensor_map(&model)) {
        add(*tensor, /*values*/ true);
    }
    for (const llama_kv_cache * cache : { full_cache(context_), sliding_cache(context_) }) {
        if (cache != nullptr) {
            for (uint32_t layer : cache->get_layer_ids()) {
                add(*cache->get_k_storage((int32_t) layer), /*values*/ false);
            }
        }
    }
    const bool flash_attention = context_.get_cparams().flash_attn;
    return hash_bytes(&flash_attention, sizeof(flash_attention), hash);
}

int KvCache::free_pages() const {
    const llama_kv_cells * cells = full_cells(context_);
    if (cells == nullptr) {
        return n_pages_;
    }
    int n_free = 0;
    for (int page = 0; page < n_pages_; page++) {
        bool empty = true;
        for (int i = page * kPageCells; empty && i < (page + 1) * kPageCells; i++) {
            empty = cells->is_empty(i);
        }
        n_free += empty;
    }
    return n_free;
}

}  // namespace pmtp
