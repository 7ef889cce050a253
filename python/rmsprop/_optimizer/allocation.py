"""New state, and its placement in memory.

A processor first compares the address of a load with those of earlier stores by their last 12 bits only. Arrays at
nearly the same offset in a page cause false dependencies, for which loads wait: on arrays in the caches this costs a
step 6 % of its speed, and 17 % with all three kinds of state (bench/studies/placement.py). Large blocks from malloc
usually have the same offset.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmsprop._optimizer import storage
from rmsprop._optimizer.state import StateColumns

PAGE = 4096
CACHE_LINE = 64
LEAST_BYTES = 16 * PAGE  # below this, the unused memory would be more than a few percent

# Offset from the parameter, by the place of the state among its names: the binary digits of 1, 2, 3, ... mirrored: 1/2,
# 1/4, 3/4, 1/8, 5/8, ... of a page, so that any number of kinds are apart. Gradients often lie near 0.
DISTANCES = tuple(int(f"{n:06b}"[::-1], 2) * CACHE_LINE for n in range(1, PAGE // CACHE_LINE))


def empty_state(param: NDArray[Any], place: int, form: str = "computed") -> NDArray[Any]:
    """Return an uninitialized array like a parameter: dense, in its order of dimensions, at another offset in a page.

    Args:
        param: An array of any layout.
        place: Which state of the parameter this is, from 0: each kind has its own offset.
        form: How it is stored; see `storage`.
    """
    param = np.asarray(param)  # a subclass may override NumPy's functions
    if form == "scales":
        return np.empty(storage.blocks_of(param.size), np.uint8)
    array = np.empty_like(param, storage.dtype_of(form, param), order="K")
    if array.nbytes < LEAST_BYTES:
        return array
    memory = np.empty(array.nbytes + PAGE, np.uint8)
    start = (param.ctypes.data + DISTANCES[place]) // CACHE_LINE * CACHE_LINE
    offset = (start - memory.ctypes.data) % PAGE
    return np.ndarray(array.shape, array.dtype, memory, offset, array.strides)


def allocate_missing_state(
    groups: list[dict[str, Any]],
    first: int,
    columns: StateColumns,
    accumulator: str,
    state_formats: Callable[[dict[str, Any]], dict[str, str]],
) -> None:
    """Allocate the state that groups need and do not have, laid out in memory like their parameters.

    Args:
        groups: with the parameters and their hyperparameters.
        first: the index of their first parameter in the columns.
        columns: what is missing is put into them.
        accumulator: the name of the state that starts from `initial_accumulator_value`; other state starts from 0.
        state_formats: returns the names of the state that a group needs, each with how it is stored.
    """
    for group in groups:
        needed = state_formats(group)
        for index, param in enumerate(group["params"], first):
            for place, (name, column) in enumerate(zip(columns.names, columns.arrays, strict=True)):
                if name in needed and column[index] is None:
                    initial = group["initial_accumulator_value"]
                    value = storage.initial_value(needed[name], name, accumulator, initial)
                    array = empty_state(param, place, needed[name])
                    if np.iscomplexobj(array):  # real and imaginary parts are separate elements
                        value = complex(value, value)
                    array.fill(value)
                    if name == "ema":
                        array[...] = param
                    column[index] = array
        first += len(group["params"])
