#include "kernels/cuda/small_copies.cuh"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace {

// Of a launch: parameters of kernels may have 4 KiB.
constexpr int kMostCopies = 64;
// Bytes of a launch that come from the host or go there.
constexpr size_t kMostBytes = 2 << 20;
// Launches whose bytes may wait for the device or for the host: those of a round with drafts, which the host queues
// without waiting for one of them.
constexpr int kBuffers = 4;

constexpr int kThreads = 256;
// Blocks that share each copy of a launch: as many as its largest has pieces of so many bytes.
constexpr int kLeastBlocks = 4, kMostBlocks = 64;
constexpr size_t kBytesOfBlock = 8 << 10;

struct Copy {
    char * to;
    const char * from;
    uint32_t size;
};

struct Copies {
    Copy all[kMostCopies];
};

template <typename T> __device__ __forceinline__ void copy_words(const Copy & copy) {
    const uint32_t n = copy.size / sizeof(T);
    for (uint32_t i = blockIdx.y * kThreads + threadIdx.x; i < n; i += gridDim.y * kThreads) {
        ((T *) copy.to)[i] = ((const T *) copy.from)[i];
    }
}

__global__ void __launch_bounds__(kThreads) spread(const __grid_constant__ Copies copies) {
    const Copy & copy = copies.all[blockIdx.x];
    const uintptr_t bits = (uintptr_t) copy.to | (uintptr_t) copy.from | copy.size;
    if (bits % sizeof(uint4) == 0) {
        copy_words<uint4>(copy);
    } else if (bits % sizeof(uint32_t) == 0) {
        copy_words<uint32_t>(copy);
    } else {
        copy_words<char>(copy);
    }
}

bool overlap(const void * a, size_t a_size, const void * b, size_t b_size) {
    return (uintptr_t) a < (uintptr_t) b + b_size && (uintptr_t) b < (uintptr_t) a + a_size;
}

// Makes a device the current one for as long as it lives.
class CurrentDevice {
  public:
    explicit CurrentDevice(int device) : before_(device) {
        cudaGetDevice(&before_);
        cudaSetDevice(device);
    }
    ~CurrentDevice() { cudaSetDevice(before_); }

  private:
    int before_;
};

// Of one stream of a device.
class Queue {
  public:
    explicit Queue(int device) : device_(device) {}
    ~Queue() {
        for (Buffer & buffer : buffers_) {
            if (buffer.data != nullptr) {
                cudaEventDestroy(buffer.done);
                cudaFreeHost(buffer.data);
            }
        }
    }

    bool upload(cudaStream_t stream, void * to, const void * from, size_t size) {
        char * bytes = room(stream, to, from, size, kMostCopied, size);
        if (bytes == nullptr) {
            return false;
        }
        memcpy(bytes, from, size);
        add(to, bytes, size);
        return true;
    }

    bool copy(cudaStream_t stream, void * to, const void * from, size_t size) {
        if (room(stream, to, from, size, kMostCopied, 0) == nullptr) {
            return false;
        }
        add(to, from, size);
        return true;
    }

    bool read(cudaStream_t stream, void * to, const void * from, size_t size) {
        char * bytes = room(stream, to, from, size, kMostRead, size);
        if (bytes == nullptr) {
            return false;
        }
        add(bytes, from, size);
        buffers_[current_].reads.push_back({ to, bytes, size });
        return true;
    }

    void launch(cudaStream_t stream) {
        if (n_ == 0) {
            return;
        }
        const CurrentDevice current(device_);
        size_t largest = 0;
        for (int i = 0; i < n_; i++) {
            largest = std::max<size_t>(largest, copies_.all[i].size);
        }
        const int n_blocks = std::clamp((int) (largest / kBytesOfBlock), kLeastBlocks, kMostBlocks);
        spread<<<dim3(n_, n_blocks), kThreads, 0, stream>>>(copies_);
        cudaEventRecord(buffers_[current_].done, stream);
        current_ = (current_ + 1) % kBuffers;
        n_ = 0;
        n_bytes_ = 0;
    }

    // The older ones first.
    void finish_reads() {
        for (int i = 0; i < kBuffers; i++) {
            buffers_[(current_ + i) % kBuffers].finish_reads();
        }
    }

  private:
    struct Read {
        void * to;
        const char * from;
        size_t size;
    };

    struct Buffer {
        char * data = nullptr;  // pinned, which the device reads and writes
        cudaEvent_t done;       // the last launch
        std::vector<Read> reads;

        void finish_reads() {
            for (const Read & read : reads) {
                memcpy(read.to, read.from, read.size);
            }
            reads.clear();
        }
    };

