// The lock of an optimizer, held during a step, a load or a save. It belongs to the optimizer and is shared by all its
// steppers, those of single parameters included.
#pragma once

#include <atomic>
#include <cstdint>

namespace rmsprop::bindings {

class Busy {
 public:
  // Raises RuntimeError that names both if somebody has it. In a child made by fork() it is free: what had it does not
  // exist there, unless it is the very thread that forked.
  void begin(const char* what);
  void end() { owner_.store(nobody, std::memory_order_release); }

 private:
  static constexpr std::uint64_t nobody = 0;

  std::atomic<std::uint64_t> owner_ = nobody;       // the generation of the process that holds it, and the thread
  std::atomic<const char*> what_ = "another step";  // for messages
};

class BusyScope {
 public:
  BusyScope(Busy& busy, const char* what) : busy_(busy) { busy_.begin(what); }
  ~BusyScope() { busy_.end(); }
  BusyScope(const BusyScope&) = delete;
  BusyScope& operator=(const BusyScope&) = delete;

 private:
  Busy& busy_;
};

}  // namespace rmsprop::bindings
