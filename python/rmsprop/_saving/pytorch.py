"""Conversion from and to state dicts of `torch.optim.RMSprop` and `torch.optim.Adagrad`."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmsprop._optimizer import storage
from rmsprop._saving.layout import current_lr, groups_and_state
from rmsprop._saving.rules import Rule, rule_with, rules

Array = NDArray[Any]

ONLY_IN_TORCH = frozenset({"foreach", "capturable", "differentiable", "fused"})
"""Entries of PyTorch's groups that select an implementation, not a formula."""

LEFT_BY_TORCH_SCHEDULERS = frozenset({"initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"})
"""Entries that PyTorch's schedulers keep in the groups for themselves."""

AS_IN_TORCH: dict[str, Any] = {
    "maximize": False,
    "decoupled_weight_decay": False,
    "eps_in_sqrt": False,
    "clip_value": None,
    "clip_norm": None,
    "nesterov": False,
    "lr_in_momentum": False,
    "bias_correction": False,
    "initial_accumulator_value": 0.0,
}
"""Hyperparameters that PyTorch's optimizers lack, with the values of their formulas."""

IN_TORCH = {"adagrad": {"initial_accumulator_value"}}
"""Those of them that PyTorch's optimizer for a rule has."""

SWITCHED_OFF = {"decoupled_weight_decay": "weight_decay", "lr_in_momentum": "momentum"}
"""Hyperparameters without effect while another one is 0."""


def as_in_torch(rule: Rule) -> dict[str, Any]:
    """Return the hyperparameters of a rule that PyTorch's optimizer lacks, with the values of its formula."""
    lacking = set(rule.hyperparameters) - IN_TORCH.get(rule.name, set())
    return {name: value for name, value in AS_IN_TORCH.items() if name in lacking}


def is_from_torch(groups: list[Mapping[str, Any]]) -> bool:
    """Return whether the groups of a state dict are PyTorch's, by entries that only these have."""
    return any(not ONLY_IN_TORCH.isdisjoint(group) for group in groups)


def from_torch(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `state_dict()` of `torch.optim.RMSprop` or `torch.optim.Adagrad` returned as one of our state dicts.

    Hyperparameters that PyTorch lacks get the values of its formula: `eps_in_sqrt=False` and so on. Entries that select
    an implementation (`foreach`, `fused`, ...) are dropped. Tensors become arrays that share their memory.
    `load_state_dict` does this itself for dicts of PyTorch 1.12 and later; older ones cannot be told apart.

    Args:
        state_dict: of PyTorch's optimizer, its tensors on the CPU.

    Raises:
        TypeError: `state_dict` does not have the layout of a state dict, or a tensor cannot be an array.
        ValueError: it is that of another optimizer, as shown by missing or unknown entries of a group, or a step count
            is not a whole number.

    Examples:
        >>> group = {"lr": 0.01, "momentum": 0, "alpha": 0.99, "eps": 1e-8, "centered": False, "weight_decay": 0}
        >>> ours = from_torch({"state": {}, "param_groups": [{**group, "foreach": None, "params": [0]}]})
        >>> ours["param_groups"][0]["eps_in_sqrt"]
        False
    """
    saved_groups, saved_state = groups_and_state(state_dict)
    groups = [_group_from_torch(group, f"param_groups[{i}]") for i, group in enumerate(saved_groups)]
    # PyTorch has no entry for a parameter that never had a gradient.
    numbers = [number for group in groups for number in group["params"]]
    state = {**{number: {} for number in numbers}, **saved_state}
    return {
        "state": {number: _state_from_torch(entry, f"state[{number}]") for number, entry in state.items()},
        "param_groups": groups,
    }


def to_torch(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return one of our state dicts as one that `torch.optim.RMSprop` or `torch.optim.Adagrad` loads.

    State in fewer bits becomes float32. A schedule becomes the learning rate that it gives for the next step. PyTorch
    counts steps in float32, so its own count stops at 2**24, which matters only for Adagrad's `lr_decay`.

    Args:
        state_dict: what `state_dict()` of our optimizer returned.

    Returns:
        A state dict of tensors, all of them copies.

    Raises:
        ValueError: a hyperparameter has a value that PyTorch does not support, such as `eps_in_sqrt=True`.

    Examples:
        >>> import numpy as np, rmsprop
        >>> opt = rmsprop.RMSprop(np.ones(2), alpha=0.99, eps_in_sqrt=False)
        >>> theirs = to_torch(opt.state_dict())  # doctest: +SKIP
        >>> torch.optim.RMSprop([torch.ones(2)]).load_state_dict(theirs)  # doctest: +SKIP
    """
    torch = import_module("torch")
    groups, state = groups_and_state(state_dict)
    return {
        "state": {
            number: {
                name: torch.tensor(float(value)) if name == "step" else torch.from_numpy(np.array(value, order="C"))
                for name, value in _in_full(entry).items()
            }
            for number, entry in state.items()
        },
        "param_groups": [_group_for_torch(group, state, f"param_groups[{i}]") for i, group in enumerate(groups)],
    }


def _group_from_torch(saved: Mapping[str, Any], label: str) -> dict[str, Any]:
    rule = rule_with(saved, absent=as_in_torch)
    if rule is None:
        raise ValueError(
            f"{label}: wanted the hyperparameters of {' or '.join(rules)}, got {', '.join(map(str, saved))}"
        )
    dropped = ONLY_IN_TORCH | LEFT_BY_TORCH_SCHEDULERS
    for name, value in saved.items():
        if name not in {*rule.hyperparameters, *dropped, "params", "param_names", "name"}:
            raise ValueError(
                f"{label}: got {name}={value!r}, which PyTorch's {rule.name} does not have: it is of another optimizer"
            )
    kept = {name: _number_from_torch(value) for name, value in saved.items() if name not in dropped}
    return {**as_in_torch(rule), **kept}


def _group_for_torch(group: Mapping[str, Any], state: Mapping[int, Any], label: str) -> dict[str, Any]:
    rule = rule_with(group)
    if rule is None:
        raise ValueError(f"{label}: wanted all hyperparameters of {' or '.join(rules)}, got {', '.join(group)}")
    formula = as_in_torch(rule)
    only_here = (formula.keys() | set(rule.optional)) - {"maximize"}
    for name in sorted(
        only_here - {"initial_accumulator_value", *rule.optional}
    ):  # which is in the accumulators by now
        is_off = name in SWITCHED_OFF and not group.get(SWITCHED_OFF[name])
        if group[name] != formula[name] and not is_off:
            raise ValueError(f"{label}[{name!r}]: got {group[name]}, but all that PyTorch does is {formula[name]}")
    return {
        **{name: value for name, value in group.items() if name not in only_here},
        "lr": current_lr(group, state),
        "foreach": None,
    }


def _in_full(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of one parameter without formats that PyTorch's optimizers do not have."""
    names = [name for name in entry if not name.endswith(storage.SCALE) and name not in {"ema", "param_low"}]
    return {name: entry[name] if name == "step" else storage.in_full(entry, name) for name in names}


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
        if str(getattr(tensor, "dtype", "")) == "torch.bfloat16":  # which NumPy does not have, and float32 holds
            tensor = tensor.float()
        return np.asarray(tensor)
    except (TypeError, RuntimeError) as error:  # not on the CPU, or of a dtype that NumPy does not have
        raise TypeError(f"{label}: {error}") from error
