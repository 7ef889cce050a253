"""Numbers stored in fewer bits, as plain NumPy: the part of `rmsprop.reference` that decodes and encodes them."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Words = NDArray[np.uint32]
P = ParamSpec("P")

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
