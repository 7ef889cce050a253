"""Optimizer state as users see it: a mapping from each parameter to its arrays and its step count."""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rmsprop._optimizer.names import Names

Columns = tuple[list[Any] | None, tuple[list[Any], ...], NDArray[np.int64]]
"""The names of all parameters, if they are in a collection; a list for each kind of state; and step counts."""


class StateColumns:
    """The state of all parameters, one list for each kind, in the order of the parameters.

    A column is passed to the engine as it is, without a look-up for each parameter. `State` shows the same arrays by
    parameter.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        keys: list[Any] | None,
        arrays: tuple[list[NDArray[Any] | None], ...],
        steps: NDArray[np.int64],
    ) -> None:
        self.names = names
        self.keys = keys  # None if there is one array and no collection of them
        self.arrays = arrays
        self.steps = steps
        self.for_engine: Columns = (keys, arrays, steps)

    @classmethod
    def empty(cls, names: tuple[str, ...]) -> "StateColumns":
        """Return columns for no parameters."""
        return cls(names, None, tuple([] for _ in names), np.zeros(0, np.int64))

    def extended(self, count: int = 0, keys: list[Any] | None = None) -> "StateColumns":
        """Return these columns with `count` more parameters, which have no state yet and have taken no step.

        `keys` are the names of all parameters then; None keeps those of these columns.
        """
        arrays = tuple([*column, *[None] * count] for column in self.arrays)
        steps = np.concatenate([self.steps, np.zeros(count, np.int64)])
        return StateColumns(self.names, self.keys if keys is None else keys, arrays, steps)


def step_count(value: Any) -> int:
    """Return `value` as a count of steps, or raise a TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"step: got {type(value).__name__}, wanted an int")
    if not 0 <= value < 2**63:
        raise ValueError(f"step: got {value}, wanted a count >= 0")
    return int(value)


class HasState(Protocol):
    """An optimizer. Views refer to it, not to its columns, since it replaces them when a group is added."""

    _columns: StateColumns
    _names: Names


class ParameterState(MutableMapping[str, Any]):
    """The state of one parameter: `step`, a count, and arrays under PyTorch's names.

    An array can be replaced by any other of the parameter's shape and dtype; the next step checks it.
    """

    def __init__(self, owner: HasState, index: int) -> None:
        self._owner = owner
        self._index = index

    @property
    def _columns(self) -> StateColumns:
        return self._owner._columns

    def _column(self, name: str) -> list[NDArray[Any] | None]:
        try:
            return self._columns.arrays[self._columns.names.index(name)]
        except ValueError:
            raise KeyError(
                f"{name!r}: the state of this optimizer is 'step', {str(self._columns.names)[1:-1]}"
            ) from None

    def __getitem__(self, name: str) -> Any:
        if name == "step":
            return int(self._columns.steps[self._index])
        array = self._column(name)[self._index]
        if array is None:
            raise KeyError(f"{name!r}: these hyperparameters have not needed it so far")
        return array

    def __setitem__(self, name: str, value: Any) -> None:
        if name == "step":
            self._columns.steps[self._index] = step_count(value)
            return
        column = self._column(name)
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{name}: got {type(value).__name__}, wanted a numpy.ndarray")
        column[self._index] = value

    def __delitem__(self, name: str) -> None:
        raise TypeError("state entries can be replaced, not deleted")

    def __iter__(self) -> Iterator[str]:
        yield "step"
        for name, column in zip(self._columns.names, self._columns.arrays, strict=True):
            if column[self._index] is not None:
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(dict(self))


class State(Mapping[Any, ParameterState]):
    """The state of every parameter, by its index, or by its name or path if the parameters came in a dict."""

    def __init__(self, owner: HasState) -> None:
        self._owner = owner

    def __getitem__(self, key: Any) -> ParameterState:
        index = self._owner._names.index_of.get(key)
        if index is None:
            raise KeyError(f"{key!r}: the parameters are {_list_of(self._owner._names.keys)}")
        return ParameterState(self._owner, index)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._owner._names.keys)

    def __len__(self) -> int:
        return len(self._owner._names.keys)

    def __repr__(self) -> str:
        return repr(dict(self))


def _list_of(keys: list[Any]) -> str:
    """Return the names as text, only the first and the last if there are many."""
    shown = [repr(key) for key in keys]
    return ", ".join(shown if len(shown) <= 12 else [*shown[:10], "...", shown[-1]])
