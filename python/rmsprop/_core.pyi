"""The compiled engine. Private: use the functions and classes of `rmsprop` instead."""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__version__: str

class Algorithm(enum.Enum):
    rmsprop = 0
    adagrad = 1

class Naming(enum.Enum):
    optimizer = 0
    function = 1
    torch = 2

Columns = tuple[list[Any] | None, tuple[list[Any], ...], NDArray[np.int64]]

class Stepper:
    nonfinite: str
    num_threads: int | None
    skipped_steps: int
    def __init__(self, algorithm: Algorithm, naming: Naming) -> None: ...
    def step(
        self,
        groups: list[dict[str, Any]],
        grads: NDArray[Any] | Sequence[NDArray[Any] | None] | Mapping[str, NDArray[Any] | None],
        columns: Columns,
        grad_scale: float,
        owner: Any,
    ) -> None: ...
    def step_tensors(
        self,
        groups: list[dict[str, Any]],
        state: dict[Any, dict[str, Any]],
        grad_scale: float,
        owner: Any,
        tell: Callable[[list[Any]], None],
    ) -> None: ...
    def check(self, groups: list[dict[str, Any]], columns: Columns) -> None: ...
    def check_tensors(self, groups: list[dict[str, Any]], state: dict[Any, dict[str, Any]]) -> None: ...

def get_num_threads() -> int: ...
def set_num_threads(num_threads: int) -> None: ...
def available_cpus() -> int: ...
def openmp_version() -> int: ...
def instruction_sets() -> list[tuple[str, bool, bool]]: ...
def use_instruction_set(name: str) -> None: ...
