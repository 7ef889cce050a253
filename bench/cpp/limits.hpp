// The two loops that no step can beat, compiled once per instruction set like the kernels.
#pragma once

#include <cstdint>

template <class T>
struct Limits {
  using Loop = void (*)(T* param, const T* grad, T* square_avg, std::int64_t n);
  Loop traffic;  // reads and writes what a step of plain RMSprop or Adagrad reads and writes, and computes next to
                 // nothing
  Loop divider;  // computes one square root and one quotient per element, and nothing else
};

struct LimitsOfInstructionSet {
  Limits<float> f32;
  Limits<double> f64;
};

inline const Limits<float>& limits_for(const LimitsOfInstructionSet& set, float) { return set.f32; }
inline const Limits<double>& limits_for(const LimitsOfInstructionSet& set, double) { return set.f64; }
