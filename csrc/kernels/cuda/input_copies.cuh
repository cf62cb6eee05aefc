// Small copies to a device, gathered: those that are queued on a stream one after another become one launch, in front
// of the next thing that the stream does. A copy of some bytes takes the host and the device some microseconds, and a
// round has some twenty.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

// Takes `size` bytes from the host's memory, which may change afterwards, for `to` on the stream's device, which is the
// current one. False if they are too many: nothing was queued then, and what was for the same place is launched.
bool pmtp_cuda_queue_copy(cudaStream_t stream, void * to, const void * from, size_t size);

// Launches what is queued. To be called before anything else is put on the stream or waited for.
void pmtp_cuda_launch_copies(cudaStream_t stream);

// Before the stream is destroyed.
void pmtp_cuda_forget_copies(cudaStream_t stream);
