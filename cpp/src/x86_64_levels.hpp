// Which levels of the x86-64 psABI a CPU and its operating system support, as a function of what they report.
#pragma once

#include <initializer_list>

namespace rmsprop {

// The words of cpuid that the levels depend on, and XCR0: the registers that the operating system saves on a context
// switch. XCR0 can only be read where the CPU reports OSXSAVE; elsewhere it is 0.
struct CpuReport {
  unsigned leaf1_ecx = 0, leaf7_ebx = 0, leaf80000001_ecx = 0, xcr0 = 0;
};

constexpr bool has(unsigned word, std::initializer_list<int> bits) {
  for (int bit : bits) {
    if ((word >> bit & 1u) == 0) return false;
  }
  return true;
}

constexpr bool has_osxsave(const CpuReport& cpu) { return has(cpu.leaf1_ecx, {27}); }

// Everything that the psABI requires of each level, since the compiler may use all of it.
constexpr bool supports_x86_64_v3(const CpuReport& cpu) {
  constexpr int fma = 12, movbe = 22, avx = 28, f16c = 29;
  constexpr int sse3 = 0, ssse3 = 9, cx16 = 13, sse4_1 = 19, sse4_2 = 20, popcnt = 23;
  constexpr int bmi1 = 3, avx2 = 5, bmi2 = 8;
  constexpr int lahf = 0, lzcnt = 5;
  constexpr int xmm = 1, ymm = 2;
  return has(cpu.leaf1_ecx, {sse3, ssse3, cx16, sse4_1, sse4_2, popcnt, fma, movbe, avx, f16c}) && has_osxsave(cpu) &&
         has(cpu.leaf7_ebx, {bmi1, avx2, bmi2}) && has(cpu.leaf80000001_ecx, {lahf, lzcnt}) &&
         has(cpu.xcr0, {xmm, ymm});
}

constexpr bool supports_x86_64_v4(const CpuReport& cpu) {
  constexpr int avx512f = 16, avx512dq = 17, avx512cd = 28, avx512bw = 30, avx512vl = 31;
  constexpr int mask = 5, zmm_high_halves = 6, zmm_high_registers = 7;
  return supports_x86_64_v3(cpu) && has(cpu.leaf7_ebx, {avx512f, avx512dq, avx512cd, avx512bw, avx512vl}) &&
         has(cpu.xcr0, {mask, zmm_high_halves, zmm_high_registers});
}

}  // namespace rmsprop
