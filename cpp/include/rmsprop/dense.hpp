/// @file
/// Tensors from contiguous arrays, such as `std::vector`s, as most C++ programs have them.
#pragma once

#include <span>

#include "rmsprop/tensor.hpp"
#include "rmsprop/update.hpp"

namespace rmsprop {

/// The arrays of one parameter. An array that the rule does not use may be empty (see state_of()).
template <class T>
struct DenseArrays {
  std::span<T> param;                 ///< The weights, updated in place.
  std::span<const T> grad;            ///< Their gradient, never written.
  std::span<T> square_avg;            ///< RMSprop's average or Adagrad's sum of squared gradients; at first usually 0.
  std::span<T> grad_avg = {};         ///< The average gradient of centered RMSprop; at first 0.
  std::span<T> momentum_buffer = {};  ///< At first 0.
};

/// A tensor of these arrays, with its arguments checked.
///
/// The tensor owns nothing: the memory of the arrays and `*update` have to outlive every step() it is passed to, at the
/// same address. It can be made once and used in every step, with new values in the arrays and in `*update`, as long as
/// the rule of `*update` stays the same.
///
/// @throws std::invalid_argument if `update` is null, if an array that its rule needs does not have as many elements
///   as `param`, or any other is neither empty nor of that size, or if two of the arrays overlap. Overlap between the
///   arrays of different tensors is not checked.
Tensor dense_tensor(const DenseArrays<float>& arrays, const Update* update);
/// @copydoc dense_tensor(const DenseArrays<float>&, const Update*)
Tensor dense_tensor(const DenseArrays<double>& arrays, const Update* update);

}  // namespace rmsprop
