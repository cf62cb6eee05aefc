// Which types llama.cpp's quantiser gives to the tensors of a file. Arguments: the file type's number, layers, experts.
// From stdin a line for each tensor: name n_in n_rows n_experts; to stdout the type of each, in the same order.
//
// The pinned source's file is compiled as it is. What it calls beside the choice of types is left out, and a model is
// its hyperparameters alone.
#include "llama-quant.cpp"

#include <iostream>

struct llama_vocab::impl {};
llama_vocab::llama_vocab() {}
llama_vocab::~llama_vocab() {}
struct llama_model::impl {};
llama_model::llama_model(const llama_model_params & params) : params(params) {}
llama_model::~llama_model() {}

namespace {

struct Model : llama_model {
    Model() : llama_model({}) {}
    void load_stats(llama_model_loader &) override {}
    void load_hparams(llama_model_loader &) override {}
    void load_vocab(llama_model_loader &) override {}
    bool load_tensors(llama_model_loader &) override { return false; }
    void load_arch_hparams(llama_model_loader &) override {}
    void load_arch_tensors(llama_model_loader &) override {}
    std::unique_ptr<llm_graph_context> build_arch_graph(const llm_graph_params &) const override { return nullptr; }
};

}  // namespace

int main(int, char ** argv) {
    Model model;
    model.arch = LLM_ARCH_GEMMA4;
    model.hparams.n_layer_all = std::stoi(argv[2]);
    model.hparams.n_expert = std::stoi(argv[3]);
    ggml_context * context = ggml_init({ 4096 * ggml_tensor_overhead(), nullptr, true });
    std::vector<ggml_tensor *> tensors;
    std::string name;
    for (int64_t n_in, n_rows, n_experts; std::cin >> name >> n_in >> n_rows >> n_experts;) {
        tensors.push_back(ggml_new_tensor_3d(context, GGML_TYPE_F16, n_in, n_rows, n_experts));
        ggml_set_name(tensors.back(), name.c_str());
    }
    const auto params = llama_model_quantize_default_params();
    quantize_state_impl * state = llama_quant_init(&model, &params);
    // In the order of the loader, which the quantiser goes through.
    std::map<std::string, ggml_tensor *, llama_model_loader::weight_name_comparer> sorted;
    for (ggml_tensor * tensor : tensors) {
        if (llama_quant_tensor_allows_quantization(state, tensor)) {
            sorted[tensor->name] = tensor;
        }
    }
    std::vector<ggml_tensor *> chosen;
    for (const auto & [_, tensor] : sorted) {
        chosen.push_back(tensor);
    }
    std::vector<ggml_type> types(chosen.size());
    llama_quant_compute_types(state, (llama_ftype) std::stoi(argv[1]), chosen.data(), types.data(), types.size());
    for (size_t i = 0; i < chosen.size(); i++) {
        chosen[i]->type = types[i];
    }
    for (const ggml_tensor * tensor : tensors) {
        std::cout << ggml_type_name(tensor->type) << "\n";
    }
    llama_quant_free(state);
    ggml_free(context);
    return 0;
}
