// Activation rows as the kernels read them, in ggml's work buffer: in tiles of a few rows whose values lie side by
// side.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pmtp::products {

// Most rows in a tile: k + 1 for k up to 8.
constexpr int kTileRows = 9;
// Most tiles that a kernel is given.
constexpr int kMaxTiles = 16;

// What the values are, and how many of a row are together in a record.
enum class Coding {
    zero_point,       // bytes, 32 in a record, with a scale as in ggml's q8_0 (rounded to f16) and a correction
    wide_zero_point,  // the same, for a zero point of 128
    plain,            // without corrections, a vector's bytes in a record, made for dots with signed weights
    super,            // bytes, 256 in a record, with a scale as in ggml's q8_K and sums
    floats,           // floats, 32 in a record
};

// A tile: record r of row n is at index r * n_rows + n of every array.
struct Tile {
    int n_rows;
    const void * values;          // int8_t, but uint8_t or float where the coding says so
    const float * scales;         // one for 32 values, `super`: for 256
    const int32_t * corrections;  // `zero_point`: minus the zero point (8 or 128) times the sum of 32 values
    const int16_t * sums16;       // `super`: 16 sums of 16 values
    const int16_t * sums32;       // `super`: 8 sums of 32 values
    float * result;               // column c of row n is at n * stride + c
    int64_t stride;
    const int32_t * places;  // if not null: at places[n] * stride + c

    float * row(int n) const { return result + (places == nullptr ? n : places[n]) * stride; }
};

class Activations {
  public:
    // `buffer` has bytes(..) bytes.
    Activations(void * buffer, Coding coding, int64_t n_in, int64_t n_rows);

    static size_t bytes(Coding coding, int64_t n_in, int64_t n_rows);

    int64_t n_in() const { return n_in_; }
    size_t size() const { return bytes(coding_, n_in_, n_rows_); }

    // Writes share `i` of `n` of all rows' records; row r begins r * stride bytes after x, or rows[r] * stride.
    void encode(const float * x, size_t stride, int i, int n, const int32_t * rows = nullptr) const;

    // Tiles are of equal width, up to one row. Row r's results are at r * stride, or places[r] * stride.
    int64_t n_tiles() const { return n_tiles_; }
    Tile tile(int64_t i, float * result, int64_t stride, const int32_t * places = nullptr) const;

  private:
    void encode_row(const float * x, int64_t row, int64_t begin, int64_t end) const;
    int64_t first_row(int64_t tile) const;
    int64_t tile_of(int64_t row) const;

    Coding coding_;
    int64_t n_in_;
    int64_t n_rows_;
    int64_t n_records_;
    int64_t n_tiles_;
    char * values_;
    char * scales_;
    char * sums_;
    char * sums32_;
};

}  // namespace pmtp::products
