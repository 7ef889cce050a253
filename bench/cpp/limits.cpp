#include "limits.hpp"

#include "rules.hpp"

namespace {

// A maximum can be taken any number of times without drifting off to infinity or zero.
template <class T>
inline T larger(T a, T b) {
  return a < b ? b : a;
}

template <class T>
void traffic(T* __restrict w, const T* __restrict g, T* __restrict v, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    w[i] = larger(w[i], g[i]);
    v[i] = larger(v[i], g[i]);
  }
}

template <class T>
void divider(T* __restrict w, const T* __restrict g, T* __restrict v, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) w[i] = g[i] / rmsprop::square_root(v[i]);
}

}  // namespace

extern const LimitsOfInstructionSet RMSPROP_LIMITS;
constexpr LimitsOfInstructionSet RMSPROP_LIMITS = {{traffic<float>, divider<float>},
                                                   {traffic<double>, divider<double>}};
