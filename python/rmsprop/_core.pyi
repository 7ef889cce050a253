"""The compiled engine. Private: use the functions and classes of `rmsprop` instead."""

import enum
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

__version__: str

class Naming(enum.Enum):
    optimizer = 0
    function = 1
    torch = 2

class Rule:
    @property
    def name(self) -> str: ...
    @property
    def hyperparameters(self) -> tuple[str, ...]: ...
    @property
    def defaults(self) -> dict[str, Any]: ...
    @property
    def state(self) -> tuple[str, ...]: ...
    @property
    def accumulator(self) -> str: ...

rules: dict[str, Rule]

Columns = tuple[list[Any] | None, tuple[list[Any], ...], NDArray[np.int64]]

class Stepper:
    nonfinite: str
    num_threads: int | None
    skipped_steps: int
    def __init__(self, rule: str, naming: Naming) -> None: ...
    @property
    def rule(self) -> Rule: ...
    def step(
        self,
        groups: list[dict[str, Any]],
        grads: NDArray[Any] | Sequence[NDArray[Any] | None] | Mapping[str, NDArray[Any] | None],
        columns: Columns,
        grad_scale: float,
        allocate: Callable[[], Columns] | None,
    ) -> None: ...
    def step_tensors(
        self,
        groups: list[dict[str, Any]],
        state: dict[Any, dict[str, Any]],
        grad_scale: float,
        allocate: Callable[[], dict[Any, dict[str, Any]]] | None,
        on_written: Callable[[list[Any]], object] | None,
    ) -> None: ...
    def check(self, groups: list[dict[str, Any]], columns: Columns) -> None: ...
    def check_tensors(self, groups: list[dict[str, Any]], state: dict[Any, dict[str, Any]]) -> None: ...
    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]: ...
    def hold(self, what: str) -> AbstractContextManager[None]: ...
    def twin(self) -> Stepper: ...

def get_num_threads() -> int: ...
def set_num_threads(num_threads: int) -> None: ...
def available_cpus() -> int: ...
def openmp_version() -> int: ...
def instruction_sets() -> list[tuple[str, bool, bool]]: ...
def use_instruction_set(name: str) -> None: ...
