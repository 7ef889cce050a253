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

Array = NDArray[Any]
Words = NDArray[np.uint32]
P = ParamSpec("P")

# ---- Numbers stored in fewer bits ------------------------------------------------------------------------------------

BLOCK = 256
"""Elements that have one scale in common."""

RANDOM_BITS = {
    "param": (0, 16),
    "square_avg": (0, 0),
    "sum": (0, 0),
    "grad_avg": (1, 16),
    "momentum_buffer": (1, 0),
    "ema": (2, 0),
}
"""Which hash has the 16 random bits of an operand, and from which of its bits on: one hash serves two operands."""

CUT = np.uint32(20)  # bits of a float32 that 8 bits lack
INFINITY = np.uint32(0x7F800000)
MAGNITUDE = np.uint32(0x7FFFFFFF)


def mixed(word: int) -> int:
    """Return 64 bits that depend on every bit of the given ones (the finalizer of SplitMix64)."""
    mask = (1 << 64) - 1
    word = ((word ^ word >> 30) * 0xBF58476D1CE4E5B9) & mask
    word = ((word ^ word >> 27) * 0x94D049BB133111EB) & mask
    return word ^ word >> 31


def random_key(seed: int, step: int, parameter: int) -> int:
    """Return the key of the random bits of one parameter in one step."""
    mask = (1 << 64) - 1
    return mixed((mixed((mixed((seed + 0x9E3779B97F4A7C15) & mask) + step) & mask) + parameter) & mask)


def random_bits(key: int, operand: str, indices: NDArray[np.uint64]) -> Words:
    """Return 16 random bits for each element of an operand: a hash of the key, the operand and the index.

    The index is spread over 32 bits by a multiple of the golden ratio, and hashed with two multiplications. The upper
    half of an index chooses other keys.
    """
    number, shift = RANDOM_BITS[operand]
    bits = np.empty(indices.size, np.uint32)
    uppers = indices >> np.uint64(32)
    for upper in np.unique(uppers):
        keys = mixed((key + (number << 32) + int(upper)) % (1 << 64))
        chosen = uppers == upper
        x = indices[chosen].astype(np.uint32) * np.uint32(0x9E3779B9) + np.uint32(keys & 0xFFFFFFFF)
        x = (x ^ x >> np.uint32(16)) * np.uint32(0x7FEB352D)
        x = (x ^ x >> np.uint32(15) ^ np.uint32(keys >> 32)) * np.uint32(0x846CA68B)
        bits[chosen] = x ^ x >> np.uint32(16)
    return bits >> np.uint32(shift) & np.uint32(0xFFFF)


# ---- bfloat16 --------------------------------------------------------------------------------------------------------


