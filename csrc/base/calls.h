// Calls that are under way, so that the end of the process can wait for them, and the process that they belong to.
#pragma once

#include <cstdint>

namespace pmtp {

// A call that computes. Counted while it lives. Throws Error(CANCELLED) after shut_down() on the thread that called it.
class Call {
  public:
    Call();
    ~Call();
    Call(const Call &) = delete;
    Call & operator=(const Call &) = delete;
};

// A call that frees: counted likewise, and never refused.
class Free {
  public:
    Free();
    ~Free();
    Free(const Free &) = delete;
    Free & operator=(const Free &) = delete;
};

// Whether shut_down() was called.
bool ending();

// Ends running calls and waits for them. From then on a thread other than the calling one that makes or ends a call
// that computes stays in it, for what it would return to may be gone.
void shut_down();

// To be called by the outermost frame of a call that computes, when everything of it is done.
void stay_if_ending();

// A number that is another one in a forked child.
uint64_t process();

}  // namespace pmtp
