"""State dicts: state and hyperparameters of an optimizer as plain data, in PyTorch's layout.

    {"state": {0: {"step": 3, "square_avg": array, ...}, ...},
     "param_groups": [{"lr": 0.01, ..., "params": [0, ...], "param_names": ["weight", ...]}, ...]}

Parameters are numbered in the order of the groups; `param_names` is there if they have names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rmsprop._optimizer.allocation import empty_state
from rmsprop._optimizer.state import StateColumns, step_count

if TYPE_CHECKING:
    from rmsprop.optimizers import Optimizer

Array = NDArray[Any]

ONLY_IN_TORCH = frozenset({"foreach", "capturable", "differentiable", "fused"})
"""Entries of PyTorch's groups that say how to compute and not what."""

LEFT_BY_TORCH_SCHEDULERS = frozenset({"initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"})
"""Entries that PyTorch's schedulers keep in the groups for themselves."""

ADAGRAD_AS_IN_TORCH = {
    "maximize": False,
    "decoupled_weight_decay": False,
    "eps_in_sqrt": False,
    "clip_value": None,
    "clip_norm": None,
}
"""What PyTorch's Adagrad does wherever it has no such hyperparameter."""

RMSPROP_AS_IN_TORCH = {
    **ADAGRAD_AS_IN_TORCH,
    "nesterov": False,
    "lr_in_momentum": False,
    "bias_correction": False,
    "initial_accumulator_value": 0.0,
}
"""What PyTorch's RMSprop does wherever it has no such hyperparameter."""


@dataclass(frozen=True)
class Replacement:
    """What would take the place of an optimizer's groups and state: checked, and not in use yet."""

    groups: list[dict[str, Any]]
    columns: StateColumns
    copies: list[tuple[Array, Any]]
    """Each new array, its content still undefined, with the entry of the state dict that belongs into it."""


def state_dict(optimizer: "Optimizer") -> dict[str, Any]:
    """Return state and hyperparameters; see `Optimizer.state_dict`."""
    columns = optimizer._columns_with_missing_state()
    groups = []
    first = 0
    for group in optimizer.param_groups:
        indices = list(range(first, first + len(group["params"])))
        saved = {name: _plain(value) for name, value in group.items() if name != "params"}
        names = {"param_names": [optimizer._keys[index] for index in indices]} if _has_names(optimizer) else {}
        groups.append({**saved, "params": indices, **names})
        first += len(indices)
    return {"state": {index: _entry(columns, index) for index in range(first)}, "param_groups": groups}


def load_state_dict(optimizer: "Optimizer", state_dict: Mapping[str, Any]) -> None:
    """Load what `state_dict` returned; see `Optimizer.load_state_dict`."""
    if is_from_torch(state_dict):
        state_dict = from_torch(state_dict)
    replacement = replacement_for(optimizer, state_dict)
    for array, source in replacement.copies:
        array[...] = source
    install(optimizer, replacement)


def replacement_for(
    optimizer: "Optimizer", state_dict: Mapping[str, Any], array_type: type[Any] = np.ndarray
) -> Replacement:
    """Check a state dict against an optimizer, and allocate the arrays to load it into.

    Args:
        optimizer: it is not changed.
        state_dict: in the layout above, with all hyperparameters of the optimizer.
        array_type: what stands for an array in `state_dict`; it has a `dtype` and a `shape`.

    Raises:
        TypeError: an entry is not of the kind or dtype it should be.
        ValueError: anything does not match the optimizer, or a hyperparameter is out of range.
        RuntimeError: another thread is in a step of this optimizer.
    """
    saved_groups, saved_state = groups_and_state(state_dict)
    groups = _new_groups(optimizer, saved_groups)
    entries = [saved_state[number] for number in numbers_of(saved_groups, saved_state)]
    columns = StateColumns.empty(optimizer.state_names).extended(len(entries), optimizer._columns.keys)
    replacement = Replacement(groups, columns, [])
    params = [param for group in groups for param in group["params"]]
    for index, (param, entry) in enumerate(zip(params, entries, strict=True)):
        _allocate_entry(replacement, index, param, entry, f"state[{optimizer._keys[index]!r}]", array_type)
    optimizer._check(groups, columns)
    _check_complete(optimizer, groups, entries)
    optimizer._allocate_missing_state(groups, columns)
    return replacement


def check_arrays(optimizer: "Optimizer") -> None:
    """Check all arrays of an optimizer, also those that its hyperparameters do not need at the moment."""
    columns = optimizer._columns
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for index, param in enumerate(params):
        for name, column in zip(columns.names, columns.arrays, strict=True):
            if column[index] is not None:
                _check_array(column[index], param, f"state[{optimizer._keys[index]!r}][{name!r}]", np.ndarray)


