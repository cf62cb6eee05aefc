# -DPYLLAMA_MTP_SANITIZE=address (AddressSanitizer and UndefinedBehaviorSanitizer) or thread (ThreadSanitizer)
# instruments our code and ggml's: its kernels are what would read past our tensors, its barriers are what orders our
# threads. UndefinedBehaviorSanitizer looks at our code alone. libllama is not instrumented, nor optimised. The programs
# that run are in tests/native/c_api.

set(PYLLAMA_MTP_SANITIZE "" CACHE STRING "Instrument for tests: address or thread")
if(PYLLAMA_MTP_SANITIZE STREQUAL "")
    return()
endif()

if(PYLLAMA_MTP_SANITIZE STREQUAL "address")
    set(GGML_SANITIZE_ADDRESS ON)
    set(sanitizers address,undefined)
elseif(PYLLAMA_MTP_SANITIZE STREQUAL "thread")
    set(GGML_SANITIZE_THREAD ON)
    set(sanitizers thread)
else()
    message(FATAL_ERROR "PYLLAMA_MTP_SANITIZE is '${PYLLAMA_MTP_SANITIZE}', expected address or thread.")
endif()
foreach(language C CXX)
    set(CMAKE_${language}_FLAGS_RELEASE "-O1 -g1")
endforeach()
set(sanitize -fsanitize=${sanitizers} -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
