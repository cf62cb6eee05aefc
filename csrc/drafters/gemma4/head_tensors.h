// The tensors of an assistant GGUF: declared with the shapes that they must have, placed where their use runs fastest,
// then filled.
#pragma once

#include "base/handle.h"
#include "base/watch.h"

#include "ggml-backend.h"
#include "gguf.h"

#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace pmtp {

// Tensors in one kind of buffer.
struct TensorStorage {
    Handle<ggml_context> context;
    Handle<ggml_backend_buffer> buffer;
};

// Every function throws Error(MODEL_LOAD) if the file does not hold what is asked for.
class HeadTensors {
  public:
    // Reads the header of `path`; the tensors will lie in buffers of `device`.
    HeadTensors(const std::string & path, ggml_backend_dev_t device);

    const gguf_context * gguf() const { return gguf_.get(); }
    bool has(const std::string & name) const;
    const ggml_tensor & info(const std::string & name) const;  // of the file: shape and type

    // Each declares a tensor, whose content is there after load().
    // A norm, scale or factor: f32 [n].
    ggml_tensor * vector(const std::string & name, int64_t n);
    // A matrix [n_in, n_out] that is multiplied with a state.
    ggml_tensor * matrix(const std::string & name, int64_t n_in, int64_t n_out);
    // A matrix [n_in, n_rows * n_clusters] as n_clusters matrices [n_in, n_rows], of which n_used are multiplied. Row r
    // is row order[r] of the file.
    ggml_tensor * clusters(const std::string & name, int64_t n_in, int64_t n_rows, int64_t n_clusters, int64_t n_used,
                           std::vector<int32_t> order);
    // Values that do not lie in a tensor of the file, or not as they are: [ne0, ne1].
    ggml_tensor * constant(const char * name, std::vector<float> values, int64_t ne0, int64_t ne1);
    ggml_tensor * constant(const char * name, std::vector<int32_t> values, int64_t ne0, int64_t ne1);

    // All values of a matrix [n_in, n_out] of any type.
    std::vector<float> floats(const std::string & name, int64_t n_in, int64_t n_out) const;
    std::vector<int32_t> integers(const std::string & name, int64_t n) const;

    // Allocates what was declared and fills it; one storage for each kind of buffer. Throws Error(OUT_OF_MEMORY), and
    // Error(CANCELLED) if watch says so. Once.
    std::vector<TensorStorage> load(const Watch & watch);

  private:
    using Use = std::function<ggml_tensor *(ggml_context *, ggml_tensor *)>;  // the operation that reads a weight

    ggml_tensor * place(const std::string & name, ggml_type type, std::vector<int64_t> ne, const Use & use);
    bool supports(ggml_backend_buffer_type_t buft, ggml_type type, const std::vector<int64_t> & ne,
                  const Use & use) const;
    ggml_context * context(ggml_backend_buffer_type_t buft);
    const ggml_tensor & checked_matrix(const std::string & name, int64_t n_in, int64_t n_out) const;
    std::vector<uint8_t> bytes(const std::string & name) const;
    ggml_tensor * as_in_file(ggml_tensor * tensor);
    template <typename T>
    ggml_tensor * constant(const char * name, ggml_type type, std::vector<T> values, int64_t ne0, int64_t ne1);

    ggml_backend_dev_t device_;
    std::unique_ptr<FILE, int (*)(FILE *)> file_;
    Handle<gguf_context> gguf_;
    Handle<ggml_context> infos_;
    std::map<ggml_backend_buffer_type_t, TensorStorage> storage_;
    std::vector<std::function<void()>> fills_;  // one for each declared tensor
};

}  // namespace pmtp
