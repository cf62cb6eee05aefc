// Decodes 256 values of a format, as the lanes of the CUDA kernels see them, from stdin to stdout as f32. Arguments:
// the format, and by how many bytes, 0 or 2, a stage begins behind a word. Built and run by test_product_formats.py.
#include "kernels/products/cuda/formats.cuh"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

using namespace pmtp::formats;

namespace {

template <typename Format> float value(const Stage & stage, int group, int sub, int quant) {
    if constexpr (Format::kSuper) {
        float out = Format::scale(stage) * (float) (Format::sub_scale(stage, sub) * quant);
        if constexpr (Format::kHasLeast) {
            out -= Format::least(stage) * (float) Format::sub_least(stage, sub);
        }
        return out;
    } else {
        float out = Format::scale(stage, group) * ((float) quant - Format::kBias);
        if constexpr (Format::kHasLeast) {
            out += Format::least(stage, group);
        }
        return out;
    }
}

template <typename Format> int subs_of_group() {
    if constexpr (Format::kSuper) {
        return 32 / Format::kGroup;
    } else {
        return 1;
    }
}

template <typename Format> void decode(size_t offset) {
    std::vector<char> block(Format::kBytes);
    while (fread(block.data(), 1, block.size(), stdin) == block.size()) {
        std::vector<uint32_t> words(Format::kBytes / 4 + 3);
        memcpy((char *) words.data() + offset, block.data(), block.size());
        const Stage stage{ words.data(), (uint32_t) offset * 8 };
        float out[256];
        for (int group = 0; group < 8; group++) {
            for (int t = 0; t < 4; t++) {
                const Quants quants = Format::quants(stage, group, t);
                for (int half = 0; half < 2; half++) {
                    const int sub = subs_of_group<Format>() * group + half * (subs_of_group<Format>() - 1);
                    for (int i = 0; i < 4; i++) {
                        const int quant = (int8_t) byte_of(half == 0 ? quants.first : quants.second, i);
                        out[group * 32 + half * 16 + t * 4 + i] = value<Format>(stage, group, sub, quant);
                    }
                }
            }
        }
        fwrite(out, sizeof(float), 256, stdout);
    }
}

}  // namespace

int main(int argc, char ** argv) {
    const std::string name = argc == 3 ? argv[1] : "";
    const size_t offset = argc == 3 ? (size_t) atoi(argv[2]) : 0;
    name == "q4_0"     ? decode<Q4_0>(offset)
    : name == "q4_1"   ? decode<Q4_1>(offset)
    : name == "q5_0"   ? decode<Q5_0>(offset)
    : name == "q5_1"   ? decode<Q5_1>(offset)
    : name == "q8_0"   ? decode<Q8_0>(offset)
    : name == "iq4_nl" ? decode<IQ4_NL>(offset)
    : name == "iq4_xs" ? decode<IQ4_XS>(offset)
    : name == "q4_k"   ? decode<Q4_K>(offset)
    : name == "q5_k"   ? decode<Q5_K>(offset)
    : name == "q6_k"   ? decode<Q6_K>(offset)
                       : (void) fputs("no such format\n", stderr);
    return 0;
}
