// What the sources of ggml-cpu call of ours, so that a patch needs one line of each for it.
#pragma once

#include "kernels/attention/hook.h"
#include "kernels/products/hook.h"
#include "kernels/rows/hook.h"
#include "turboquant/ggml_types.h"

#ifndef __cplusplus  // it has C's atomics
#include "kernels/cpu/wait.h"
#endif
