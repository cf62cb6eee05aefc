// Small copies to, from and within a device's memory, gathered: those that are queued on a stream one after another
// become one launch, in front of the next thing that the stream does. A copy of some bytes takes the host and the
// device some microseconds, and a round has some twenty.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

// Bytes of one that is queued, at most: of a copy to or within the device, from where on the copy engine is as fast,
// and of one to the host, which waits for the copy engine where its memory is not pinned.
constexpr size_t kMostCopied = 512 << 10, kMostRead = 256 << 10;

// Of the functions that queue, `size` bytes each on a stream of the device: false if they are too many. Nothing was
// queued then, and what was queued before and has to come first is launched.

// From the host's memory, which may change afterwards.
bool pmtp_cuda_queue_copy(int device, cudaStream_t stream, void * to, const void * from, size_t size);

// Within the memory of a device; where its streams are two, both are launched, and nothing is queued.
bool pmtp_cuda_queue_device_copy(int device, cudaStream_t from_stream, cudaStream_t to_stream, void * to,
                                 const void * from, size_t size);

// To the host's memory, of any kind, which has them after pmtp_cuda_finish_reads().
bool pmtp_cuda_queue_read(int device, cudaStream_t stream, void * to, const void * from, size_t size);

// Launches what is queued. To be called before anything else is put on the stream or waited for.
void pmtp_cuda_launch_copies(cudaStream_t stream);

// Once the stream has been waited for: hands out what was read.
void pmtp_cuda_finish_reads(cudaStream_t stream);

// Before the stream is destroyed.
void pmtp_cuda_forget_copies(cudaStream_t stream);
