"""The formula, written out in NumPy."""

import numpy as np

from peers.arrays import Arrays
from peers.contract import Contender, Options, Peer, Steps


def make(arrays: Arrays, options: Options) -> Contender:
    lr, alpha, rest, eps = map(np.float32, (options["lr"], options["alpha"], 1 - options["alpha"], options["eps"]))
    centered = options.get("centered", False)
    momentum = np.float32(options.get("momentum", 0.0))
    params = arrays.copies_of_params()
    state = [[np.zeros_like(param) for _ in range(3 if centered else 1)] for param in params]

    def plain_step() -> None:
        for w, g, (v,) in zip(params, arrays.grads, state, strict=True):
            v *= alpha
            v += rest * (g * g)
            w -= lr * g / np.sqrt(v + eps)

    def centered_step() -> None:
        for w, g, (v, m, b) in zip(params, arrays.grads, state, strict=True):
            v *= alpha
            v += rest * (g * g)
            m *= alpha
            m += rest * g
            b *= momentum
            b += g / np.sqrt(np.maximum(v - m * m, 0) + eps)
            w -= lr * b

    return Steps(
        step=centered_step if centered else plain_step,
        read_params=lambda: params,
        read_state_bytes=lambda: sum(array.nbytes for entry in state for array in entry),
    )


PEERS = (Peer("NumPy expression", "numpy", make, packages=("numpy",), install="pip install numpy"),)
