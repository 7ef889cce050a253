"""JAX with optax: one compiled function that is given its buffers back."""

from functools import partial

import numpy as np

from peers.arrays import Arrays
from peers.contract import Contender, Options, Peer


class OptaxSteps:
    def __init__(self, arrays: Arrays, options: Options) -> None:
        import jax
        import optax

        self.jax = jax
        optimizer = optax.rmsprop(
            options["lr"],
            decay=options["alpha"],
            eps=options["eps"],
            centered=options.get("centered", False),
            momentum=options.get("momentum"),
        )

        @partial(jax.jit, donate_argnums=(0, 1))
        def step(params, state, grads):
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        self.step = step
        self.weights = [jax.numpy.array(param) for param in arrays.params]
        self.grads = [jax.numpy.array(grad) for grad in arrays.grads]
        self.state = optimizer.init(self.weights)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.weights, self.state = self.step(self.weights, self.state, self.grads)
        self.jax.block_until_ready((self.weights, self.state))

    def params(self) -> list[np.ndarray]:
        return [np.array(weight) for weight in self.weights]

    def state_bytes(self) -> int:
        return sum(leaf.nbytes for leaf in self.jax.tree.leaves(self.state) if leaf.ndim)


def make(arrays: Arrays, options: Options) -> Contender:
    return OptaxSteps(arrays, options)


PEERS = (
    Peer(
        "JAX optax, jit",
        "jax",
        make,
        packages=("jax", "optax"),
        install="pip install jax optax",
        meaning={"lr_in_momentum": True},
        why="the learning rate is inside of the momentum buffer",
    ),
)
