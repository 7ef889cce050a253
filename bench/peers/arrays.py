"""The input of a peer: parameters and gradients, and copies at random places in memory."""

from dataclasses import dataclass

import numpy as np

CACHE_LINE, PAGE = 64, 4096
LARGE = 1 << 16
"""Bytes from which the offset of an array in a page matters."""


@dataclass
class Arrays:
    """Parameters and gradients. A contender copies the parameters; it reads the gradients, which all share."""

    params: list[np.ndarray]
    grads: list[np.ndarray]

    def copies_of_params(self) -> list[np.ndarray]:
        """Return parameters for one contender, large ones of which lie anywhere in a page of memory.

        The gaps of a heap depend on earlier allocations: without this, the copies of the first peer could lie, in every
        run, just behind the gradients that all share, which is slower in the caches.
        """
        rng = np.random.default_rng()
        return [copy_anywhere(param, rng) if param.nbytes >= LARGE else param.copy() for param in self.params]


def copy_anywhere(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a copy that begins at some cache line of a page."""
    memory = np.empty(array.nbytes + PAGE, np.uint8)
    to_next_line = -memory.ctypes.data % CACHE_LINE
    begin = to_next_line + CACHE_LINE * int(rng.integers(PAGE // CACHE_LINE))
    copy = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
