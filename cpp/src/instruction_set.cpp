// How the kernels are chosen.
//
// CMake compiles kernels.cpp once per instruction set and defines RMSPROP_X86_64_LEVELS where the x86-64 levels are
// among them. This file is compiled for the baseline, so it runs on every CPU; it asks the CPU what it has and the
// operating system whether it saves the wide registers, and takes the first supported entry of one ordered list.

#include "instruction_set.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "rmsprop/runtime.hpp"

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

constexpr bool has(unsigned word, std::initializer_list<int> bits) {
  for (int bit : bits) {
    if ((word >> bit & 1u) == 0) return false;
  }
  return true;
}

// The register sets that the operating system saves on a context switch. Call only if the CPU reports OSXSAVE.
unsigned saved_registers() {
#if defined(RMSPROP_MSVC_INTRINSICS)
  return static_cast<unsigned>(_xgetbv(0));
#else
  unsigned eax = 0;
  unsigned edx = 0;
  __asm__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return eax;
#endif
}

// Everything the x86-64 psABI asks of each level, since the compiler may use all of it.
bool supports_x86_64_v3() {
  const unsigned leaf1 = cpuid(1).ecx;
  constexpr int fma = 12, movbe = 22, osxsave = 27, avx = 28, f16c = 29;
  constexpr int sse3 = 0, ssse3 = 9, cx16 = 13, sse4_1 = 19, sse4_2 = 20, popcnt = 23;
  if (!has(leaf1, {sse3, ssse3, cx16, sse4_1, sse4_2, popcnt, fma, movbe, osxsave, avx, f16c})) return false;
  constexpr int bmi1 = 3, avx2 = 5, bmi2 = 8;
  if (!has(cpuid(7).ebx, {bmi1, avx2, bmi2})) return false;
  constexpr int lahf = 0, lzcnt = 5;
  if (!has(cpuid(0x80000001u).ecx, {lahf, lzcnt})) return false;
  constexpr int xmm = 1, ymm = 2;
  return has(saved_registers(), {xmm, ymm});
}

bool supports_x86_64_v4() {
  if (!supports_x86_64_v3()) return false;
  constexpr int avx512f = 16, avx512dq = 17, avx512cd = 28, avx512bw = 30, avx512vl = 31;
  if (!has(cpuid(7).ebx, {avx512f, avx512dq, avx512cd, avx512bw, avx512vl})) return false;
  constexpr int mask = 5, zmm_high_halves = 6, zmm_high_registers = 7;
  return has(saved_registers(), {mask, zmm_high_halves, zmm_high_registers});
}

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
    {"x86-64-v4", supports_x86_64_v4, &kernels_x86_64_v4},
    {"x86-64-v3", supports_x86_64_v3, &kernels_x86_64_v3},
#endif
    {"baseline", always, &kernels_baseline},
};

const Implementation& best() {
  for (const Implementation& implementation : implementations) {
    if (implementation.supported()) return implementation;
  }
  return implementations[std::size(implementations) - 1];
}

// A function's static, so that it is set before anything can use it, whatever the order of initialisation.
std::atomic<const Implementation*>& chosen() {
  static std::atomic<const Implementation*> implementation{&best()};
  return implementation;
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

const Kernels& chosen_kernels() noexcept { return *chosen().load(std::memory_order_relaxed)->kernels; }

std::vector<InstructionSet> instruction_sets() {
  std::vector<InstructionSet> sets;
  for (const Implementation& implementation : implementations) {
    sets.push_back({implementation.name, implementation.supported(), &implementation == chosen().load()});
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
    chosen().store(&implementation);
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
