// Selection of the kernels at run time.
//
// CMake compiles kernels.cpp once per instruction set and defines RMSPROP_X86_64_LEVELS where the x86-64 levels are
// among them. This file is compiled for the baseline, so it runs on every CPU; it asks the CPU for its
// instruction sets and the operating system whether it saves the wide registers, and takes the first supported entry of
// one ordered list.

#include "instruction_set.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "rmsprop/runtime.hpp"
#include "x86_64_levels.hpp"

#if defined(RMSPROP_X86_64_LEVELS)
#if defined(_MSC_VER) && !defined(__clang__)
#define RMSPROP_MSVC_INTRINSICS
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

namespace rmsprop {

extern const Kernels kernels_baseline;
#if defined(RMSPROP_X86_64_LEVELS)
extern const Kernels kernels_x86_64_v3;
extern const Kernels kernels_x86_64_v4;
#endif

namespace {

#if defined(RMSPROP_X86_64_LEVELS)

struct CpuidRegisters {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidRegisters cpuid(unsigned leaf) {
  CpuidRegisters r;
#if defined(RMSPROP_MSVC_INTRINSICS)
  int words[4];
  __cpuid(words, static_cast<int>(leaf & 0x80000000u));
  if (static_cast<unsigned>(words[0]) < leaf) return r;
  __cpuidex(words, static_cast<int>(leaf), 0);
  r = {static_cast<unsigned>(words[0]), static_cast<unsigned>(words[1]), static_cast<unsigned>(words[2]),
       static_cast<unsigned>(words[3])};
#else
  __get_cpuid_count(leaf, 0, &r.eax, &r.ebx, &r.ecx, &r.edx);  // leaves zeros if the CPU has no such leaf
#endif
  return r;
}

// Call only if the CPU reports OSXSAVE.
unsigned read_xcr0() {
#if defined(RMSPROP_MSVC_INTRINSICS)
  return static_cast<unsigned>(_xgetbv(0));
#else
  unsigned eax = 0;
  unsigned edx = 0;
  __asm__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return eax;
#endif
}

CpuReport report() {
  CpuReport cpu = {cpuid(1).ecx, cpuid(7).ebx, cpuid(0x80000001u).ecx, 0};
  if (has_osxsave(cpu)) cpu.xcr0 = read_xcr0();
  return cpu;
}

bool has_x86_64_v3() { return supports_x86_64_v3(report()); }
bool has_x86_64_v4() { return supports_x86_64_v4(report()); }

#endif

bool always() { return true; }

struct Implementation {
  std::string_view name;
  bool (*supported)();
  const Kernels* kernels;
};

// Best first.
constexpr Implementation implementations[] = {
#if defined(RMSPROP_X86_64_LEVELS)
    {"x86-64-v4", has_x86_64_v4, &kernels_x86_64_v4},
    {"x86-64-v3", has_x86_64_v3, &kernels_x86_64_v3},
#endif
    {"baseline", always, &kernels_baseline},
};

const Implementation& best() {
  for (const Implementation& implementation : implementations) {
    if (implementation.supported()) return implementation;
  }
  return implementations[std::size(implementations) - 1];
}

// Null until it is needed, which may be before other objects are initialised. Several threads may find the best one at
// the same time: the result is the same.
std::atomic<const Implementation*> chosen_implementation{nullptr};

const Implementation& chosen() {
  const Implementation* chosen = chosen_implementation.load(std::memory_order_relaxed);
  if (chosen != nullptr) return *chosen;
  const Implementation* expected = nullptr;  // whatever use_instruction_set() has chosen in the meantime stays
  chosen_implementation.compare_exchange_strong(expected, &best());
  return *chosen_implementation.load();
}

std::string supported_names() {
  std::string names;
  for (const Implementation& implementation : implementations) {
    if (!implementation.supported()) continue;
    if (!names.empty()) names += ", ";
    names += implementation.name;
  }
  return names;
}

}  // namespace

const Kernels& chosen_kernels() noexcept { return *chosen().kernels; }

std::vector<InstructionSet> instruction_sets() {
  const Implementation& in_use = chosen();
  std::vector<InstructionSet> sets;
  for (const Implementation& implementation : implementations) {
    sets.push_back({implementation.name, implementation.supported(), &implementation == &in_use});
  }
  return sets;
}

void use_instruction_set(std::string_view name) {
  for (const Implementation& implementation : implementations) {
    if (implementation.name != name) continue;
    if (!implementation.supported()) {
      throw std::invalid_argument(
          "instruction set '" + std::string(name) +
          "' is not supported by this CPU and operating system; supported here: " + supported_names());
    }
    chosen_implementation = &implementation;
    return;
  }
  throw std::invalid_argument("unknown instruction set '" + std::string(name) +
                              "'; supported here: " + supported_names());
}

void use_instruction_set_from_environment() {
  const char* name = std::getenv("RMSPROP_ISA");
  if (name == nullptr || *name == '\0') return;
  try {
    use_instruction_set(name);
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(std::string("RMSPROP_ISA: ") + error.what());
  }
}

}  // namespace rmsprop
