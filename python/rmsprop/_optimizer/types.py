"""The types of arguments, under names short enough for a signature."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, ValuesView
from typing import Any, Literal, Protocol, TypeVar

from numpy.typing import NDArray

T_co = TypeVar("T_co", covariant=True)


class Items(Protocol[T_co]):
    """A list, a tuple or another sequence, but, unlike `Sequence`, not a str."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[T_co]: ...
    def __getitem__(self, index: int, /) -> T_co: ...
    def __contains__(self, item: object, /) -> bool: ...


class SharesMemory(Protocol):
    """An array of any library that shares memory through DLPack, such as JAX."""

    def __dlpack__(self, *args: Any, **options: Any) -> Any: ...


Array = NDArray[Any]
# Values of dicts are objects, because type checkers infer that for a dict of arrays, dicts and lists.
Named = Mapping[str, object]
Param = Array | Named | Items["Param"]
Params = Array | Named | Items[Param] | Iterator[Param] | ValuesView[Param]
Grad = Array | SharesMemory | None
Grads = Grad | Named | Items["Grads"]
Group = Mapping[str, Any]
LearningRate = float | Callable[[int], float]
Nonfinite = Literal["propagate", "skip", "raise"]
MasterWeights = Literal["split"] | None
StateDType = Literal["bfloat16", "8bit"] | None
Progress = Callable[[int, int], None]
