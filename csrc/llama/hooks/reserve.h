/* The hooks where ggml allocates a few bytes and ends the process if it cannot, see csrc/llama/patches: the bytes come
 * from a reserve then, and who called ggml is told. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Aligned at 64 bytes; NULL if the reserve has no room for so many bytes. */
void * pmtp_reserve_take(size_t size);

/* As malloc and free. */
void * pmtp_reserve_malloc(size_t size);
void pmtp_reserve_free(void * pointer);

/* Throws std::bad_alloc unless something was made; `otherwise`, or NULL, is given back before. */
void pmtp_reserve_need(const void * made, void * otherwise);

/* Where neither has room: throws std::bad_alloc. */
#if defined(__GNUC__)
__attribute__((noreturn))
#endif
void pmtp_reserve_empty(void);

/* How often this thread was given something from the reserve. */
uint64_t pmtp_reserve_used(void);

#ifdef __cplusplus
}
#endif
