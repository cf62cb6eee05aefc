#include "kernels/cuda/input_copies.cuh"

#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <unordered_map>

namespace {

// Of a launch: parameters of kernels may have 4 KiB.
constexpr int kMostCopies = 64;
// Bytes of a launch; and of a copy, from where on the copy engine is as fast.
constexpr size_t kMostBytes = 256 << 10;
constexpr size_t kMostOfOne = 64 << 10;
// Launches whose bytes may wait for the device.
constexpr int kBuffers = 2;

constexpr int kThreads = 256;
// Blocks that share a copy.
constexpr int kBlocks = 4;

// From an offset in the buffer, a multiple of 16.
struct Copy {
    void * to;
    uint32_t offset;
    uint32_t size;
};

struct Copies {
    const char * buffer;
    Copy all[kMostCopies];
};

template <typename T>
__device__ __forceinline__ void copy_words(char * to, const char * from, uint32_t size, uint32_t begin) {
    const uint32_t n = size / sizeof(T);
    for (uint32_t i = begin; i < n; i += kBlocks * kThreads) {
        ((T *) to)[i] = ((const T *) from)[i];
    }
}

__global__ void __launch_bounds__(kThreads) spread(const __grid_constant__ Copies copies) {
    const Copy & copy = copies.all[blockIdx.x];
    char * to = (char *) copy.to;
    const char * from = copies.buffer + copy.offset;
    const uint32_t begin = blockIdx.y * kThreads + threadIdx.x;
    if (((uintptr_t) to | copy.size) % sizeof(uint4) == 0) {
        copy_words<uint4>(to, from, copy.size, begin);
    } else if (((uintptr_t) to | copy.size) % sizeof(uint32_t) == 0) {
        copy_words<uint32_t>(to, from, copy.size, begin);
    } else {
        copy_words<char>(to, from, copy.size, begin);
    }
}

// Of one stream of the device that is current when it is made.
class Queue {
  public:
    Queue() { cudaGetDevice(&device_); }
    ~Queue() {
        for (Buffer & buffer : buffers_) {
            if (buffer.data != nullptr) {
                cudaEventDestroy(buffer.read);
                cudaFreeHost(buffer.data);
            }
        }
    }

    // Before another copy to that place: those of a launch have no order.
    void launch_copies_to(cudaStream_t stream, const void * to, size_t size) {
        const auto begin = (uintptr_t) to;
        for (int i = 0; i < n_; i++) {
            const auto other = (uintptr_t) copies_.all[i].to;
            if (begin < other + copies_.all[i].size && other < begin + size) {
                launch(stream);  // and n_ is 0
            }
        }
    }

    bool add(cudaStream_t stream, void * to, const void * from, size_t size) {
        const size_t padded = (size + 15) / 16 * 16;
        if (n_ == kMostCopies || n_bytes_ + padded > kMostBytes) {
            launch(stream);
        }
        if (n_ == 0 && !begin()) {
            return false;
        }
        memcpy(buffers_[current_].data + n_bytes_, from, size);
        copies_.all[n_++] = { to, (uint32_t) n_bytes_, (uint32_t) size };
        n_bytes_ += padded;
        return true;
    }

    void launch(cudaStream_t stream) {
        if (n_ == 0) {
            return;
        }
        int device = device_;
        cudaGetDevice(&device);
        cudaSetDevice(device_);
        copies_.buffer = buffers_[current_].data;
        spread<<<dim3(n_, kBlocks), kThreads, 0, stream>>>(copies_);
        cudaEventRecord(buffers_[current_].read, stream);
        cudaSetDevice(device);
        current_ = (current_ + 1) % kBuffers;
        n_ = 0;
        n_bytes_ = 0;
    }

  private:
    struct Buffer {
        char * data = nullptr;  // pinned, which the device reads
        cudaEvent_t read;       // by the last launch
    };

    // A buffer that nothing reads any more.
    bool begin() {
        Buffer & buffer = buffers_[current_];
        if (buffer.data != nullptr) {
            return cudaEventSynchronize(buffer.read) == cudaSuccess;
        }
        if (cudaEventCreateWithFlags(&buffer.read, cudaEventDisableTiming) != cudaSuccess) {
            return false;
        }
        if (cudaMallocHost((void **) &buffer.data, kMostBytes) != cudaSuccess) {
            (void) cudaGetLastError();
            cudaEventDestroy(buffer.read);
            buffer.data = nullptr;
            return false;
        }
        return true;
    }

    int device_ = 0;  // the stream's
    Buffer buffers_[kBuffers];
    Copies copies_;
    int current_ = 0;
    int n_ = 0;
    size_t n_bytes_ = 0;
};

std::mutex mutex;
std::unordered_map<cudaStream_t, std::unique_ptr<Queue>> queues;

// Of the stream, which one thread at a time uses; null without one, unless it is to be made.
Queue * queue_of(cudaStream_t stream, bool make) {
    const std::lock_guard lock(mutex);
    if (make) {
        std::unique_ptr<Queue> & queue = queues[stream];
        if (queue == nullptr) {
            queue = std::make_unique<Queue>();
        }
        return queue.get();
    }
    const auto found = queues.find(stream);
    return found != queues.end() ? found->second.get() : nullptr;
}

}  // namespace

bool pmtp_cuda_queue_copy(cudaStream_t stream, void * to, const void * from, size_t size) {
    Queue * queue = queue_of(stream, true);
    queue->launch_copies_to(stream, to, size);
    return size > 0 && size <= kMostOfOne && queue->add(stream, to, from, size);
}

void pmtp_cuda_launch_copies(cudaStream_t stream) {
    if (Queue * queue = queue_of(stream, false)) {
        queue->launch(stream);
    }
}

void pmtp_cuda_forget_copies(cudaStream_t stream) {
    const std::lock_guard lock(mutex);
    queues.erase(stream);
}
