// Saved prefixes as a file: texts, their K/V and saved windows.
//
// Header: magic, version, fingerprint of the model and the cache's types, size and checksum of what follows: a list of
// records. Every byte is checked before llama.cpp reads one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pmtp {

struct SavedWindow {
    int low = 0, high = 0;  // positions
    std::vector<uint8_t> bytes;
};

// A text, whose K/V of the layers that see all positions is in `full`.
struct SavedPrefix {
    std::vector<int32_t> tokens;
    std::vector<uint8_t> full;
    std::vector<SavedWindow> windows;
};

// Throws Error(model_load) if the file cannot be written.
void write_state_file(const std::string & path, uint64_t fingerprint, const std::vector<SavedPrefix> & prefixes);

// most_tokens: of a text; n_vocab: token ids are below. Throws Error(model_load) for a file that is none, truncated,
// altered, or of another model, other cache types or another version.
std::vector<SavedPrefix> read_state_file(const std::string & path, uint64_t fingerprint, int most_tokens, int n_vocab);

// A hash of bytes that finds alterations, not forgeries: what is read is checked besides.
uint64_t hash_bytes(const void * data, size_t size, uint64_t seed);

}  // namespace pmtp
