// The one switch of the CPU kernels of products/ and rows/, and of attention/.
#pragma once

#include <cstdlib>
#include <cstring>

namespace pmtp {

// False with PYLLAMA_MTP_PRODUCTS=0 in the environment, for comparisons in one build; read once.
inline bool kernels_enabled() {
    static const bool value = [] {
        const char * text = std::getenv("PYLLAMA_MTP_PRODUCTS");
        return text == nullptr || std::strcmp(text, "0") != 0;
    }();
    return value;
}

}  // namespace pmtp
