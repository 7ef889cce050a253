"""The specification, as plain NumPy: what every step computes, to the last bit.

Each line is one IEEE-754 operation at a time in the compute type, which is the type of the parameter: float64 for
float64 and complex128, float32 for float32 and complex64. Hyperparameters are Python floats; each scalar that is
derived from them is computed once in double precision and rounded once to the compute type. The native kernels give
these bits, with one exception: a NaN stays a NaN, but its payload may differ.

This module needs only NumPy, not the compiled extension. It is written for readability, not for speed.

Sources: RMSprop: T. Tieleman and G. Hinton, lecture 6e of Neural Networks for Machine Learning, Coursera, 2012.
Adagrad: J. Duchi, E. Hazan and Y. Singer, Journal of Machine Learning Research 12, 2011.
"""

import math
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

from rmsprop._stored import stores_fewer_bits

Array = NDArray[Any]
P = ParamSpec("P")


def parts_are_elements(rule: Callable[P, None]) -> Callable[P, None]:
    """Apply a rule for real arrays to the real and to the imaginary part of complex ones."""

    @wraps(rule)
    def rule_for_any(*args: P.args, **kwargs: P.kwargs) -> None:
        arrays = [value for value in (*args, *kwargs.values()) if isinstance(value, np.ndarray)]
        if not any(np.iscomplexobj(array) for array in arrays):
            return rule(*args, **kwargs)
        for part in ("real", "imag"):

            def view(value: Any, part: str = part) -> Any:
                return getattr(value, part) if isinstance(value, np.ndarray) else value

            rule(*map(view, args), **{name: view(value) for name, value in kwargs.items()})
        return None

    return rule_for_any


def power(alpha: float, t: int) -> float:
    """Return alpha**t by repeated squaring.

    Not `alpha**t`, whose last bit depends on the C library: multiplication is the same everywhere.
    """
    result = 1.0
    while t > 0:
        if t & 1:
            result *= alpha
        alpha *= alpha
        t >>= 1
    return result


def sum_of_squares(grads: Iterable[Array], grad_scale: float = 1.0) -> float:
    """Return the sum of the squares of all gradients, in double precision and in one fixed order.

    Squares are added over blocks of 4,096 elements of each array, in C order, in 16 interleaved partial sums; those are
    added as a tree, and the sums of the blocks one after the other.
    """
    total = 0.0
    for grad in grads:
        flat = np.ascontiguousarray(grad).reshape(-1)
        elements = flat.view(flat.real.dtype)
        scaled = (elements.dtype.type(grad_scale) * elements).astype(np.float64)
        for begin in range(0, scaled.size, 4096):
            block = scaled[begin : begin + 4096]
            rows = np.append(block, np.zeros(-block.size % 16)).reshape(-1, 16)
            partials = np.zeros(16)
            for row in rows:
                partials = partials + row * row
            while partials.size > 1:
                half = partials.size // 2
                partials = partials[:half] + partials[half:]
            total += float(partials[0])
    return total


def clip_scale(sum_of_squares: float, clip_norm: float) -> float:
    """Return min(1, clip_norm / (norm + 1e-6)), PyTorch's factor for gradients of this norm; NaN stays NaN."""
    scale = clip_norm / (math.sqrt(sum_of_squares) + 1e-6)
    return 1.0 if scale > 1.0 else scale


def prepare(
    param: Array,
    grad: Array,
    scalar: Callable[[float], Any],
    *,
    lr: float,
    grad_scale: float,
    clip_scale: float,
    clip_value: float | None,
    maximize: bool,
    weight_decay: float,
    decoupled_weight_decay: bool,
) -> tuple[Array, Array]:
    """Return the parameter and the gradient that the rule is applied to. `scalar` rounds to the compute type."""
    w, g = param, grad
    if grad_scale != 1.0:
        g = scalar(grad_scale) * g
    if clip_scale != 1.0:
        g = scalar(clip_scale) * g
    if clip_value is not None:
        limit = scalar(clip_value)
        g = np.where(g > limit, limit, np.where(g < -limit, -limit, g))  # a NaN stays NaN
    if maximize:
        g = -g
    if weight_decay != 0.0 and not decoupled_weight_decay:
        g = g + scalar(weight_decay) * w
    if weight_decay != 0.0 and decoupled_weight_decay:
        w = w - scalar(lr * weight_decay) * w
    return w, g


