#include "limits.hpp"

#include "rules/rules.hpp"

namespace {

// A maximum can be taken any number of times without drifting off to infinity or zero.
template <class T>
inline T larger(T a, T b) {
  return a < b ? b : a;
}

template <class T>
void traffic(const Slice<T>& slice) {
  T* __restrict w = slice.param;
  const T* __restrict g = slice.grad;
  T* __restrict v = slice.square_avg;
  for (std::int64_t i = 0; i < slice.size; ++i) {
    w[i] = larger(w[i], g[i]);
    v[i] = larger(v[i], g[i]);
  }
}

template <class T>
void full_traffic(const Slice<T>& slice) {
  T* __restrict w = slice.param;
  const T* __restrict g = slice.grad;
  T* __restrict v = slice.square_avg;
  T* __restrict m = slice.grad_avg;
  T* __restrict b = slice.momentum_buffer;
  for (std::int64_t i = 0; i < slice.size; ++i) {
    w[i] = larger(w[i], g[i]);
    v[i] = larger(v[i], g[i]);
    m[i] = larger(m[i], g[i]);
    b[i] = larger(b[i], g[i]);
  }
}

template <class T>
void divider(const Slice<T>& slice) {
  T* __restrict w = slice.param;
  const T* __restrict g = slice.grad;
  const T* __restrict v = slice.square_avg;
  for (std::int64_t i = 0; i < slice.size; ++i) w[i] = g[i] / rmsprop::square_root(v[i]);
}

}  // namespace

extern const LimitsOfInstructionSet RMSPROP_LIMITS;
constexpr LimitsOfInstructionSet RMSPROP_LIMITS = {{traffic<float>, full_traffic<float>, divider<float>},
                                                   {traffic<double>, full_traffic<double>, divider<double>}};
