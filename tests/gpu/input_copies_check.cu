// Copies that csrc/kernels/cuda/input_copies.cu gathers, of all sizes and alignments, more than a launch has, and from
// memory that changes at once. Built and run by test_kernels.py.
#include "device.cuh"
#include "kernels/cuda/input_copies.cuh"

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
        expect(pmtp_cuda_queue_copy(stream, to.get() + at, from.data(), size), "refused");
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
        expect(pmtp_cuda_queue_copy(stream, to.get() + at, from.data(), size), "refused");
    }
    pmtp_cuda_launch_copies(stream);
    check(cudaStreamSynchronize(stream));
    expect(to.host() == right, "copies to one place in another order");
}

}  // namespace

int main(int argc, char **) {
    std::mt19937 random(8);
    cudaStream_t stream;
    check(cudaStreamCreate(&stream));
    for (int round = 0; round < (argc > 1 ? 2 : 8); round++) {
        check_copies(stream, 20, 64, random);
        check_copies(stream, 200, 300, random);
        check_copies(stream, 12, 64 << 10, random);
        check_order(stream, random);
    }
    char none[1] = {};
    expect(!pmtp_cuda_queue_copy(stream, none, none, 0), "nothing was queued");
    expect(!pmtp_cuda_queue_copy(stream, none, none, (64 << 10) + 1), "too much was queued");
    pmtp_cuda_launch_copies(stream);
    pmtp_cuda_forget_copies(stream);
    check(cudaStreamDestroy(stream));
    printf(failures == 0 ? "ok\n" : "%d failures\n", failures);
    return failures != 0;
}