def denominator(s: Array, eps: Any, eps_in_sqrt: bool) -> Array:
    """Return sqrt(s + eps) or sqrt(s) + eps."""
    d: Array = np.sqrt(s + eps) if eps_in_sqrt else np.sqrt(s) + eps
    return d


@parts_are_elements
@stores_fewer_bits("square_avg")
def rmsprop_(
    param: Array,
    grad: Array,
    square_avg: Array,
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
    grad_avg: Array | None = None,
    momentum_buffer: Array | None = None,
    step: int = 1,
    grad_scale: float = 1.0,
    clip_scale: float = 1.0,
) -> None:
    """Take one RMSprop step in place. Arguments as for `rmsprop.functional.rmsprop_`, one array each.

    It also takes the arguments of storage in fewer bits, but finds `state_dtype` and `master_weights` from the arrays;
    `parameter` is the number that an array has among others. Instead of `clip_norm` it takes what the function
    `clip_scale` returns for it.
    """
    if centered and grad_avg is None:
        raise ValueError("grad_avg: got None, wanted an array, since centered is True")
    if momentum != 0.0 and momentum_buffer is None:
        raise ValueError("momentum_buffer: got None, wanted an array, since momentum is not 0")

    scalar = param.dtype.type
    with np.errstate(all="ignore"):
        w, g = prepare(
            param,
            grad,
            scalar,
            lr=lr,
            grad_scale=grad_scale,
            clip_scale=clip_scale,
            clip_value=clip_value,
            maximize=maximize,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
        )
        a, one_minus_a = scalar(alpha), scalar(1.0 - alpha)
        v = a * square_avg + one_minus_a * (g * g)
        s = v
        if bias_correction:
            k = scalar(np.float64(1.0) / (1.0 - power(alpha, step)))  # infinite if alpha is 1
            s = v * k
        if centered and grad_avg is not None:
            m = a * grad_avg + one_minus_a * g
            mean = m * k if bias_correction else m
            s = s - mean * mean
            s = np.where(s < 0, scalar(0), s)  # rounding can make a variance negative; a NaN stays NaN
            grad_avg[...] = m
        d = denominator(s, scalar(eps), eps_in_sqrt)
        if momentum == 0.0 or momentum_buffer is None:
            w = w - (scalar(lr) * g) / d
        else:
            mu = scalar(momentum)
            u = (scalar(lr) * g) / d if lr_in_momentum else g / d
            b = mu * momentum_buffer + u
            direction = mu * b + u if nesterov else b
            w = w - direction if lr_in_momentum else w - scalar(lr) * direction
            momentum_buffer[...] = b
    square_avg[...] = v
    param[...] = w


@parts_are_elements
@stores_fewer_bits("sum")
def adagrad_(
    param: Array,
    grad: Array,
    sum: Array,
    *,
    lr: float,
    lr_decay: float = 0.0,
    eps: float = 1e-8,
    eps_in_sqrt: bool = True,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    clip_value: float | None = None,
    step: int = 1,
    grad_scale: float = 1.0,
    clip_scale: float = 1.0,
) -> None:
    """Take one Adagrad step in place. Arguments as for `rmsprop.functional.adagrad_`, one array each.

    It also takes the arguments of storage in fewer bits, but finds `state_dtype` and `master_weights` from the arrays;
    `parameter` is the number that an array has among others. Instead of `clip_norm` it takes what the function
    `clip_scale` returns for it.
    """
    scalar = param.dtype.type
    with np.errstate(all="ignore"):
        w, g = prepare(
            param,
            grad,
            scalar,
            lr=lr,
            grad_scale=grad_scale,
            clip_scale=clip_scale,
            clip_value=clip_value,
            maximize=maximize,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
        )
        a = sum + g * g
        step_lr = scalar(lr / (1.0 + (step - 1) * lr_decay))
        w = w - (step_lr * g) / denominator(a, scalar(eps), eps_in_sqrt)
    sum[...] = a
    param[...] = w
