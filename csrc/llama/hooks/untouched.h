// Memory that is zero and takes no room until it is written.
#pragma once

#include "ggml-backend.h"

// As ggml_backend_buffer_clear(buffer, 0), but whole pages of host memory go back to the system, which gives them anew,
// zeroed, when they are touched: a KV cache takes as much memory as it has cells in use.
void pmtp_clear_untouched(ggml_backend_buffer_t buffer);
