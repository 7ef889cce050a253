"""What is stepped: the shapes of the parameters, and the rule."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from peers.arrays import Arrays

Shape = tuple[int, ...]

COMMON = {"lr": 1e-3, "alpha": 0.9, "eps": 1e-8}
"""The hyperparameters that every contender is given."""

RULES = {"plain": {}, "centered-momentum": {"centered": True, "momentum": 0.9}}
"""What a rule adds to them."""


def resnet50() -> list[Shape]:
    """Return the shapes of ResNet-50's 161 parameters, in the order of torchvision."""

    def convolution(out: int, inputs: int, size: int) -> list[Shape]:
        return [(out, inputs, size, size), (out,), (out,)]  # with the scale and shift of its normalisation

    shapes = convolution(64, 3, 7)
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += convolution(width, inputs, 1) + convolution(width, width, 3) + convolution(4 * width, width, 1)
            if block == 0:
                shapes += convolution(4 * width, inputs, 1)
            inputs = 4 * width
    return [*shapes, (1000, inputs), (1000,)]


def gpt2_small() -> list[Shape]:
    """Return the shapes of GPT-2 small's 148 parameters; the output layer is the word embedding."""
    width = 768
    norm: list[Shape] = [(width,), (width,)]
    attention: list[Shape] = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    network: list[Shape] = [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    block = norm + attention + norm + network
    return [(50257, width), (1024, width), *block * 12, *norm]


@dataclass(frozen=True)
class Workload:
    """Parameters of these shapes, in float32."""

    name: str
    title: str
    shapes: Callable[[], list[Shape]] = field(repr=False)

    @property
    def elements(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes())


def one(name: str, size: int) -> Workload:
    return Workload(name, f"1 tensor of {name}", lambda: [(size,)])


WORKLOADS = {
    workload.name: workload
    for workload in (
        one("16", 16),
        one("1k", 1 << 10),
        one("64k", 1 << 16),
        one("1M", 1 << 20),
        one("16M", 1 << 24),
        one("64M", 1 << 26),
        Workload("1000x64", "1,000 tensors of 64", lambda: [(64,)] * 1000),
        Workload("mlp", "MLP 784-128-10 (4 tensors)", lambda: [(784, 128), (128,), (128, 10), (10,)]),
        Workload("resnet50", "ResNet-50 (161 tensors, 25.6M)", resnet50),
        Workload("gpt2-small", "GPT-2 small (148 tensors, 124M)", gpt2_small),
    )
}
QUICK = ("16", "64k", "1M", "1000x64", "mlp")


def random_arrays(shapes: list[Shape]) -> Arrays:
    rng = np.random.default_rng(0)
    return Arrays(
        [rng.standard_normal(shape, dtype=np.float32) for shape in shapes],
        [rng.standard_normal(shape, dtype=np.float32) for shape in shapes],
    )
