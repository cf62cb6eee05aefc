#include "llama/hooks/untouched.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

void pmtp_clear_untouched(ggml_backend_buffer_t buffer) {
    const ggml_backend_dev_t device = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(buffer));
    const bool on_cpu = device == nullptr || ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU;
    char * begin = static_cast<char *>(ggml_backend_buffer_get_base(buffer));
    char * end = begin + ggml_backend_buffer_get_size(buffer);
    const uintptr_t page = (uintptr_t) sysconf(_SC_PAGESIZE);
    char * first = (char *) (((uintptr_t) begin + page - 1) / page * page);
    char * last = (char *) ((uintptr_t) end / page * page);
    if (!on_cpu || !ggml_backend_buffer_is_host(buffer) || last <= first ||
        madvise(first, (size_t) (last - first), MADV_DONTNEED) != 0) {
        ggml_backend_buffer_clear(buffer, 0);
        return;
    }
    std::memset(begin, 0, (size_t) (first - begin));
    std::memset(last, 0, (size_t) (end - last));
}
