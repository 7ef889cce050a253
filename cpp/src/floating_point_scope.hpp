// Runs a piece of code in the IEEE-754 default environment, and leaves the thread's own as it was.
//
// A host program may have switched the thread to flush subnormals to zero or to another rounding mode; that would
// change the bits of a step. And a step sets the sticky exception flags, which a host may be watching. So a scope sets
// round to nearest with subnormals kept, and its end restores every bit of the control word, flags included.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#elif !defined(__aarch64__)
#include <cfenv>
#endif

namespace rmsprop {

class FloatingPointScope {
 public:
  FloatingPointScope() noexcept : saved_(load()) { store_default(); }
  ~FloatingPointScope() { store(saved_); }
  FloatingPointScope(const FloatingPointScope&) = delete;
  FloatingPointScope& operator=(const FloatingPointScope&) = delete;

 private:
#if defined(__x86_64__) || defined(_M_X64)
  using State = unsigned;
  static State load() noexcept { return _mm_getcsr(); }
  static void store(State state) noexcept { _mm_setcsr(state); }
  static void store_default() noexcept { _mm_setcsr(0x1F80); }  // all exceptions masked, nothing else set
#elif defined(__aarch64__)
  struct State {
    std::uint64_t control, status;
  };
  static State load() noexcept {
    State state;
    __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(state.control), "=r"(state.status));
    return state;
  }
  static void store(State state) noexcept {
    __asm__ volatile("msr fpcr, %0\n\tmsr fpsr, %1" : : "r"(state.control), "r"(state.status) : "memory");
  }
  static void store_default() noexcept { store({0, 0}); }
#else
  using State = std::fenv_t;
  static State load() noexcept {
    State state;
    std::fegetenv(&state);
    return state;
  }
  static void store(const State& state) noexcept { std::fesetenv(&state); }
  static void store_default() noexcept { std::fesetenv(FE_DFL_ENV); }
#endif

  State saved_;
};

}  // namespace rmsprop
