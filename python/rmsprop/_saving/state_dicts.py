"""State dicts: state and hyperparameters of an optimizer as plain data, in the layout of `layout`."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rmsprop._core import Stepper
from rmsprop._optimizer.allocation import empty_state
from rmsprop._optimizer.state import StateColumns, step_count
from rmsprop._saving.layout import groups_and_state, numbers_of
from rmsprop._saving.pytorch import from_torch, is_from_torch

Array = NDArray[Any]
Groups = list[dict[str, Any]]


class Optimizer(Protocol):
    """What saving and loading need of an optimizer for NumPy's arrays."""

    param_groups: Groups
    defaults: dict[str, Any]
    _columns: StateColumns
    _keys: list[Any]
    _stepper: Stepper

    def _replace(self, **attributes: Any) -> None: ...

    @property
    def state_names(self) -> tuple[str, ...]:
        """The names of all state that the rule can have."""

    def _check(self, groups: Groups, columns: StateColumns) -> None: ...
    def _needed_state(self, group: dict[str, Any]) -> tuple[str, ...]: ...
    def _columns_with_missing_state(self) -> StateColumns: ...
    def _allocate_missing_state(self, groups: Groups, columns: StateColumns) -> None: ...


@dataclass(frozen=True)
class Replacement:
    """Groups and state to replace those of an optimizer: checked, and not in use yet."""

    groups: Groups
    columns: StateColumns
    copies: list[tuple[Array, Any]]
    """Each new array, still uninitialized, with the entry of the state dict to copy into it."""


def state_dict(optimizer: Optimizer) -> dict[str, Any]:
    """Return state and hyperparameters; see `Optimizer.state_dict`."""
    columns = optimizer._columns_with_missing_state()
    groups = []
    first = 0
    for group in optimizer.param_groups:
        last = first + len(group["params"])
        saved = {name: _plain(value) for name, value in group.items() if name != "params"}
        names = {"param_names": optimizer._keys[first:last]} if _has_names(optimizer) else {}
        groups.append({**saved, "params": list(range(first, last)), **names})
        first = last
    entries: list[dict[str, Any]] = [{"step": step} for step in columns.steps.tolist()]
    for name, column in zip(columns.names, columns.arrays, strict=True):
        for entry, array in zip(entries, column, strict=True):
            if array is not None:
                entry[name] = array
    return {"state": dict(enumerate(entries)), "param_groups": groups}


def load_state_dict(optimizer: Optimizer, state_dict: Mapping[str, Any]) -> None:
    """Load what `state_dict` returned; see `Optimizer.load_state_dict`."""
    if is_from_torch(groups_and_state(state_dict)[0]):
        state_dict = from_torch(state_dict)
    with optimizer._stepper.hold("load_state_dict"):
        replacement = replacement_for(optimizer, state_dict)
        for array, source in replacement.copies:
            array[...] = source
        install(optimizer, replacement)


def replacement_for(
    optimizer: Optimizer, state_dict: Mapping[str, Any], array_type: type[Any] = np.ndarray
) -> Replacement:
    """Check a state dict against an optimizer, and allocate the arrays to load it into.

    Args:
        optimizer: it is not changed.
        state_dict: in the layout of `layout`, with all hyperparameters of the optimizer.
        array_type: the type of arrays in `state_dict`; it has a `dtype` and a `shape`.

    Raises:
        TypeError: an entry has the wrong type or dtype.
        ValueError: anything does not match the optimizer, or a hyperparameter is out of range.
    """
    saved_groups, saved_state = groups_and_state(state_dict)
    groups = _new_groups(optimizer, saved_groups)
    entries = [saved_state[number] for number in numbers_of(saved_groups, saved_state)]
    columns = StateColumns.empty(optimizer.state_names).extended(len(entries), optimizer._columns.keys)
    replacement = Replacement(groups, columns, [])
    params = (param for group in groups for param in group["params"])
    for index, (param, entry, key) in enumerate(zip(params, entries, optimizer._keys, strict=True)):
        _allocate_entry(replacement, index, param, entry, key, array_type)
    optimizer._check(groups, columns)
    _check_complete(optimizer, groups, entries)
    optimizer._allocate_missing_state(groups, columns)
    return replacement


def check_arrays(optimizer: Optimizer) -> None:
    """Check all arrays of an optimizer, also those that its hyperparameters do not need at the moment."""
    columns = optimizer._columns
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for name, column in zip(columns.names, columns.arrays, strict=True):
        for param, array, key in zip(params, column, optimizer._keys, strict=True):
            if array is not None:
                _check_array(array, param, key, name, np.ndarray)


