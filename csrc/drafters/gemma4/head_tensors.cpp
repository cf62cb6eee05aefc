#include "drafters/gemma4/head_tensors.h"

#include "drafters/gemma4/head_layout.h"

#include "ggml-cpu.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace pmtp {

HeadTensors::HeadTensors(const std::string & path, ggml_backend_dev_t device)
    : device_(device),
      file_(fopen(path.c_str(), "rb"), fclose),
      gguf_(nullptr, gguf_free),
      infos_(nullptr, ggml_free) {
    if (!file_) {
        bad_file("cannot open " + path);
    }
    ggml_context * infos = nullptr;
    gguf_.reset(gguf_init_from_file(path.c_str(), { /*no_alloc*/ true, &infos }));
    infos_.reset(infos);
    if (!gguf_) {
        bad_file(path + " is not a readable GGUF file");
    }
}

bool HeadTensors::has(const std::string & name) const { return ggml_get_tensor(infos_.get(), name.c_str()) != nullptr; }

const ggml_tensor & HeadTensors::info(const std::string & name) const {
    const ggml_tensor * tensor = ggml_get_tensor(infos_.get(), name.c_str());
    if (tensor == nullptr) {
        bad_file("tensor " + name + " is missing; convert the checkpoint again with convert-assistant");
    }
    return *tensor;
}

ggml_tensor * HeadTensors::vector(const std::string & name, int64_t n) {
    const ggml_tensor & file = info(name);
    if (file.type != GGML_TYPE_F32 || ggml_nelements(&file) != n || file.ne[0] != n) {
        bad_file(format("tensor %s is %s [%lld, %lld], expected f32 [%lld]", name.c_str(), ggml_type_name(file.type),
                        (long long) file.ne[0], (long long) file.ne[1], (long long) n));
    }
    return as_in_file(place(name, GGML_TYPE_F32, { n, 1, 1 }, nullptr));
}

ggml_tensor * HeadTensors::matrix(const std::string & name, int64_t n_in, int64_t n_out) {
    const ggml_tensor & file = checked_matrix(name, n_in, n_out);
    const auto use = [=](ggml_context * ctx, ggml_tensor * w) {
        return ggml_mul_mat(ctx, w, ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_in, 1));
    };
    return as_in_file(place(name, file.type, { n_in, n_out, 1 }, use));
}

ggml_tensor * HeadTensors::clusters(const std::string & name, int64_t n_in, int64_t n_rows, int64_t n_clusters,
                                    int64_t n_used, std::vector<int32_t> order) {
    const ggml_tensor & file = checked_matrix(name, n_in, n_rows * n_clusters);
    const auto use = [=](ggml_context * ctx, ggml_tensor * w) {
        return ggml_mul_mat_id(ctx, w, ggml_new_tensor_3d(ctx, GGML_TYPE_F32, n_in, 1, 1),
                               ggml_new_tensor_2d(ctx, GGML_TYPE_I32, n_used, 1));
    };
    ggml_tensor * tensor = place(name, file.type, { n_in, n_rows, n_clusters }, use);
    fills_.push_back([this, tensor, order = std::move(order)] {
        const std::vector<uint8_t> data = bytes(tensor->name);
        const size_t row = data.size() / order.size();
        std::vector<uint8_t> sorted(data.size());
        for (size_t r = 0; r < order.size(); r++) {
            std::copy_n(data.begin() + order[r] * row, row, sorted.begin() + r * row);
        }
        ggml_backend_tensor_set(tensor, sorted.data(), 0, sorted.size());
    });
    return tensor;
}

ggml_tensor * HeadTensors::constant(const char * name, std::vector<float> values, int64_t ne0, int64_t ne1) {
    return constant(name, GGML_TYPE_F32, std::move(values), ne0, ne1);
}

ggml_tensor * HeadTensors::constant(const char * name, std::vector<int32_t> values, int64_t ne0, int64_t ne1) {
    return constant(name, GGML_TYPE_I32, std::move(values), ne0, ne1);
}

template <typename T> ggml_tensor * HeadTensors::constant(const char * name, ggml_type type, std::vector<T> values,
                                                          int64_t ne0, int64_t ne1) {
    ggml_tensor * tensor = place(name, type, { ne0, ne1, 1 }, nullptr);
    fills_.push_back([tensor, values = std::move(values)] {
        ggml_backend_tensor_set(tensor, values.data(), 0, ggml_nbytes(tensor));
    });
    return tensor;
}

std::vector<float> HeadTensors::floats(const std::string & name, int64_t n_in, int64_t n_out) const {
    const ggml_tensor & file = checked_matrix(name, n_in, n_out);
    const std::vector<uint8_t> data = bytes(name);
    std::vector<float> values(n_in * n_out);
    if (file.type == GGML_TYPE_F32) {
        memcpy(values.data(), data.data(), data.size());
    } else {
        ggml_get_type_traits(file.type)->to_float(data.data(), values.data(), (int64_t) values.size());
    }
    return values;
}

std::vector<int32_t> HeadTensors::integers(const std::string & name, int64_t n) const {
    const ggml_tensor & file = info(name);
    if (file.type != GGML_TYPE_I32 || ggml_nelements(&file) != n) {
        bad_file(format("tensor %s holds %lld values of type %s, expected %lld of type i32", name.c_str(),
                        (long long) ggml_nelements(&file), ggml_type_name(file.type), (long long) n));
    }
    const std::vector<uint8_t> data = bytes(name);
    std::vector<int32_t> values(n);
    memcpy(values.data(), data.data(), data.size());
    return values;
}

