"""Where new state lies in memory.

At first a processor compares the address of a load with those of the stores before it by their last 12 bits alone.
Arrays that lie at nearly the same place of a page make it see stores that are not there, and wait: in the caches that
costs a step 6 % of its speed, and 17 % with all three kinds of state (bench/placement.py). Memory from malloc lies
like that as a rule.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

PAGE = 4096
CACHE_LINE = 64
LEAST_BYTES = 16 * PAGE  # below, the memory left free would be more than a few percent

# From the parameter, by the place of the state among its names. Gradients lie where users have them, often near 0.
DISTANCES = (PAGE // 2, PAGE // 4, 3 * PAGE // 4)


def empty_state(param: NDArray[Any], place: int) -> NDArray[Any]:
    """Return an array like a parameter, with anything in it: dense, in its order of dimensions, away from it in a page.

    Args:
        param: An array of any layout.
        place: Which state of the parameter this is, from 0: each kind lies elsewhere.
    """
    array = np.empty_like(param, order="K", subok=False)
    if array.nbytes < LEAST_BYTES:
        return array
    memory = np.empty(array.nbytes + PAGE, np.uint8)
    wanted = (param.ctypes.data + DISTANCES[place]) // CACHE_LINE * CACHE_LINE
    offset = (wanted - memory.ctypes.data) % PAGE
    return np.ndarray(array.shape, array.dtype, memory, offset, array.strides)