def install(optimizer: Optimizer, replacement: Replacement) -> None:
    """Put groups and state into use: one operation, which no signal and no other thread can interrupt."""
    optimizer._replace(param_groups=replacement.groups, _columns=replacement.columns)


def _has_names(optimizer: Optimizer) -> bool:
    return isinstance(optimizer._keys[0], str)


def _plain(value: Any) -> Any:
    """Return a hyperparameter as a Python number if it is NumPy's, a fraction or the like."""
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Real) and not isinstance(value, int):
        return float(value)
    return value


def _new_groups(optimizer: Optimizer, saved_groups: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return groups with the hyperparameters of a state dict and the parameters of an optimizer."""
    if len(saved_groups) != len(optimizer.param_groups):
        raise ValueError(f"param_groups: got {len(saved_groups)}, wanted {len(optimizer.param_groups)}")
    groups = []
    first = 0
    for i, (group, saved) in enumerate(zip(optimizer.param_groups, saved_groups, strict=True)):
        keys = optimizer._keys[first : first + len(group["params"])]
        groups.append(_new_group(optimizer, group, saved, keys, f"param_groups[{i}]"))
        first += len(keys)
    return groups


def _new_group(
    optimizer: Optimizer, group: dict[str, Any], saved: Mapping[str, Any], keys: list[Any], label: str
) -> dict[str, Any]:
    """Return a group with the hyperparameters of `saved` and the parameters of `group`."""
    if len(saved["params"]) != len(keys):
        raise ValueError(f"{label}: got {len(saved['params'])} parameters, wanted {len(keys)}")
    if _has_names(optimizer):
        for name, key in zip(saved.get("param_names", keys), keys, strict=True):
            if name != key:
                raise ValueError(f"{label}: got a parameter of the name {name!r}, wanted {key!r}")
    if "name" in saved and "name" in group and saved["name"] != group["name"]:
        raise ValueError(f"{label}: got a group of the name {saved['name']!r}, wanted {group['name']!r}")
    hyperparameters = saved.keys() - {"params", "param_names", "name"}
    if unknown := sorted(map(str, hyperparameters - optimizer.defaults.keys())):
        known = ", ".join(optimizer.defaults)
        raise ValueError(f"{label}: unknown hyperparameter {', '.join(unknown)}; this optimizer has {known}")
    if missing := sorted(optimizer.defaults.keys() - hyperparameters):
        raise ValueError(f"{label}: no hyperparameter {', '.join(missing)}")
    return {**group, **{name: value for name, value in saved.items() if name not in {"params", "param_names"}}}


def _allocate_entry(
    replacement: Replacement, index: int, param: Array, saved: Mapping[str, Any], key: Any, array_type: type[Any]
) -> None:
    """Check the state of one parameter and allocate arrays for it, laid out in memory like the parameter."""
    columns = replacement.columns
    for name, value in saved.items():
        if name == "step":
            try:
                columns.steps[index] = step_count(value)
            except (TypeError, ValueError) as error:
                raise type(error)(f"state[{key!r}]: {error}") from None
        elif name not in columns.names:
            known = ", ".join(columns.names)
            raise ValueError(f"state[{key!r}]: unknown entry {name!r}; this optimizer has step, {known}")
        else:
            _check_array(value, param, key, name, array_type)
            place = columns.names.index(name)
            array = empty_state(param, place)
            columns.arrays[place][index] = array
            replacement.copies.append((array, value))


def _check_array(value: Any, param: Array, key: Any, name: str, array_type: type[Any]) -> None:
    if not isinstance(value, array_type) or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"state[{key!r}][{name!r}]: got {type(value).__name__}, wanted a numpy.ndarray")
    if value.shape != param.shape:
        raise ValueError(f"state[{key!r}][{name!r}]: shape {value.shape} does not match the parameter's {param.shape}")
    if value.dtype != param.dtype:
        raise TypeError(f"state[{key!r}][{name!r}]: dtype {value.dtype} does not match the parameter's {param.dtype}")


def _check_complete(optimizer: Optimizer, groups: Groups, entries: list[Mapping[str, Any]]) -> None:
    """Check that entries are complete. An empty one is that of a parameter that has taken no step."""
    index = 0
    for group in groups:
        needed = ("step", *optimizer._needed_state(group))
        for entry in entries[index : index + len(group["params"])]:
            if entry and not all(name in entry for name in needed):
                missing = ", ".join(sorted(set(needed) - entry.keys()))
                raise ValueError(f"state[{optimizer._keys[index]!r}]: no {missing}")
            index += 1
