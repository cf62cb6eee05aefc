// Owners of C objects.
#pragma once

#include <memory>

namespace pmtp {

template <typename T> using Handle = std::unique_ptr<T, void (*)(T *)>;

}  // namespace pmtp