def install(optimizer: "Optimizer", replacement: Replacement) -> None:
    """Put groups and state into use: one operation, which no signal and no other thread can cut in two."""
    vars(optimizer).update(param_groups=replacement.groups, _columns=replacement.columns)


def is_from_torch(state_dict: Mapping[str, Any]) -> bool:
    """Tell whether a state dict is one of PyTorch's, by entries that only PyTorch's groups have."""
    saved_groups, _ = groups_and_state(state_dict)
    return any(not ONLY_IN_TORCH.isdisjoint(group) for group in saved_groups)


def from_torch(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `state_dict()` of `torch.optim.RMSprop` or `torch.optim.Adagrad` returned as one of our state dicts.

    Hyperparameters that PyTorch does not have become what PyTorch does: `eps_in_sqrt=False` and so on. What only
    concerns how PyTorch computes (`foreach`, `fused`, ...) is dropped. Tensors become arrays that share their memory.
    `load_state_dict` does this on its own for the dict of any PyTorch from 1.12 on; older ones cannot be told apart.

    Args:
        state_dict: of PyTorch's optimizer, its tensors on the CPU.

    Raises:
        TypeError: `state_dict` is not laid out like a state dict, or a tensor cannot be an array.
        ValueError: it is that of another optimizer, or a step count is not a whole number.

    Example:
        >>> group = {"lr": 0.01, "momentum": 0, "alpha": 0.99, "eps": 1e-8, "centered": False, "weight_decay": 0}
        >>> ours = from_torch({"state": {}, "param_groups": [{**group, "foreach": None, "params": [0]}]})
        >>> ours["param_groups"][0]["eps_in_sqrt"]
        False
    """
    saved_groups, saved_state = groups_and_state(state_dict)
    groups = []
    for i, saved in enumerate(saved_groups):
        if "alpha" not in saved and "lr_decay" not in saved:
            raise ValueError(
                f"param_groups[{i}]: wanted the hyperparameters of RMSprop or Adagrad, got {', '.join(map(str, saved))}"
            )
        as_in_torch = RMSPROP_AS_IN_TORCH if "alpha" in saved else ADAGRAD_AS_IN_TORCH
        dropped = ONLY_IN_TORCH | LEFT_BY_TORCH_SCHEDULERS
        kept = {name: _number_from_torch(value) for name, value in saved.items() if name not in dropped}
        groups.append({**as_in_torch, **kept})
    # PyTorch has no entry for a parameter that never had a gradient.
    numbers = [number for group in groups for number in group["params"]]
    state = {**{number: {} for number in numbers}, **saved_state}
    return {
        "state": {number: _state_from_torch(entry, f"state[{number}]") for number, entry in state.items()},
        "param_groups": groups,
    }


def groups_and_state(state_dict: Any) -> tuple[list[Mapping[str, Any]], Mapping[int, Any]]:
    """Return the groups and the state of a state dict, or raise a TypeError if it is not laid out like one."""
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= state_dict.keys():
        raise TypeError(
            f"state_dict: got {type(state_dict).__name__}, wanted a dict with 'state' and 'param_groups', "
            "as `state_dict()` returns it"
        )
    groups, state = state_dict["param_groups"], state_dict["state"]
    if not isinstance(groups, Sequence) or not all(isinstance(group, Mapping) for group in groups):
        raise TypeError(f"param_groups: got {type(groups).__name__}, wanted a list of dicts")
    for i, group in enumerate(groups):
        if not _is_list_of(int, group.get("params")):
            raise TypeError(f"param_groups[{i}]['params']: wanted a list with the number of each parameter")
        names = group.get("param_names")
        if names is not None and not (_is_list_of(str, names) and len(names) == len(group["params"])):
            raise TypeError(f"param_groups[{i}]['param_names']: wanted a list with the name of each parameter")
    if not isinstance(state, Mapping):
        raise TypeError(f"state: got {type(state).__name__}, wanted a dict")
    for number, entry in state.items():
        if not isinstance(entry, Mapping):
            raise TypeError(f"state[{number!r}]: got {type(entry).__name__}, wanted a dict")
    return list(groups), state


def numbers_of(groups: Sequence[Mapping[str, Any]], state: Mapping[int, Any]) -> list[int]:
    """Return the numbers of all parameters, or raise a ValueError if the state is not that of these parameters."""
    numbers = [number for group in groups for number in group["params"]]
    known = set(numbers)
    if len(known) != len(numbers):
        raise ValueError("param_groups: the same parameter is there twice")
    if missing := [number for number in numbers if number not in state]:
        raise ValueError(f"state: nothing for parameter {', '.join(map(str, missing))}")
    if unknown := [number for number in state if number not in known]:
        raise ValueError(f"state: parameter {', '.join(map(repr, unknown))} is in no group")
    return numbers


def current_lr(group: Mapping[str, Any], state: Mapping[int, Mapping[str, Any]]) -> float:
    """Return the learning rate that the next step of a state dict's group has, whether it is a number or a schedule."""
    if not callable(group["lr"]):
        return float(group["lr"])
    return float(group["lr"](max(state[number]["step"] for number in group["params"])))


def _entry(columns: StateColumns, index: int) -> dict[str, Any]:
    """Return the state of one parameter as a dict."""
    arrays = {name: column[index] for name, column in zip(columns.names, columns.arrays, strict=True)}
    return {"step": int(columns.steps[index]), **{name: array for name, array in arrays.items() if array is not None}}


def _has_names(optimizer: "Optimizer") -> bool:
    return isinstance(optimizer._keys[0], str)


def _plain(value: Any) -> Any:
    """Return a hyperparameter as a Python number if it is NumPy's, a fraction or the like."""
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Real) and not isinstance(value, int):
        return float(value)
    return value


