#include "engine/state_file.h"

#include "base/error.h"
#include "sampling/noise.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

namespace pmtp {

namespace {

constexpr char kMagic[8] = { 'P', 'M', 'T', 'P', 'K', 'V', '\r', '\n' };
constexpr uint32_t kVersion = 1;
// Texts and windows of a file, which has none of these sizes where a size was altered.
constexpr uint32_t kMostPrefixes = 256, kMostWindows = 1024;

struct Header {
    char magic[8];
    uint32_t version;
    uint32_t n_prefixes;
    uint64_t fingerprint;
    uint64_t size;      // of the records
    uint64_t checksum;  // of the records and of the fields above
};
static_assert(sizeof(Header) == 40, "no padding");

uint64_t checksum_of(const Header & header, const std::vector<uint8_t> & records) {
    return hash_bytes(records.data(), records.size(), hash_bytes(&header, offsetof(Header, checksum), 0));
}

using File = std::unique_ptr<FILE, int (*)(FILE *)>;

[[noreturn]] void refuse(const std::string & path, const std::string & why) {
    throw Error(Status::model_load, format("%s: %s", path.c_str(), why.c_str()));
}

void append(std::vector<uint8_t> & out, const void * data, size_t size) {
    out.insert(out.end(), (const uint8_t *) data, (const uint8_t *) data + size);
}

template <typename T> void append_number(std::vector<uint8_t> & out, T value) { append(out, &value, sizeof(value)); }

class Reader {
  public:
    Reader(const std::string & path, const std::vector<uint8_t> & bytes) : path_(path), bytes_(bytes) {}

    template <typename T> T number(uint64_t most) {
        T value;
        std::memcpy(&value, take(sizeof(value)), sizeof(value));
        if ((uint64_t) value > most) {
            refuse(path_, format("the saved state is damaged: a size is %llu, expected at most %llu",
                                 (unsigned long long) value, (unsigned long long) most));
        }
        return value;
    }

    template <typename T> std::vector<T> list(uint64_t n) {
        const uint8_t * data = take(n * sizeof(T));
        std::vector<T> values(n);
        std::memcpy(values.data(), data, n * sizeof(T));
        return values;
    }

    size_t left() const { return bytes_.size() - at_; }

  private:
    const uint8_t * take(size_t size) {
        if (size > left()) {
            refuse(path_, "the saved state is truncated");
        }
        at_ += size;
        return bytes_.data() + at_ - size;
    }

    const std::string & path_;
    const std::vector<uint8_t> & bytes_;
    size_t at_ = 0;
};

}  // namespace

uint64_t hash_bytes(const void * data, size_t size, uint64_t seed) {
    const auto * bytes = (const uint8_t *) data;
    uint64_t hash = mix_bits(seed + size + kGolden);
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = 0;
        std::memcpy(&word, bytes + i, size - i < 8 ? size - i : 8);
        hash = mix_bits(hash ^ word) + kGolden;
    }
    return hash;
}

void write_state_file(const std::string & path, uint64_t fingerprint, const std::vector<SavedPrefix> & prefixes) {
    std::vector<uint8_t> records;
    for (const SavedPrefix & prefix : prefixes) {
        append_number(records, (uint32_t) prefix.tokens.size());
        append_number(records, (uint32_t) prefix.windows.size());
        append_number(records, (uint64_t) prefix.full.size());
        append(records, prefix.tokens.data(), prefix.tokens.size() * sizeof(int32_t));
        append(records, prefix.full.data(), prefix.full.size());
        for (const SavedWindow & window : prefix.windows) {
            append_number(records, (uint32_t) window.low);
            append_number(records, (uint32_t) window.high);
            append_number(records, (uint64_t) window.bytes.size());
            append(records, window.bytes.data(), window.bytes.size());
        }
    }
    Header header = {};
    std::memcpy(header.magic, kMagic, sizeof(kMagic));
    header.version = kVersion;
    header.n_prefixes = (uint32_t) prefixes.size();
    header.fingerprint = fingerprint;
    header.size = records.size();
    header.checksum = checksum_of(header, records);
    File file(fopen(path.c_str(), "wb"), fclose);
    const bool written = file && fwrite(&header, sizeof(header), 1, file.get()) == 1 &&
                         fwrite(records.data(), 1, records.size(), file.get()) == records.size() &&
                         fflush(file.get()) == 0;
    if (!written || fclose(file.release()) != 0) {
        refuse(path, format("cannot write: %s", strerror(errno)));
    }
}

std::vector<SavedPrefix> read_state_file(const std::string & path, uint64_t fingerprint, int most_tokens, int n_vocab) {
    File file(fopen(path.c_str(), "rb"), fclose);
    if (!file) {
        refuse(path, format("cannot read: %s", strerror(errno)));
    }
    Header header;
    if (fread(&header, sizeof(header), 1, file.get()) != 1 || std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) {
        refuse(path, "no saved state: it does not begin like one");
    }
    if (header.version != kVersion) {
        refuse(path, format("a saved state of version %u, expected %u: save it again", header.version, kVersion));
    }
    if (header.fingerprint != fingerprint) {
        refuse(path, "a saved state of another model, other cache types or another layout of the cache: load it with "
                     "the model and the options that it was saved with");
    }
    if (fseeko(file.get(), 0, SEEK_END) != 0 || (uint64_t) ftello(file.get()) != sizeof(header) + header.size ||
        fseeko(file.get(), sizeof(header), SEEK_SET) != 0) {
        refuse(path, "the saved state is truncated, or longer than it says");
    }
    std::vector<uint8_t> records(header.size);
    if (fread(records.data(), 1, records.size(), file.get()) != records.size()) {
        refuse(path, "the saved state cannot be read to its end");
    }
    if (header.n_prefixes > kMostPrefixes || checksum_of(header, records) != header.checksum) {
        refuse(path, "the saved state is damaged: its checksum is wrong");
    }
    Reader reader(path, records);
    std::vector<SavedPrefix> prefixes(header.n_prefixes);
    for (SavedPrefix & prefix : prefixes) {
        const auto n_tokens = reader.number<uint32_t>((uint64_t) most_tokens);
        const auto n_windows = reader.number<uint32_t>(kMostWindows);
        const auto size = reader.number<uint64_t>(records.size());
        prefix.tokens = reader.list<int32_t>(n_tokens);
        for (int32_t token : prefix.tokens) {
            if (token < 0 || token >= n_vocab) {
                refuse(path, format("the saved state is damaged: a token id is %d", token));
            }
        }
        prefix.full = reader.list<uint8_t>(size);
        for (uint32_t i = 0; i < n_windows; i++) {
            SavedWindow & window = prefix.windows.emplace_back();
            window.low = (int) reader.number<uint32_t>(n_tokens);
            window.high = (int) reader.number<uint32_t>(n_tokens);
            window.bytes = reader.list<uint8_t>(reader.number<uint64_t>(records.size()));
        }
    }
    if (reader.left() != 0) {
        refuse(path, "the saved state is damaged: it is longer than its records");
    }
    return prefixes;
}

}  // namespace pmtp
