// Numbers as bits. Internal linkage for the reason given in rules/rules.hpp.
#pragma once

namespace rmsprop {
namespace {

// std::bit_cast, but with internal linkage. The standard libraries of GCC 11, Clang 14 and MSVC 19.27
// and later implement it with this built-in function.
template <class To, class From>
inline To bits_as(From from) {
  return __builtin_bit_cast(To, from);
}

}  // namespace
}  // namespace rmsprop
