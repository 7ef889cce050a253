// The two loops that no step can beat, compiled once per instruction set like the kernels.
#pragma once

#include <cstdint>
#include <string_view>

// What a step updates: `size` elements of each array.
template <class T>
struct Slice {
  T* param;
  T* grad;
  T* square_avg;
  T* grad_avg;         // centered only
  T* momentum_buffer;  // momentum only
  std::int64_t size;
};

template <class T>
struct Limits {
  using Loop = void (*)(const Slice<T>& slice);
  Loop traffic;       // reads and writes what plain RMSprop or Adagrad reads and writes, and computes next to nothing
  Loop full_traffic;  // the same for centered RMSprop with momentum
  Loop divider;       // computes one square root and one quotient per element, and nothing else
};

struct LimitsOfInstructionSet {
  Limits<float> f32;
  Limits<double> f64;
};

// The loops compiled for an instruction set; null if there are none.
const LimitsOfInstructionSet* limits_of(std::string_view instruction_set);

inline const Limits<float>& limits_for(const LimitsOfInstructionSet& set, float) { return set.f32; }
inline const Limits<double>& limits_for(const LimitsOfInstructionSet& set, double) { return set.f64; }