    // Memory for so many bytes of the launch to come, which may have a copy like this one; null if it may not.
    char * room(cudaStream_t stream, const void * to, const void * from, size_t size, size_t most, size_t bytes) {
        make_way(stream, (const char *) to, (const char *) from, size);
        if (size == 0 || size > most) {
            return nullptr;
        }
        const size_t padded = (bytes + 15) / 16 * 16;
        if (n_ == kMostCopies || n_bytes_ + padded > kMostBytes) {
            launch(stream);
        }
        if (n_ == 0 && !begin()) {
            return nullptr;
        }
        n_bytes_ += padded;
        return buffers_[current_].data + n_bytes_ - padded;
    }

    void add(void * to, const void * from, size_t size) {
        copies_.all[n_++] = { (char *) to, (const char *) from, (uint32_t) size };
    }

    // For a copy to come: those of a launch have no order. What it overwrites is left out of those before it; one that
    // reads what they write, or overwrites what they read, waits for them.
    void make_way(cudaStream_t stream, const char * to, const char * from, size_t size) {
        for (int i = 0; i < n_; i++) {
            const Copy & c = copies_.all[i];
            if (overlap(c.to, c.size, from, size) || overlap(c.from, c.size, to, size) || n_ == kMostCopies) {
                launch(stream);  // and n_ is 0
            }
        }
        for (int i = n_ - 1; i >= 0; i--) {
            if (overlap(copies_.all[i].to, copies_.all[i].size, to, size)) {
                cut(i, to, size);
            }
        }
    }

    // Into what is in front of a place and what is behind it.
    void cut(int i, const char * place, size_t size) {
        const Copy whole = copies_.all[i];
        copies_.all[i] = copies_.all[--n_];
        if (whole.to < place) {
            add(whole.to, whole.from, (size_t) (place - whole.to));
        }
        if (whole.to + whole.size > place + size) {
            const size_t skipped = (size_t) (place + size - whole.to);
            add(whole.to + skipped, whole.from + skipped, whole.size - skipped);
        }
    }

    // A buffer that nothing uses any more.
    bool begin() {
        Buffer & buffer = buffers_[current_];
        if (buffer.data != nullptr) {
            if (cudaEventSynchronize(buffer.done) != cudaSuccess) {
                return false;
            }
            buffer.finish_reads();
            return true;
        }
        const CurrentDevice current(device_);
        if (cudaEventCreateWithFlags(&buffer.done, cudaEventDisableTiming) != cudaSuccess) {
            return false;
        }
        if (cudaMallocHost((void **) &buffer.data, kMostBytes) != cudaSuccess) {
            (void) cudaGetLastError();
            cudaEventDestroy(buffer.done);
            buffer.data = nullptr;
            return false;
        }
        buffer.reads.reserve(kMostCopies);
        return true;
    }

    const int device_;
    Buffer buffers_[kBuffers];
    Copies copies_;
    int current_ = 0;
    int n_ = 0;
    size_t n_bytes_ = 0;
};

std::mutex mutex;
std::unordered_map<cudaStream_t, std::unique_ptr<Queue>> queues;

// Of the stream, which one thread at a time uses.
Queue & queue_of(int device, cudaStream_t stream) {
    const std::lock_guard lock(mutex);
    std::unique_ptr<Queue> & queue = queues[stream];
    if (queue == nullptr) {
        queue = std::make_unique<Queue>(device);
    }
    return *queue;
}

// Null where nothing was queued on the stream yet.
Queue * queue_of(cudaStream_t stream) {
    const std::lock_guard lock(mutex);
    const auto found = queues.find(stream);
    return found != queues.end() ? found->second.get() : nullptr;
}

}  // namespace

bool pmtp_cuda_queue_copy(int device, cudaStream_t stream, void * to, const void * from, size_t size) {
    return queue_of(device, stream).upload(stream, to, from, size);
}

bool pmtp_cuda_queue_device_copy(int device, cudaStream_t from_stream, cudaStream_t to_stream, void * to,
                                 const void * from, size_t size) {
    if (from_stream != to_stream) {
        pmtp_cuda_launch_copies(from_stream);
        pmtp_cuda_launch_copies(to_stream);
        return false;
    }
    return queue_of(device, to_stream).copy(to_stream, to, from, size);
}

bool pmtp_cuda_queue_read(int device, cudaStream_t stream, void * to, const void * from, size_t size) {
    return queue_of(device, stream).read(stream, to, from, size);
}

void pmtp_cuda_launch_copies(cudaStream_t stream) {
    if (Queue * queue = queue_of(stream)) {
        queue->launch(stream);
    }
}

void pmtp_cuda_finish_reads(cudaStream_t stream) {
    if (Queue * queue = queue_of(stream)) {
        queue->finish_reads();
    }
}

void pmtp_cuda_forget_copies(cudaStream_t stream) {
    const std::lock_guard lock(mutex);
    queues.erase(stream);
}
