// Matrices of several slices, copied by three threads, are what ggml makes of them at once; a value that is none is
// found wherever it lies; a load that is stopped ends.
//
//     weight_loads
//
// Prints the types that ggml repacks on this CPU, one a line, and what failed; returns 1 if something did.
#include "llama/hooks/weight_loads.h"

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

int failures = 0;

void check(bool ok, const char * type, const char * what) {
    if (!ok) {
        std::printf("failed: %s %s\n", type, what);
        failures++;
    }
}

// A file of random bytes, mapped as a model is: pages that are let go come back.
class Mapped {
  public:
    explicit Mapped(size_t size) : file_(std::tmpfile()), size_(size) {
        std::mt19937_64 rng(1);
        std::vector<uint64_t> words(size / 8 + 1);
        for (uint64_t & word : words) {
            word = rng();
        }
        if (file_ == nullptr || std::fwrite(words.data(), 1, size, file_) != size || std::fflush(file_) != 0) {
            std::exit(2);
        }
        data_ = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file_), 0);
        if (data_ == MAP_FAILED) {
            std::exit(2);
        }
    }
    ~Mapped() {
        munmap(data_, size_);
        std::fclose(file_);
    }
    Mapped(const Mapped &) = delete;
    Mapped & operator=(const Mapped &) = delete;

    char * data() const { return static_cast<char *>(data_); }

  private:
    std::FILE * file_;
    void * data_;
    size_t size_;
};

// A tensor with memory of its own.
struct Weights {
    Weights(ggml_type type, const int64_t (&ne)[3], ggml_backend_buffer_type_t buft)
        : context(ggml_init({ 2 * ggml_tensor_overhead(), nullptr, /*no_alloc*/ true })),
          tensor(ggml_new_tensor(context, type, 3, ne)),
          buffer(ggml_backend_alloc_ctx_tensors_from_buft(context, buft)) {
        std::memset(tensor->data, 0, ggml_nbytes(tensor));
    }
    ~Weights() {
        ggml_backend_buffer_free(buffer);
        ggml_free(context);
    }
    Weights(const Weights &) = delete;
    Weights & operator=(const Weights &) = delete;

    ggml_context * context;
    ggml_tensor * tensor;
    ggml_backend_buffer_t buffer;
};

ggml_backend_buffer_type_t repacking() {
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    const auto extra = (ggml_backend_dev_get_extra_bufts_t) ggml_backend_reg_get_proc_address(
        ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts");
    for (ggml_backend_buffer_type_t * buft = extra(cpu); *buft != nullptr; buft++) {
        if (std::strcmp(ggml_backend_buft_name(*buft), "CPU_REPACK") == 0) {
            return *buft;
        }
    }
    return nullptr;
}

bool is_repacked(ggml_type type, ggml_backend_buffer_type_t buft) {
    Weights weights(type, { 256, 64, 1 }, buft);
    return weights.tensor->extra != nullptr;
}

template <class F> std::string error_of(F f) {
    try {
        f();
    } catch (const std::runtime_error & error) {
        return error.what();
    }
    return "";
}

void copy_equals(ggml_type type, const int64_t (&ne)[3], ggml_backend_buffer_type_t buft) {
    Weights whole(type, ne, buft), sliced(type, ne, buft);
    const size_t size = ggml_nbytes(whole.tensor);
    const Mapped file(size);
    ggml_backend_tensor_set(whole.tensor, file.data(), 0, size);
    {
        const WeightLoads loads(3, [] { return false; });
        pmtp_copy_weights(sliced.tensor, file.data(), size, /*check*/ false);
    }
    check(std::memcmp(whole.tensor->data, sliced.tensor->data, size) == 0, ggml_type_name(type), "copied in slices");
}

// Of Q4_0, whose blocks begin with a scale.
void bad_values_are_found(ggml_backend_buffer_type_t buft) {
    const int64_t ne[3] = { 512, 40024, 1 };
    Weights weights(GGML_TYPE_Q4_0, ne, buft);
    const size_t size = ggml_nbytes(weights.tensor), block = ggml_type_size(GGML_TYPE_Q4_0);
    const Mapped file(size);
    std::memset(file.data(), 0, size);
    const auto copy = [&] { pmtp_copy_weights(weights.tensor, file.data(), size, /*check*/ true); };
    const auto keep = [&] { pmtp_keep_weights(weights.tensor, file.data(), size, /*check*/ true); };
    const WeightLoads loads(3, [] { return false; });
    check(error_of(copy).empty() && error_of(keep).empty(), "q4_0", "zeros are values");
    for (const size_t at : { (size_t) 0, size / block / 2, size / block - 1 }) {
        const uint16_t nan = 0x7e00, zero = 0;
        std::memcpy(file.data() + at * block, &nan, sizeof(nan));
        check(error_of(copy).find("invalid data") != std::string::npos, "q4_0", "copies a value that is none");
        check(error_of(keep).find("invalid data") != std::string::npos, "q4_0", "keeps a value that is none");
        std::memcpy(file.data() + at * block, &zero, sizeof(zero));
    }
}

void a_stopped_load_ends(ggml_backend_buffer_type_t buft) {
    const int64_t ne[3] = { 512, 40024, 1 };
    Weights weights(GGML_TYPE_Q4_0, ne, buft);
    const size_t size = ggml_nbytes(weights.tensor);
    const Mapped file(size);
    const WeightLoads loads(3, [] { return true; });
    check(error_of([&] { pmtp_copy_weights(weights.tensor, file.data(), size, false); }).find("stopped") !=
              std::string::npos,
          "q4_0", "copies where the load was stopped");
    check(std::memcmp(weights.tensor->data, std::vector<char>(size).data(), size) == 0, "q4_0", "wrote all the same");
}

}  // namespace

int main() {
    const ggml_backend_buffer_type_t buft = repacking();
    if (buft == nullptr) {
        return 0;
    }
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        const ggml_type type = (ggml_type) i;
        if (ggml_is_quantized(type) && is_repacked(type, buft)) {
            std::printf("%s\n", ggml_type_name(type));
            copy_equals(type, { 512, 40024, 1 }, buft);
            copy_equals(type, { 512, 1000, 40 }, buft);
            copy_equals(type, { 256, 8, 1 }, buft);
        }
    }
    copy_equals(GGML_TYPE_Q8_0, { 512, 40024, 1 }, ggml_backend_cpu_buffer_type());  // as to a device: at once
    bad_values_are_found(buft);
    a_stopped_load_ends(buft);
    return failures > 0;
}
