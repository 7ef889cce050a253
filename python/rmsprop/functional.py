"""One step on arrays that you keep yourself, for your own training loop.

These functions are the step of the optimizers without their state and step counts. They check all arguments before they
write, and they change only the parameters and the state, in place.

Arrays are those of NumPy, or tensors of PyTorch (2.10 and later) in the memory of the CPU, which are used in place.
Autograd does not record that a tensor was written. Gradients may also be those of other libraries that share memory
through DLPack, such as JAX.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rmsprop._core import Naming, Stepper, rules
from rmsprop._optimizer.types import Items, MasterWeights, SharesMemory, StateDType

Array = SharesMemory
Arrays = Array | Items[Array]
Grads = Array | Items[Array | None] | None

_STATE = {name: rule.arrays for name, rule in rules.items()}


def rmsprop_(
    param: Arrays,
    grad: Grads,
    square_avg: Arrays,
    *,
    lr: float,
    alpha: float = 0.9,
    eps: float = 1e-8,
    momentum: float = 0.0,
    nesterov: bool = False,
    centered: bool = False,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    eps_in_sqrt: bool = True,
    lr_in_momentum: bool = False,
    bias_correction: bool = False,
    clip_value: float | None = None,
    clip_norm: float | None = None,
    grad_avg: Arrays | None = None,
    momentum_buffer: Arrays | None = None,
    state_dtype: StateDType = None,
    master_weights: MasterWeights = None,
    stochastic_rounding: bool = False,
    ema_decay: float | None = None,
    ema: Arrays | None = None,
    param_low: Arrays | None = None,
    square_avg_scale: Arrays | None = None,
    momentum_buffer_scale: Arrays | None = None,
    seed: int = 0,
    step: int = 1,
    grad_scale: float = 1.0,
    num_threads: int | None = None,
) -> None:
    """Take one RMSprop step, in place, on one array or on a list of arrays.

    Formula:
        square_avg = alpha * square_avg + (1 - alpha) * grad**2
        param = param - lr * grad / sqrt(square_avg + eps)

    The other hyperparameters change this as `rmsprop.RMSprop` describes.

    Args:
        param: array of float32, float64, complex64, complex128, bfloat16 or float16, or a list of such arrays; updated
            in place. NumPy's (bfloat16 is that of ml_dtypes), or tensors of PyTorch 2.10 and later. What has 16 bits is
            computed in float32, and so is its state.
        grad: like `param`, or of any library that shares memory through DLPack; never written. For a `param` that is
            computed in float32 it may be float32, bfloat16 or float16. In a list, None leaves that parameter and its
            state as they are.
        square_avg: like `param`; the average of squared gradients, updated in place. Zeros at first.
        lr: learning rate, finite and >= 0.
        alpha: smoothing constant, from 0 to 1.
        eps: finite and >= 0.
        momentum: above 0, `momentum_buffer` is needed.
        nesterov: look ahead along the momentum buffer.
        centered: divide by an estimate of the standard deviation; `grad_avg` is needed.
        weight_decay: L2 penalty, added to the gradient, or decoupled from it.
        decoupled_weight_decay: shrink the parameter by `lr * weight_decay` instead.
        maximize: ascend instead of descend.
        eps_in_sqrt: False divides by `sqrt(square_avg) + eps`, as PyTorch does.
        lr_in_momentum: the buffer sums `lr * grad / d`, as in TensorFlow, instead of `grad / d`, as in PyTorch.
        bias_correction: divide the averages by `1 - alpha**step`.
        clip_value: clip each element of the gradient to [-clip_value, clip_value]; None disables this.
        clip_norm: before that, scale all gradients so that the root of the sum of their squares is at most this; None
            disables this.
        grad_avg: like `param`; the average gradient, updated in place.
        momentum_buffer: like `param`; updated in place.
        state_dtype: how state is stored: None for the type of computation, "bfloat16" or "8bit" (then state is of
            uint8), rounded stochastically.
        master_weights: "split" for a `param` of bfloat16 that is the upper half of a float32: a run has the bits of one
            with float32 parameters.
        stochastic_rounding: round a `param` of bfloat16 stochastically, and not to nearest.
        ema_decay: from 0 to 1: after the step, `ema = ema_decay * ema + (1 - ema_decay) * param`; None for no average.
        ema: with `ema_decay`, stored like other state; a copy of `param` at first, updated in place.
        param_low: with `master_weights`, int16, like `param`; zeros at first, updated in place.
        square_avg_scale: with "8bit", uint8, one for each 256 elements, zeros at first; updated in place.
        momentum_buffer_scale: the same for `momentum_buffer`.
        seed: of stochastic rounding, from 0 to 2**53 - 1: random bits depend on it, on `step`, on the place of the
            array in a list and on the index of the element. Calls for several parameters need a seed each.
        step: the number of this step, from 1; `bias_correction` and stochastic rounding depend on it.
        grad_scale: factor for every gradient, applied first.
        num_threads: maximum number of threads; None for `rmsprop.get_num_threads()`.

    Raises:
        TypeError: an array cannot be used without a copy, or has another dtype; a hyperparameter is not a number.
        ValueError: shapes differ, an array that is written is read-only or shares memory with another, or a
            hyperparameter is out of range. Nothing has been written then.

    Examples:
        >>> import numpy as np
        >>> from rmsprop.functional import rmsprop_
        >>> param, grad, square_avg = np.ones(3), np.array([1.0, -2.0, 0.5]), np.zeros(3)
        >>> rmsprop_(param, grad, square_avg, lr=0.1)
        >>> param.round(4)
        array([0.6838, 1.3162, 0.6838])

    Source: T. Tieleman and G. Hinton, lecture 6e of Neural Networks for Machine Learning, Coursera, 2012.
    """
    _step("rmsprop", locals())


def adagrad_(
    param: Arrays,
    grad: Grads,
    sum: Arrays,
    *,
    lr: float,
    lr_decay: float = 0.0,
    eps: float = 1e-8,
    eps_in_sqrt: bool = True,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    clip_value: float | None = None,
    clip_norm: float | None = None,
    state_dtype: StateDType = None,
    master_weights: MasterWeights = None,
    stochastic_rounding: bool = False,
    ema_decay: float | None = None,
    ema: Arrays | None = None,
    param_low: Arrays | None = None,
    sum_scale: Arrays | None = None,
    seed: int = 0,
    step: int = 1,
    grad_scale: float = 1.0,
    num_threads: int | None = None,
) -> None:
    """Take one Adagrad step, in place, on one array or on a list of arrays.

    Formula:
        sum = sum + grad**2
        param = param - lr / (1 + (step - 1) * lr_decay) * grad / sqrt(sum + eps)

    Args:
        param: array of float32, float64, complex64, complex128, bfloat16 or float16, or a list of such arrays; updated
            in place. NumPy's (bfloat16 is that of ml_dtypes), or tensors of PyTorch 2.10 and later. What has 16 bits is
            computed in float32, and so is its state.
        grad: like `param`, or of any library that shares memory through DLPack; never written. For a `param` that is
            computed in float32 it may be float32, bfloat16 or float16. In a list, None leaves that parameter and its
            state as they are.
        sum: like `param`; the sum of squared gradients, updated in place.
        lr: learning rate, finite and >= 0.
        lr_decay: how fast the learning rate falls with `step`, finite and >= 0.
        eps: finite and >= 0.
        eps_in_sqrt: False divides by `sqrt(sum) + eps`, as PyTorch does.
        weight_decay: L2 penalty, added to the gradient, or decoupled from it.
        decoupled_weight_decay: shrink the parameter by `lr * weight_decay` instead.
        maximize: ascend instead of descend.
        clip_value: clip each element of the gradient to [-clip_value, clip_value]; None disables this.
        clip_norm: before that, scale all gradients so that the root of the sum of their squares is at most this; None
            disables this.
        state_dtype: how the sum is stored: None for the type of computation, "bfloat16" or "8bit" (then it is of
            uint8), rounded stochastically.
        master_weights: "split" for a `param` of bfloat16 that is the upper half of a float32: a run has the bits of one
            with float32 parameters.
        stochastic_rounding: round a `param` of bfloat16 stochastically, and not to nearest.
        ema_decay: from 0 to 1: after the step, `ema = ema_decay * ema + (1 - ema_decay) * param`; None for no average.
        ema: with `ema_decay`, stored like other state; a copy of `param` at first, updated in place.
        param_low: with `master_weights`, int16, like `param`; zeros at first, updated in place.
        sum_scale: with "8bit", uint8, one for each 256 elements, zeros at first; updated in place.
        seed: of stochastic rounding, from 0 to 2**53 - 1: random bits depend on it, on `step`, on the place of the
            array in a list and on the index of the element. Calls for several parameters need a seed each.
        step: the number of this step, from 1; `lr_decay` and stochastic rounding depend on it.
        grad_scale: factor for every gradient, applied first.
        num_threads: maximum number of threads; None for `rmsprop.get_num_threads()`.

    Raises:
        TypeError: an array cannot be used without a copy, or has another dtype; a hyperparameter is not a number.
        ValueError: shapes differ, an array that is written is read-only or shares memory with another, or a
            hyperparameter is out of range. Nothing has been written then.

    Examples:
        >>> import numpy as np
        >>> from rmsprop.functional import adagrad_
        >>> param, grad, sum = np.ones(3), np.array([1.0, -2.0, 0.5]), np.zeros(3)
        >>> adagrad_(param, grad, sum, lr=0.1)
        >>> param.round(4)
        array([0.9, 1.1, 0.9])

    Source: J. Duchi, E. Hazan and Y. Singer, Journal of Machine Learning Research 12, 2011.
    """
    _step("adagrad", locals())


def _step(rule: str, arguments: dict[str, Any]) -> None:
    """Take a step with the arguments of a function: arrays or lists of them, options, and hyperparameters."""
    param, grad, step = arguments.pop("param"), arguments.pop("grad"), arguments.pop("step")
    grad_scale, num_threads = arguments.pop("grad_scale"), arguments.pop("num_threads")
    state = {name: arguments.pop(name) for name in _STATE[rule]}
    if isinstance(step, bool) or not isinstance(step, (int, np.integer)):
        raise TypeError(f"step: got {type(step).__name__}, wanted an int")
    if not 1 <= step < 2**63:
        raise ValueError(f"step: got {step}, wanted a count from 1")
    if _is_array(param):
        params, keys = [param], None
        columns = tuple([array] for array in state.values())
    else:
        params = _list("param", param, "a numpy.ndarray or a list of them")
        keys = list(range(len(params)))
        columns = tuple(_column(name, arrays, len(params)) for name, arrays in state.items())
    steps = np.full(len(params), step - 1, np.int64)
    stepper = Stepper(rule, Naming.function)
    stepper.num_threads = num_threads
    stepper.step([{**arguments, "params": params}], grad, (keys, columns, steps), grad_scale, None)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "__dlpack__")


def _list(name: str, arrays: Any, wanted: str) -> list[Any]:
    if not isinstance(arrays, (list, tuple)):
        raise TypeError(f"{name}: got {type(arrays).__name__}, wanted {wanted}")
    return list(arrays)


def _column(name: str, arrays: Any, count: int) -> list[Any]:
    column = [None] * count if arrays is None else _list(name, arrays, "a list of arrays, as for param")
    if len(column) != count:
        raise ValueError(f"{name}: got {len(column)} arrays, wanted {count}, one for each parameter")
    return column
