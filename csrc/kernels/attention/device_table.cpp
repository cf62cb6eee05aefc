#include "kernels/attention/device_table.h"

#include <algorithm>
#include <cstring>

namespace pmtp::attention {
namespace {

using Chunk = DeviceTable::Chunk;

// A run's pages in chunks, of a page each or as long as their positions say.
class RunChunks {
  public:
    RunChunks(const Pages::Run & run, bool of_a_page)
        : run_(run),
          of_a_page_(of_a_page),
          first_(at(run.first_page)),
          n_(run.n_pages > 0 ? at(run.first_page + run.n_pages - 1) + 1 - first_ : 0) {}

    int count() const { return (int) n_; }
    // Pages from first_page on.
    int64_t begin(int i) const { return std::max<int64_t>(start(first_ + i) - run_.first_page, 0); }
    int64_t end(int i) const { return std::min(start(first_ + i + 1) - run_.first_page, run_.n_pages); }

  private:
    int64_t at(int64_t page) const { return of_a_page_ ? page : cuda::chunk_of_page((int) page); }
    int64_t start(int64_t chunk) const { return of_a_page_ ? chunk : cuda::chunk_begin((int) chunk); }

    const Pages::Run & run_;
    const bool of_a_page_;
    const int64_t first_, n_;
};

}  // namespace

int64_t table_words(int64_t n_cells, int64_t n_rows, int64_t n_sequences) {
    const int64_t n_chunks = n_sequences * cuda::chunk_count((int) (n_cells / kPage));
    return n_cells <= DeviceTable::kCellsWithout || n_cells % kPage != 0
               ? 0
               : DeviceTable::chunks_at(n_rows) + n_chunks * DeviceTable::kChunkWords;
}

void write_table(const Pages * pages, int64_t window, int64_t n_cells, int64_t n_rows, int32_t * words,
                 int64_t n_words) {
    const bool of_a_page = window > 0 && window <= DeviceTable::kWindow;
    DeviceTable::Header header = {};
    const auto end = [&] { std::memcpy(words, &header, sizeof(header)); };
    if (pages == nullptr) {
        return end();
    }
    const int64_t chunks_at = DeviceTable::chunks_at(n_rows);
    const int most_chunks = cuda::chunk_count((int) (n_cells / kPage));  // that a row's results have room for
    int64_t n_chunks = 0;
    for (const Pages::Run & run : pages->runs) {
        const int n = RunChunks(run, of_a_page).count();
        n_chunks += n;
        if (n > most_chunks || chunks_at + n_chunks * DeviceTable::kChunkWords > n_words) {
            return end();
        }
        std::fill_n(words + DeviceTable::kHeaderWords + run.first_row, run.n_rows, n);
    }
    auto * chunk = (Chunk *) (words + chunks_at);
    for (const Pages::Run & run : pages->runs) {
        const RunChunks chunks(run, of_a_page);
        for (int i = 0; i < chunks.count(); i++, chunk++) {
            *chunk = { run.first_row, run.first_row + run.n_rows, i, (int) (chunks.end(i) - chunks.begin(i)), {} };
            std::copy_n(&pages->first_cells[run.cells + chunks.begin(i)], chunk->n_pages, chunk->first_cells);
        }
    }
    header.n_chunks = (int) n_chunks;
    end();
}

}  // namespace pmtp::attention