def _is_list_of(kind: type[Any], value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)


def _new_groups(optimizer: "Optimizer", saved_groups: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
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
    optimizer: "Optimizer", group: dict[str, Any], saved: Mapping[str, Any], keys: list[Any], label: str
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
    replacement: Replacement, index: int, param: Array, saved: Mapping[str, Any], label: str, array_type: type[Any]
) -> None:
    """Check the state of one parameter and allocate arrays for it, laid out in memory like the parameter."""
    columns = replacement.columns
    for name, value in saved.items():
        if name == "step":
            columns.steps[index] = _step_of(value, label)
        elif name not in columns.names:
            raise ValueError(f"{label}: unknown entry {name!r}; this optimizer has step, {', '.join(columns.names)}")
        else:
            _check_array(value, param, f"{label}[{name!r}]", array_type)
            place = columns.names.index(name)
            array = empty_state(param, place)
            columns.arrays[place][index] = array
            replacement.copies.append((array, value))


def _step_of(value: Any, label: str) -> int:
    try:
        return step_count(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{label}: {error}") from None


def _check_array(value: Any, param: Array, label: str, array_type: type[Any]) -> None:
    if not isinstance(value, array_type) or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{label}: got {type(value).__name__}, wanted a numpy.ndarray")
    if value.shape != param.shape:
        raise ValueError(f"{label}: shape {value.shape} does not match the parameter's {param.shape}")
    if value.dtype != param.dtype:
        raise TypeError(f"{label}: dtype {value.dtype} does not match the parameter's {param.dtype}")


def _check_complete(optimizer: "Optimizer", groups: list[dict[str, Any]], entries: list[Mapping[str, Any]]) -> None:
    """Check that no entry lacks anything. One without any content is that of a parameter that took no step."""
    index = 0
    for group in groups:
        needed = {"step", *optimizer._needed_state(group)}
        for entry in entries[index : index + len(group["params"])]:
            if entry and (missing := sorted(needed - entry.keys())):
                raise ValueError(f"state[{optimizer._keys[index]!r}]: no {', '.join(missing)}")
            index += 1


def _number_from_torch(value: Any) -> Any:
    """Return a hyperparameter as a Python number if it is a tensor."""
    if not hasattr(value, "item"):
        return value
    if tuple(value.shape) not in {(), (1,)}:
        raise TypeError(f"param_groups: got a tensor of shape {tuple(value.shape)}, wanted a number")
    return value.item()


def _state_from_torch(entry: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return the state of one parameter with its step as an int and its tensors as arrays."""
    state = {name: _array_from_torch(value, f"{label}[{name!r}]") for name, value in entry.items() if name != "step"}
    if "step" not in entry:
        return state
    step = _number_from_torch(entry["step"])
    if isinstance(step, float) and step.is_integer():
        step = int(step)
    if not isinstance(step, int):
        raise ValueError(f"{label}['step']: got {step!r}, wanted a whole number")
    return {"step": step, **state}


def _array_from_torch(tensor: Any, label: str) -> Array:
    if not hasattr(tensor, "__array__"):
        raise TypeError(f"{label}: got {type(tensor).__name__}, wanted a tensor")
    try:
        return np.asarray(tensor)
    except (TypeError, RuntimeError) as error:  # not on the CPU, or of a dtype that NumPy does not have
        raise TypeError(f"{label}: {error}") from error
