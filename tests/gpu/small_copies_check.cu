// Copies that csrc/kernels/cuda/small_copies.cu gathers, of all sizes and alignments, more than a launch has, from
// memory that changes at once and to memory of any kind, and in any order: what comes of them is what comes of them one
// by one. Built and run by test_kernels.py.
#include "device.cuh"
#include "kernels/cuda/small_copies.cuh"

#include <algorithm>
#include <cstring>
#include <random>

namespace {

int failures = 0;

void expect(bool condition, const char * what) {
    if (!condition) {
        printf("%s\n", what);
        failures++;
    }
}

void check_copies(cudaStream_t stream, int n, size_t most, std::mt19937 & random) {
    const size_t place = most + 48;
    std::vector<uint8_t> right(place * n, 0x5a), from(most);
    const DeviceArray<uint8_t> to(right.size());
    for (int i = 0; i < n; i++) {
        const size_t size = 1 + random() % most, at = i * place + (i % 3 == 0 ? random() % 16 : i % 3 == 1 ? 16 : 4);
        for (size_t j = 0; j < size; j++) {
            from[j] = (uint8_t) random();
        }
        std::copy_n(from.begin(), size, right.begin() + (ptrdiff_t) at);
        expect(pmtp_cuda_queue_copy(0, stream, to.get() + at, from.data(), size), "refused");
        std::memset(from.data(), 0, from.size());
    }
    pmtp_cuda_launch_copies(stream);
    check(cudaStreamSynchronize(stream));
    expect(to.host() == right, "other bytes");
}

// A launch spreads its copies side by side, so of two to one place the first could come last.
void check_order(cudaStream_t stream, std::mt19937 & random) {
    constexpr size_t kSize = 60 << 10;
    std::vector<uint8_t> right(kSize, 0x5a), from(kSize);
    const DeviceArray<uint8_t> to(right.size());
    for (int i = 0; i < 40; i++) {
        const size_t at = random() % kSize, size = 1 + random() % (kSize - at);
        std::fill(from.begin(), from.end(), (uint8_t) i);
        std::copy_n(from.begin(), size, right.begin() + (ptrdiff_t) at);
        expect(pmtp_cuda_queue_copy(0, stream, to.get() + at, from.data(), size), "refused");
    }
    pmtp_cuda_launch_copies(stream);
    check(cudaStreamSynchronize(stream));
    expect(to.host() == right, "copies to one place in another order");
}

// One memory of the device, as it is and as it ought to be, and what was read from it.
class Memory {
  public:
    Memory(size_t size, cudaStream_t stream, std::mt19937 & random)
        : stream_(stream),
          random_(random),
          right_(size, 0x5a),
          device_(size) {}

    void upload(size_t most) {
        const size_t size = any_size(most), at = any_place(size);
        std::vector<uint8_t> from(size);
        std::generate(from.begin(), from.end(), [&] { return (uint8_t) random_(); });
        std::copy(from.begin(), from.end(), right_.begin() + (ptrdiff_t) at);
        if (!pmtp_cuda_queue_copy(0, stream_, device_.get() + at, from.data(), size)) {
            check(cudaMemcpyAsync(device_.get() + at, from.data(), size, cudaMemcpyHostToDevice, stream_));
            check(cudaStreamSynchronize(stream_));
        }
    }

    void copy(size_t most) {
        const size_t size = any_size(most), to = any_place(size), from = any_place(size);
        if (to < from + size && from < to + size) {
            return;
        }
        std::copy_n(right_.begin() + (ptrdiff_t) from, size, right_.begin() + (ptrdiff_t) to);
        if (!pmtp_cuda_queue_device_copy(0, stream_, stream_, device_.get() + to, device_.get() + from, size)) {
            check(cudaMemcpyAsync(device_.get() + to, device_.get() + from, size, cudaMemcpyDeviceToDevice, stream_));
        }
    }

    void read(size_t most) {
        const size_t size = any_size(most), at = any_place(size);
        Read & read = reads_.emplace_back();
        read.right.assign(right_.begin() + (ptrdiff_t) at, right_.begin() + (ptrdiff_t) (at + size));
        read.got.resize(size);
        if (!pmtp_cuda_queue_read(0, stream_, read.got.data(), device_.get() + at, size)) {
            check(cudaMemcpyAsync(read.got.data(), device_.get() + at, size, cudaMemcpyDeviceToHost, stream_));
        }
    }

    void wait() {
        pmtp_cuda_launch_copies(stream_);
        check(cudaStreamSynchronize(stream_));
        pmtp_cuda_finish_reads(stream_);
        for (const Read & read : reads_) {
            expect(read.got == read.right, "other bytes were read");
        }
        reads_.clear();
        expect(device_.host() == right_, "other bytes in the device's memory");
    }

  private:
    struct Read {
        std::vector<uint8_t> right, got;
    };

    size_t any_size(size_t most) { return 1 + random_() % most; }
    size_t any_place(size_t size) { return random_() % (right_.size() - size); }

    cudaStream_t stream_;
    std::mt19937 & random_;
    std::vector<uint8_t> right_;
    const DeviceArray<uint8_t> device_;
    std::vector<Read> reads_;
};

// most: bytes of one.
void check_mixture(cudaStream_t stream, size_t most, std::mt19937 & random) {
    Memory memory(4 * most, stream, random);
    for (int i = 0; i < 300; i++) {
        switch (random() % 8) {
            case 0: pmtp_cuda_launch_copies(stream); break;
            case 1:
            case 2:
            case 3: memory.upload(most); break;
            case 4:
            case 5: memory.copy(most); break;
            default: memory.read(most);
        }
        if (random() % 50 == 0) {
            memory.wait();
        }
    }
    memory.wait();
}

}  // namespace

int main(int argc, char **) {
    std::mt19937 random(8);
    cudaStream_t stream;
    check(cudaStreamCreate(&stream));
    for (int round = 0; round < (argc > 1 ? 2 : 8); round++) {
        check_copies(stream, 20, 64, random);
        check_copies(stream, 200, 300, random);
        check_copies(stream, 12, kMostCopied, random);
        check_order(stream, random);
        for (const size_t most : { (size_t) 8, (size_t) 200, (size_t) 5000, kMostRead / 2, kMostCopied + kMostRead }) {
            check_mixture(stream, most, random);
        }
    }
    char none[1] = {};
    expect(!pmtp_cuda_queue_copy(0, stream, none, none, 0), "nothing was queued");
    expect(!pmtp_cuda_queue_copy(0, stream, none, none, kMostCopied + 1), "too much was queued");
    expect(!pmtp_cuda_queue_read(0, stream, none, none, kMostRead + 1), "too much was read");
    expect(!pmtp_cuda_queue_device_copy(0, stream, stream, none, none, kMostCopied + 1),
           "too much was queued within the device");
    pmtp_cuda_launch_copies(stream);
    pmtp_cuda_forget_copies(stream);
    check(cudaStreamDestroy(stream));
    printf(failures == 0 ? "ok\n" : "%d failures\n", failures);
    return failures != 0;
}
