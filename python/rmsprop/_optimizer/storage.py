"""How state is stored: dtypes and shapes, values of new state, and conversion from one format to another.

A format is what `Stepper.state_formats` calls it: "computed" is the dtype that steps are computed in, "bfloat16" is
that of ml_dtypes, "unsigned8" and "signed8" are codes in uint8, "scales" are those of their blocks, and "lower_half" is
what a parameter of bfloat16 lacks.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmsprop.reference import BLOCK, Words, decode_8bit, decode_bfloat16, encode_8bit, encode_bfloat16, is_bfloat16

Array = NDArray[Any]

CODES = ("unsigned8", "signed8")
SCALE = "_scale"
"""The end of the names of scales, after the name of the state that they belong to."""

TO_NEAREST = 0x7FFF
"""16 bits with which stochastic rounding is rounding to nearest, for what is rounded once and not in each step."""


def bfloat16() -> np.dtype[Any]:
    """Return NumPy's dtype for bfloat16, or raise an ImportError that says where it comes from."""
    try:
        dtype: np.dtype[Any] = np.dtype(import_module("ml_dtypes").bfloat16)
    except ImportError:
        raise ImportError(
            "bfloat16: NumPy has no such dtype of its own, and the package that adds it is missing: "
            "pip install 'rmsprop[bfloat16]'"
        ) from None
    return dtype


def blocks_of(size: int) -> int:
    """Return how many scales there are for this many elements."""
    return -(-size // BLOCK)


def dtype_of(form: str, param: Array) -> np.dtype[Any]:
    """Return the dtype of a parameter's state in a format."""
    if form == "bfloat16":
        return bfloat16()
    if form == "lower_half":
        return np.dtype(np.int16)
    if form != "computed":
        return np.dtype(np.uint8)
    return np.dtype(np.float32) if param.dtype.itemsize == 2 else param.dtype


def shape_of(form: str, shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Return the shape of state in a format."""
    return (blocks_of(size),) if form == "scales" else shape


def initial_value(form: str, name: str, accumulator: str, value: float) -> Any:
    """Return what an array of new state is filled with: `value` if it belongs to the accumulator, otherwise 0."""
    if name.removesuffix(SCALE) != accumulator:
        return 0
    if form in ("unsigned8", "scales"):
        code, scale = encoded_8bit(np.array([value], np.float32), "unsigned8")
        return float((scale if form == "scales" else code)[0])
    return value


def encoded_8bit(numbers: NDArray[np.float32], form: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return numbers as codes, rounded to nearest, and the scales of their blocks."""
    flat = np.ascontiguousarray(numbers, np.float32).reshape(-1)
    random: Words = np.full(flat.size, TO_NEAREST, np.uint32)
    codes, scales = encode_8bit(flat, random, form == "signed8")
    return codes.reshape(numbers.shape), scales


def rounded_to_bfloat16(numbers: Array) -> Array:
    """Return numbers as bfloat16, rounded to nearest."""
    flat = np.ascontiguousarray(numbers, np.float32).reshape(-1)
    return encode_bfloat16(flat).view(bfloat16()).reshape(numbers.shape)


def in_full(entry: Mapping[str, Any], name: str) -> Array:
    """Return a state of a parameter's entry as the numbers it stands for, in a dtype of NumPy's own."""
    array = entry[name]
    flat = np.ascontiguousarray(array).reshape(-1)
    if is_bfloat16(array):
        return decode_bfloat16(flat.view(np.uint16)).reshape(array.shape)
    if array.dtype == np.uint8:
        return decode_8bit(flat, entry[name + SCALE], name == "momentum_buffer").reshape(array.shape)
    plain: Array = array
    return plain