std::vector<TensorStorage> HeadTensors::load(const Watch & watch) {
    std::vector<TensorStorage> loaded;
    for (auto & [buft, storage] : storage_) {
        storage.buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(storage.context.get(), buft));
        if (!storage.buffer) {
            throw Error(Status::out_of_memory,
                        format("MTP head: cannot allocate weights in %s", ggml_backend_buft_name(buft)));
        }
        ggml_backend_buffer_set_usage(storage.buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    }
    for (size_t i = 0; i < fills_.size(); i++) {
        watch.check();
        watch.report(Stage::head, (double) i / fills_.size());
        fills_[i]();
    }
    fills_.clear();
    for (auto & [buft, storage] : storage_) {
        loaded.push_back(std::move(storage));
    }
    storage_.clear();
    return loaded;
}

ggml_tensor * HeadTensors::as_in_file(ggml_tensor * tensor) {
    fills_.push_back([this, tensor] {
        const std::vector<uint8_t> data = bytes(tensor->name);
        ggml_backend_tensor_set(tensor, data.data(), 0, data.size());
    });
    return tensor;
}

ggml_tensor * HeadTensors::place(const std::string & name, ggml_type type, std::vector<int64_t> ne, const Use & use) {
    std::vector<ggml_backend_buffer_type_t> bufts;
    const auto extra = (ggml_backend_dev_get_extra_bufts_t) ggml_backend_reg_get_proc_address(
        ggml_backend_dev_backend_reg(device_), "ggml_backend_dev_get_extra_bufts");
    if (use && extra) {  // repacked weights
        for (ggml_backend_buffer_type_t * b = extra(device_); b && *b; b++) {
            bufts.push_back(*b);
        }
    }
    bufts.push_back(ggml_backend_dev_buffer_type(device_));
    for (ggml_backend_buffer_type_t buft : bufts) {
        if (!use || supports(buft, type, ne, use)) {
            ggml_tensor * tensor = ggml_new_tensor(context(buft), type, 3, ne.data());
            return ggml_set_name(tensor, name.c_str());
        }
    }
    bad_file(format("%s cannot multiply tensor %s of type %s", ggml_backend_dev_name(device_), name.c_str(),
                    ggml_type_name(type)));
}

bool HeadTensors::supports(ggml_backend_buffer_type_t buft, ggml_type type, const std::vector<int64_t> & ne,
                           const Use & use) const {
    Handle<ggml_context> ctx(ggml_init({ 8 * ggml_tensor_overhead(), nullptr, true }), ggml_free);
    Handle<ggml_backend_buffer> buffer(ggml_backend_buft_alloc_buffer(buft, 0), ggml_backend_buffer_free);
    ggml_tensor * weight = ggml_new_tensor(ctx.get(), type, 3, ne.data());
    weight->buffer = buffer.get();
    return buffer && ggml_backend_dev_supports_op(device_, use(ctx.get(), weight));
}

ggml_context * HeadTensors::context(ggml_backend_buffer_type_t buft) {
    auto found = storage_.find(buft);
    if (found == storage_.end()) {
        ggml_context * ctx = ggml_init({ 1024 * ggml_tensor_overhead(), nullptr, /*no_alloc*/ true });
        found =
            storage_.emplace(buft, TensorStorage{ { ctx, ggml_free }, { nullptr, ggml_backend_buffer_free } }).first;
    }
    return found->second.context.get();
}

const ggml_tensor & HeadTensors::checked_matrix(const std::string & name, int64_t n_in, int64_t n_out) const {
    const ggml_tensor & file = info(name);
    if (file.ne[0] != n_in || file.ne[1] != n_out || ggml_nelements(&file) != n_in * n_out) {
        bad_file(format("tensor %s is [%lld, %lld], expected [%lld, %lld]", name.c_str(), (long long) file.ne[0],
                        (long long) file.ne[1], (long long) n_in, (long long) n_out));
    }
    if (ggml_get_type_traits_cpu(file.type)->vec_dot == nullptr) {
        bad_file(format("tensor %s has type %s, which no kernel multiplies", name.c_str(), ggml_type_name(file.type)));
    }
    return file;
}

std::vector<uint8_t> HeadTensors::bytes(const std::string & name) const {
    const int64_t id = gguf_find_tensor(gguf_.get(), name.c_str());
    std::vector<uint8_t> data(gguf_get_tensor_size(gguf_.get(), id));
    const size_t offset = gguf_get_data_offset(gguf_.get()) + gguf_get_tensor_offset(gguf_.get(), id);
    if (fseeko(file_.get(), (off_t) offset, SEEK_SET) != 0 ||
        fread(data.data(), 1, data.size(), file_.get()) != data.size()) {
        bad_file(format("tensor %s ends past the end of the file", name.c_str()));
    }
    if (!ggml_validate_row_data(info(name).type, data.data(), data.size())) {
        bad_file(format("tensor %s holds values that are not finite numbers; get the file again", name.c_str()));
    }
    return data;
}

}  // namespace pmtp
