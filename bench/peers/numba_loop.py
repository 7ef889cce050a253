"""A loop in Numba: fused by hand, parallel, one call per tensor."""

import functools

import numpy as np

from peers.arrays import Arrays
from peers.contract import Contender, Options, Peer, Steps


@functools.cache
def compile_loops():
    import numba

    @numba.njit(parallel=True)
    def plain(w, g, v, lr, alpha, rest, eps):
        for i in numba.prange(w.size):
            v[i] = alpha * v[i] + rest * (g[i] * g[i])
            w[i] -= lr * g[i] / np.sqrt(v[i] + eps)

    @numba.njit(parallel=True)
    def centered(w, g, v, m, b, lr, alpha, rest, eps, momentum):
        for i in numba.prange(w.size):
            v[i] = alpha * v[i] + rest * (g[i] * g[i])
            m[i] = alpha * m[i] + rest * g[i]
            b[i] = momentum * b[i] + g[i] / np.sqrt(max(v[i] - m[i] * m[i], np.float32(0)) + eps)
            w[i] -= lr * b[i]

    return plain, centered


def make(arrays: Arrays, options: Options) -> Contender:
    plain, centered = compile_loops()
    scalars = [np.float32(value) for value in (options["lr"], options["alpha"], 1 - options["alpha"], options["eps"])]
    is_centered = options.get("centered", False)
    loop = centered if is_centered else plain
    if is_centered:
        scalars.append(np.float32(options["momentum"]))
    params = arrays.copies_of_params()
    state = [[np.zeros(param.size, np.float32) for _ in range(3 if is_centered else 1)] for param in params]
    calls = [
        (param.reshape(-1), grad.reshape(-1), *entry)
        for param, grad, entry in zip(params, arrays.grads, state, strict=True)
    ]

    def step() -> None:
        for operands in calls:
            loop(*operands, *scalars)

    return Steps(
        step=step,
        read_params=lambda: params,
        read_state_bytes=lambda: sum(array.nbytes for entry in state for array in entry),
    )


PEERS = (Peer("Numba, fused by hand", "numba", make, packages=("numba",), install="pip install numba"),)
