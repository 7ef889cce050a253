"""The layout of a state dict: PyTorch's, as plain data.

    {"state": {0: {"step": 3, "square_avg": array, ...}, ...},
     "param_groups": [{"lr": 0.01, ..., "params": [0, ...], "param_names": ["weight", ...]}, ...]}

Parameters are numbered in the order of the groups; `param_names` is there if they have names.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any


def groups_and_state(state_dict: Any) -> tuple[list[Mapping[str, Any]], Mapping[int, Any]]:
    """Return the groups and the state of a state dict, or raise a TypeError if it does not have the layout of one."""
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= state_dict.keys():
        raise TypeError(
            f"state_dict: got {type(state_dict).__name__}, wanted a dict with 'state' and 'param_groups', "
            "as `state_dict()` returns it"
        )
    groups, state = checked_groups(state_dict["param_groups"]), state_dict["state"]
    if not isinstance(state, Mapping):
        raise TypeError(f"state: got {type(state).__name__}, wanted a dict")
    for number, entry in state.items():
        if not isinstance(entry, Mapping):
            raise TypeError(f"state[{number!r}]: got {type(entry).__name__}, wanted a dict")
    return groups, state


def checked_groups(groups: Any) -> list[Mapping[str, Any]]:
    """Return the groups of a state dict, or raise a TypeError if they do not have the layout of groups."""
    if not isinstance(groups, Sequence) or not all(isinstance(group, Mapping) for group in groups):
        raise TypeError(f"param_groups: got {type(groups).__name__}, wanted a list of dicts")
    for i, group in enumerate(groups):
        if not _is_list_of(int, group.get("params")):
            raise TypeError(f"param_groups[{i}]['params']: wanted a list with the number of each parameter")
        names = group.get("param_names")
        if names is not None and not (_is_list_of(str, names) and len(names) == len(group["params"])):
            raise TypeError(f"param_groups[{i}]['param_names']: wanted a list with the name of each parameter")
    return list(groups)


def numbers_of(groups: Sequence[Mapping[str, Any]], state: Collection[int]) -> list[int]:
    """Return the numbers of all parameters, or raise a ValueError if the state is not that of these parameters."""
    numbers = [number for group in groups for number in group["params"]]
    known = set(numbers)
    if len(known) != len(numbers):
        raise ValueError("param_groups: the same parameter is there twice")
    if missing := _some_of(number for number in numbers if number not in state):
        raise ValueError(f"state: nothing for parameter {missing}")
    if unknown := _some_of(number for number in state if number not in known):
        raise ValueError(f"state: parameter {unknown} is in no group")
    return numbers


def current_lr(group: Mapping[str, Any], state: Mapping[int, Mapping[str, Any]]) -> float:
    """Return the learning rate of the next step of a state dict's group, whether it is a number or a schedule."""
    if not callable(group["lr"]):
        return float(group["lr"])
    return float(group["lr"](max(state[number]["step"] for number in group["params"])))


def _is_list_of(kind: type[Any], value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)


def _some_of(numbers: Iterator[Any]) -> str:
    """Return the first ten numbers as text."""
    first = [repr(number) for number in islice(numbers, 11)]
    return ", ".join([*first[:10], "..."] if len(first) > 10 else first)
