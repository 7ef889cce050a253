"""State dicts: state and hyperparameters of an optimizer as plain data, in the layout of `layout`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rmsprop._core import Stepper
from rmsprop._optimizer import storage
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

    def _check(self, groups: Groups, columns: StateColumns) -> None: ...
    def _state_formats(self, group: dict[str, Any]) -> dict[str, str]: ...
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
    columns = StateColumns.empty(optimizer._columns.names).extended(len(entries), optimizer._columns.keys)
    replacement = Replacement(groups, columns, [])
    params = list(_params_with_formats(optimizer, groups))
    entries = [_in_formats(entry, formats) for entry, (_, formats) in zip(entries, params, strict=True)]
    for index, ((param, formats), entry, key) in enumerate(zip(params, entries, optimizer._keys, strict=True)):
        _allocate_entry(replacement, index, param, entry, key, formats, array_type)
    optimizer._check(groups, columns)
    _check_complete(optimizer, groups, entries)
    optimizer._allocate_missing_state(groups, columns)
    return replacement


def check_arrays(optimizer: Optimizer) -> None:
    """Check all arrays of an optimizer, also those that its hyperparameters do not need at the moment."""
    columns = optimizer._columns
    params = list(_params_with_formats(optimizer, optimizer.param_groups))
    for name, column in zip(columns.names, columns.arrays, strict=True):
        for (param, formats), array, key in zip(params, column, optimizer._keys, strict=True):
            if array is not None:
                form = formats.get(name) or _format_of(array, name)
                _check_array(array, param, key, name, form, np.ndarray)


def install(optimizer: Optimizer, replacement: Replacement) -> None:
    """Put groups and state into use: one operation, which no signal and no other thread can interrupt."""
    optimizer._replace(param_groups=replacement.groups, _columns=replacement.columns)


def _params_with_formats(optimizer: Optimizer, groups: Groups) -> Iterator[tuple[Array, dict[str, str]]]:
    """Return each parameter with the formats of the state that its group needs."""
    for i, group in enumerate(groups):
        try:
            formats = optimizer._state_formats(group)
        except (TypeError, ValueError) as error:
            raise type(error)(f"param_groups[{i}]: {error}" if len(groups) > 1 else str(error)) from None
        for param in group["params"]:
            yield param, formats


def _format_of(array: Any, name: str) -> str:
    """Return how state is stored that the hyperparameters do not need at the moment."""
    if name.endswith(storage.SCALE):
        return "scales"
    if name == "param_low":
        return "lower_half"
    dtype = getattr(array, "dtype", None)
    if dtype == np.uint8:
        return "signed8" if name == "momentum_buffer" else "unsigned8"
    return "bfloat16" if dtype is not None and dtype.name == "bfloat16" else "computed"


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
    optional = optimizer._stepper.rule.optional  # older versions did not have them: they stay as they are
    if missing := sorted(optimizer.defaults.keys() - hyperparameters - set(optional)):
        raise ValueError(f"{label}: no hyperparameter {', '.join(missing)}")
    return {**group, **{name: value for name, value in saved.items() if name not in {"params", "param_names"}}}


def _allocate_entry(
    replacement: Replacement,
    index: int,
    param: Array,
    saved: Mapping[str, Any],
    key: Any,
    formats: dict[str, str],
    array_type: type[Any],
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
            form = formats.get(name) or _format_of(value, name)
            _check_array(value, param, key, name, form, array_type)
            place = columns.names.index(name)
            array = empty_state(param, place, form)
            columns.arrays[place][index] = array
            replacement.copies.append((array, value))


def _in_formats(saved: Mapping[str, Any], formats: dict[str, str]) -> Mapping[str, Any]:
    """Return an entry whose float32 state has the formats of a group that stores fewer bits, rounded to nearest."""
    converted: dict[str, Any] = {}
    for name, form in formats.items():
        value = saved.get(name)
        if not isinstance(value, np.ndarray) or value.dtype != np.float32:
            continue
        if form == "bfloat16":
            converted[name] = storage.rounded_to_bfloat16(value)
        elif form in storage.CODES:
            converted[name], converted[name + storage.SCALE] = storage.encoded_8bit(value, form)
    return {**saved, **converted} if converted else saved


def _check_array(value: Any, param: Array, key: Any, name: str, form: str, array_type: type[Any]) -> None:
    if not isinstance(value, array_type) or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"state[{key!r}][{name!r}]: got {type(value).__name__}, wanted a numpy.ndarray")
    shape = storage.shape_of(form, param.shape, param.size)
    if value.shape != shape:
        wanted = f"match the parameter's {param.shape}" if form != "scales" else f"match {shape}, that of its scales"
        raise ValueError(f"state[{key!r}][{name!r}]: shape {value.shape} does not {wanted}")
    dtype = storage.dtype_of(form, param)
    if value.dtype != dtype:
        wanted = f"{param.dtype}" + (f", whose state is {dtype}" if dtype != param.dtype else "")
        raise TypeError(f"state[{key!r}][{name!r}]: dtype {value.dtype} does not match the parameter's {wanted}")


def _check_complete(optimizer: Optimizer, groups: Groups, entries: list[Mapping[str, Any]]) -> None:
    """Check that entries are complete. An empty one is that of a parameter that has taken no step."""
    index = 0
    for group in groups:
        needed = ("step", *optimizer._state_formats(group))
        for entry in entries[index : index + len(group["params"])]:
            if entry and not all(name in entry for name in needed):
                missing = ", ".join(sorted(set(needed) - entry.keys()))
                raise ValueError(f"state[{optimizer._keys[index]!r}]: no {missing}")
            index += 1
