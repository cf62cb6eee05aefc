// The layouts in which MTP heads are published, and typed access to a file's metadata.
#pragma once

#include "base/error.h"

#include "gguf.h"

#include <cmath>
#include <string>
#include <vector>

namespace pmtp {

[[noreturn]] inline void bad_file(const std::string & what) { throw Error(Status::model_load, "MTP head: " + what); }

// What the published layouts of an assistant call the same things; keys stand without the architecture. The first has
// the centroid head in metadata arrays, the others in tensors: centroids [E, n_centroids] of any type, ordering i32
// [V]. The others may also lack rope_freqs.weight: it is the target's then. Two layouts have the same architecture: a
// file is of the first whose centroids it has, or of the first.
struct Layout {
    const char * architecture;
    const char * n_embd_backbone;
    const char * n_centroids;
    const char * top_k;
    const char * centroids;
    const char * token_ordering;
    const char * pre_projection;
    const char * post_projection;
    bool tensors;
    int default_top_k;  // of files that leave out the numbers of clusters; 0: none does
};

constexpr Layout kLayouts[] = {
    { "gemma4-assistant", "embedding_length_out", "masked_embedding.num_centroids", "masked_embedding.top_k",
      "masked_embedding.centroids", "masked_embedding.token_ordering", "nextn.pre_projection.weight",
      "nextn.post_projection.weight", false, 0 },
    { "gemma4-assistant", "embedding_length_out", "n_centroids", "centroid_top_k", "masked_embd_centroids.weight",
      "masked_embd_ordering", "nextn.pre_projection.weight", "nextn.post_projection.weight", true, 32 },
    { "gemma4_assistant", "n_embd_backbone", "n_centroids", "centroid_top_k", "mtp.centroids.weight",
      "mtp.token_ordering.weight", "mtp.pre_projection.weight", "mtp.post_projection.weight", true, 0 },
    { "gemma4_mtp", "backbone_embedding_length", "centroid_count", "centroid_top_k", "mtp_centroids.weight",
      "mtp_token_ordering.weight", "mtp_pre_proj.weight", "mtp_post_proj.weight", true, 0 },
};

// has_centroids: whether the file has the centroids of a layout.
template <typename F>
const Layout & layout_of(const std::string & path, const std::string & architecture, F has_centroids) {
    const Layout * found = nullptr;
    for (const Layout & layout : kLayouts) {
        if (architecture == layout.architecture &&
            (found == nullptr || (!has_centroids(*found) && has_centroids(layout)))) {
            found = &layout;
        }
    }
    if (found != nullptr) {
        return *found;
    }
    throw Error(Status::incompatible_head,
                format("%s is a model of architecture %s, expected an MTP head (%s) made by convert-assistant",
                       path.c_str(), architecture.c_str(), kLayouts[0].architecture));
}

// Typed access to the metadata of a GGUF: ggml's own getters abort on a wrong type.
class Metadata {
  public:
    explicit Metadata(const gguf_context * gguf) : gguf_(gguf) {}

    bool has(const std::string & key) const { return gguf_find_key(gguf_, key.c_str()) >= 0; }

    std::string text(const std::string & key) const { return gguf_get_val_str(gguf_, find(key, GGUF_TYPE_STRING)); }

    bool flag(const std::string & key) const { return gguf_get_val_bool(gguf_, find(key, GGUF_TYPE_BOOL)); }

    float f32(const std::string & key) const {
        const float value = gguf_get_val_f32(gguf_, find(key, GGUF_TYPE_FLOAT32));
        if (!std::isfinite(value) || value <= 0) {
            bad_file(format("%s is %f, expected a positive number", key.c_str(), value));
        }
        return value;
    }

    int u32(const std::string & key, uint32_t limit) const {
        const uint32_t value = gguf_get_val_u32(gguf_, find(key, GGUF_TYPE_UINT32));
        if (value == 0 || value > limit) {
            bad_file(format("%s is %u, expected 1..%u", key.c_str(), value, limit));
        }
        return (int) value;
    }

    // n elements of an array
    template <typename T> std::vector<T> array(const std::string & key, gguf_type type, size_t n) const {
        const int64_t id = find(key, GGUF_TYPE_ARRAY);
        if (gguf_get_arr_type(gguf_, id) != type || gguf_get_arr_n(gguf_, id) != n) {
            bad_file(format("%s holds %zu values of type %s, expected %zu of type %s", key.c_str(),
                            gguf_get_arr_n(gguf_, id), gguf_type_name(gguf_get_arr_type(gguf_, id)), n,
                            gguf_type_name(type)));
        }
        const T * data = static_cast<const T *>(gguf_get_arr_data(gguf_, id));
        return std::vector<T>(data, data + n);
    }

  private:
    int64_t find(const std::string & key, gguf_type type) const {
        const int64_t id = gguf_find_key(gguf_, key.c_str());
        if (id < 0) {
            bad_file("metadata key " + key + " is missing; convert the checkpoint again with convert-assistant");
        }
        if (gguf_get_kv_type(gguf_, id) != type) {
            bad_file(format("metadata key %s has type %s, expected %s", key.c_str(),
                            gguf_type_name(gguf_get_kv_type(gguf_, id)), gguf_type_name(type)));
        }
        return id;
    }

    const gguf_context * gguf_;
};

}  // namespace pmtp
