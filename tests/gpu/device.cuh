// What the checks of kernels share.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

inline void check(cudaError_t status) {
    if (status != cudaSuccess) {
        printf("CUDA: %s\n", cudaGetErrorString(status));
        exit(2);
    }
}

// Memory of the device, filled with a pattern until something is written.
template <typename T> class DeviceArray {
  public:
    explicit DeviceArray(size_t n) : n_(n) {
        check(cudaMalloc(&data_, n * sizeof(T)));
        check(cudaMemset(data_, 0x5a, n * sizeof(T)));
    }
    explicit DeviceArray(const std::vector<T> & host) : DeviceArray(host.size()) {
        check(cudaMemcpy(data_, host.data(), n_ * sizeof(T), cudaMemcpyHostToDevice));
    }
    ~DeviceArray() { cudaFree(data_); }
    DeviceArray(const DeviceArray &) = delete;

    T * get() const { return data_; }
    std::vector<T> host() const {
        std::vector<T> out(n_);
        check(cudaGetLastError());
        check(cudaMemcpy(out.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost));
        return out;
    }

  private:
    size_t n_;
    T * data_;
};
