// The limits as a library that bench/peers/machine_limit.py loads, to run them in the process of what they limit.

#include <cstdint>
#include <span>

#include "limits.hpp"
#include "rmsprop/runtime.hpp"
#include "shares.hpp"
#include "threads.hpp"

#if defined(_WIN32)
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED __attribute__((visibility("default")))
#endif

namespace {

struct Work {
  Limits<float>::Loop loop;
  std::span<const Slice<float>> tensors;
  std::int64_t elements;
  int shares;
};

}  // namespace

// Runs one loop `steps` times over `count` tensors, on `shares` threads. `loop` is traffic, full_traffic or divider: 0,
// 1 or 2. The caller owns the arrays; they must not overlap. False if this library has no such loop for the
// instruction set, whose support by the CPU the caller answers for.
extern "C" EXPORTED bool rmsprop_run_limit(const char* instruction_set, int loop, const Slice<float>* tensors,
                                           std::int64_t count, int shares, std::int64_t steps) {
  const LimitsOfInstructionSet* limits = limits_of(instruction_set);
  if (limits == nullptr || loop < 0 || loop > 2) return false;
  const Limits<float>::Loop loops[] = {limits->f32.traffic, limits->f32.full_traffic, limits->f32.divider};
  Work work = {loops[loop], {tensors, static_cast<std::size_t>(count)}, 0, shares};
  for (const Slice<float>& tensor : work.tensors) work.elements += tensor.size;
  rmsprop::set_thread_use(rmsprop::ThreadUse::fixed);
  for (std::int64_t i = 0; i < steps; ++i) {
    rmsprop::run_shares({shares, 1,
                         [](const void* context, int share) {
                           const Work& w = *static_cast<const Work*>(context);
                           for_share(w.tensors, w.elements, share, w.shares, w.loop);
                         },
                         &work});
  }
  return true;
}