def decode_bfloat16(words: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the numbers whose upper halves these are."""
    return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)


def encode_bfloat16(numbers: NDArray[np.float32], random: Words | None = None) -> NDArray[np.uint16]:
    """Return the upper halves of numbers, rounded to nearest, ties to even, or stochastically; a NaN stays a NaN."""
    bits = numbers.view(np.uint32)
    rounding = np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)) if random is None else random
    rounded = np.where(np.isnan(numbers), bits | np.uint32(0x400000), bits + rounding)
    return (rounded >> np.uint32(16)).astype(np.uint16)


def decode_split(upper: NDArray[np.uint16], lower: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return the float32 numbers whose two halves these are."""
    return as_numbers((upper.astype(np.int64) << 16) + lower.astype(np.int64))


def encode_split(numbers: NDArray[np.float32]) -> tuple[NDArray[np.uint16], NDArray[np.int16]]:
    """Return numbers as bfloat16, nearest, ties away from zero, and what these lack, which has 16 bits and a sign."""
    bits = numbers.view(np.uint32).astype(np.int64)
    is_nan = np.isnan(numbers)
    upper = np.where(is_nan, bits | 0x400000, bits + 0x8000) >> 16
    lower = np.where(is_nan, 0, bits - (upper << 16))
    return upper.astype(np.uint16), lower.astype(np.int16)


# ---- 8 bits ----------------------------------------------------------------------------------------------------------


def offsets(scales: NDArray[np.uint8], signed: bool) -> NDArray[np.int64]:
    """Return for each element what is added to its code, so that it has the upper bits of a float32."""
    top = 14 if signed else 30
    exponents = np.clip(scales.astype(np.int64), top + 1, 254)
    return np.repeat((exponents - top) * 8, BLOCK)


def scales_for(numbers: NDArray[np.float32], signed: bool) -> NDArray[np.uint8]:
    """Return the scale of each block: the stored exponent of its largest finite magnitude."""
    magnitudes = numbers.view(np.uint32) & MAGNITUDE
    finite = np.where(magnitudes < INFINITY, magnitudes, np.uint32(0))
    blocks = np.append(finite, np.zeros(-finite.size % BLOCK, np.uint32)).reshape(-1, BLOCK)
    exponents = blocks.max(axis=1, initial=0) >> np.uint32(23)
    scales: NDArray[np.uint8] = np.maximum(exponents, 15 if signed else 31).astype(np.uint8)
    return scales


def as_numbers(bits: NDArray[Any]) -> NDArray[np.float32]:
    """Return the numbers that have these bits."""
    numbers: NDArray[np.float32] = bits.astype(np.uint32).view(np.float32)
    return numbers


def decode_8bit(codes: NDArray[np.uint8], scales: NDArray[np.uint8], signed: bool) -> NDArray[np.float32]:
    """Return the numbers that codes of 8 bits and the scales of their blocks stand for."""
    magnitudes = codes.astype(np.int64) & (0x7F if signed else 0xFF)
    bits = (magnitudes + offsets(scales, signed)[: codes.size]) << np.int64(CUT)
    bits = np.where(magnitudes == 0, 0, bits)
    if not signed:
        return as_numbers(np.where(magnitudes == 255, INFINITY, bits))
    return as_numbers(np.where(magnitudes == 127, 0x7FC00000, bits) | (codes.astype(np.int64) & 0x80) << 24)


def encode_8bit(
    numbers: NDArray[np.float32], random: Words, signed: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return numbers as codes of 8 bits, rounded stochastically, and the scale of each block.

    A code has 5 bits of exponent, or a sign and 4, and 3 of mantissa; the largest magnitude of a block has the second
    highest exponent. Numbers without a sign that are above 0 get at least the smallest code. Those with a sign that are
    below it become that code or 0, so that they stay right in the mean. What is not finite is the highest code.
    """
    bits = numbers.view(np.uint32)
    magnitudes = bits & MAGNITUDE
    scales = scales_for(numbers, signed)
    offset = offsets(scales, signed)[: numbers.size]
    above = (magnitudes + (random << np.uint32(4) | np.uint32(8))) >> CUT
    codes = np.maximum(above.astype(np.int64) - offset, 1)
    if signed:
        unit = ((254 * 8 - offset) << np.int64(CUT)).astype(np.uint32).view(np.float32)
        share = magnitudes.view(np.float32) * unit  # the smallest code is 9/8
        smallest = random.astype(np.float32) * np.float32(1.125 / 65536) < share
        codes = np.where(share < np.float32(1.125), smallest, codes)
    else:
        codes = np.where(magnitudes == 0, 0, codes)
    if signed:
        codes = codes | (bits >> np.uint32(24) & np.uint32(0x80))
    codes = np.where(magnitudes >= INFINITY, 127 if signed else 255, codes)  # the sign of a NaN is not defined
    return codes.astype(np.uint8), scales


# ---- Arrays ----------------------------------------------------------------------------------------------------------


def is_bfloat16(array: Array) -> bool:
    """Return whether an array has the dtype of ml_dtypes, without that package."""
    return bool(array.dtype.name == "bfloat16")


def is_computed(array: Array) -> bool:
    """Return whether a step computes in the type of an array."""
    return not is_bfloat16(array) and array.dtype not in (np.float16, np.uint8)


def decoded(array: Array, scales: NDArray[np.uint8] | None, signed: bool) -> Array:
    """Return the numbers in an array, in the type that a step computes in."""
    flat = array.reshape(-1)
    if is_bfloat16(array):
        return decode_bfloat16(flat.view(np.uint16)).reshape(array.shape)
    if array.dtype == np.uint8 and scales is not None:
        return decode_8bit(flat, scales, signed).reshape(array.shape)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def stores_fewer_bits(accumulator: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Make a rule decode arrays in fewer bits before it is applied, and encode them afterwards.

    The rule then also takes `seed` and `parameter`, the number of the parameter, `<name>_scale` for uint8 state,
    `param_low` for a parameter that is split, and `ema` with `ema_decay` for the average of the weights. State is
    rounded stochastically, parameters to nearest unless `stochastic_rounding` is True.
    """
    positional = ("param", "grad", accumulator)
    written = ("param", accumulator, "grad_avg", "momentum_buffer", "ema")

    def decorate(rule: Callable[P, None]) -> Callable[P, None]:
        @wraps(rule)
        def rule_for_any(*args: P.args, **kwargs: P.kwargs) -> None:
            given: dict[str, Any] = {**dict(zip(positional, args, strict=False)), **kwargs}
            key = random_key(given.pop("seed", 0), given.get("step", 1), given.pop("parameter", 0))
            scales = {name: given.pop(f"{name}_scale", None) for name in written}
            low, decay = given.pop("param_low", None), given.pop("ema_decay", None)
            rounds_param = given.pop("stochastic_rounding", False)
            arrays = {name: given[name] for name in (*written, "grad") if isinstance(given.get(name), np.ndarray)}
            with np.errstate(all="ignore"):
                numbers = {
                    name: decoded(array, scales.get(name), name == "momentum_buffer") for name, array in arrays.items()
                }
                if low is not None:
                    numbers["param"] = decode_split(param_words(arrays["param"]), low.reshape(-1)).reshape(low.shape)
                average = numbers.pop("ema", None)
                given.pop("ema", None)
                rule(**{**given, **numbers})  # type: ignore[call-arg]
                if average is not None:
                    w = numbers["param"]
                    scalar = w.real.dtype.type
                    numbers["ema"] = scalar(decay) * average + scalar(1.0 - decay) * w
                    if is_computed(arrays["ema"]):
                        arrays["ema"][...] = numbers["ema"]
                for name, array in arrays.items():
                    if name == "param" and low is not None:
                        flat = np.ascontiguousarray(numbers[name]).reshape(-1)
                        upper, lower = encode_split(flat)
                        array[...] = upper.view(array.dtype).reshape(array.shape)
                        low[...] = lower.reshape(low.shape)
                    elif name != "grad" and not is_computed(array):
                        is_nearest = name == "param" and not rounds_param
                        store(array, scales[name], numbers[name], name, None if is_nearest else key)

        return rule_for_any

    return decorate


def param_words(param: Array) -> NDArray[np.uint16]:
    """Return the upper halves that a split parameter has."""
    words: NDArray[np.uint16] = param.reshape(-1).view(np.uint16)
    return words


def store(array: Array, scales: Any, numbers: Array, operand: str, key: int | None) -> None:
    """Write numbers into an array of fewer bits, and the scales of its blocks; without a key, rounded to nearest."""
    flat = np.ascontiguousarray(numbers).reshape(-1)
    if array.dtype == np.float16:
        array[...] = numbers
        return
    random = None if key is None else random_bits(key, operand, np.arange(flat.size, dtype=np.uint64))
    if is_bfloat16(array):
        array[...] = encode_bfloat16(flat, random).view(array.dtype).reshape(array.shape)
    elif random is not None:
        codes, scales[...] = encode_8bit(flat, random, operand == "momentum_buffer")
        array[...] = codes.reshape(array.shape)


# ---- The rules -------------------------------------------------------------------------------------------------------


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
