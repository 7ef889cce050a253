"""Conversion of optimizer state from and to other frameworks.

The step of each framework is the one that `rmsprop.presets` has under its name. These functions convert the state; they
copy every array that they pass to another framework, since ours are updated in place.

| here | PyTorch | Keras | optax |
|---|---|---|---|
| `step` | `step` | `iteration` | `count`, if there is one |
| `square_avg` | `square_avg` | `velocity` | `nu` |
| `grad_avg` | `grad_avg` | `average_gradient` | `mu` |
| `momentum_buffer` | `momentum_buffer` | `momentum` | `-trace` |
| `sum` (Adagrad) | `sum` | `accumulator` | `sum_of_squares` |
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmsprop._optimizer.storage import in_full
from rmsprop._saving.layout import groups_and_state, numbers_of
from rmsprop._saving.pytorch import from_torch, to_torch
from rmsprop._saving.rules import rule_with, rules, state_names

__all__ = ["from_keras", "from_optax", "from_torch", "to_keras", "to_optax", "to_torch"]

Array = NDArray[Any]
StateDict = Mapping[str, Any]

KERAS = {
    "square_avg": "velocity",
    "grad_avg": "average_gradient",
    "momentum_buffer": "momentum",
    "sum": "accumulator",
}
OPTAX = {"square_avg": "nu", "grad_avg": "mu", "momentum_buffer": "trace", "sum": "sum_of_squares"}


def to_keras(state_dict: StateDict) -> dict[str, list[Any]]:
    """Return one of our state dicts as lists under the names of Keras's variables.

    Args:
        state_dict: what `state_dict()` of our optimizer returned. Its momentum must be that of Keras:
            `lr_in_momentum=True`.

    Returns:
        For each name a list in the order of the parameters: "velocity", and if they are in use "momentum" and
        "average_gradient", or for Adagrad "accumulator"; and "iteration", a list of one count.

    Raises:
        ValueError: parameters differ in their step count or their kinds of state, which Keras cannot represent, or
            state is missing, as that of a parameter which PyTorch has never stepped.

    Examples:
        >>> import numpy as np, rmsprop
        >>> opt = rmsprop.RMSprop([np.ones(2)], **rmsprop.presets.keras)
        >>> opt.step([np.array([1.0, 2.0])])
        >>> to_keras(opt.state_dict())
        {'iteration': [1], 'velocity': [array([0.1, 0.4])]}

        To assign them to a Keras optimizer that has been built:

        >>> for name, values in to_keras(opt.state_dict()).items():  # doctest: +SKIP
        ...     variables = [v for v in keras_optimizer.variables if v.name.endswith(name)]
        ...     for variable, value in zip(variables, values, strict=True):
        ...         variable.assign(value)
    """
    step, arrays = _lists(state_dict, KERAS, "Keras")
    return {"iteration": [step], **arrays}


def from_keras(variables: Mapping[str, Sequence[Any]], state_dict: StateDict) -> dict[str, Any]:
    """Return a state dict with the state of a Keras optimizer and the hyperparameters of one of ours.

    Args:
        variables: for each name a list in the order of the parameters, as `to_keras` returns it.
        state_dict: of an optimizer of ours with Keras's hyperparameters (`rmsprop.presets.keras`).

    Raises:
        TypeError: `variables` is not a dict.
        ValueError: the names, or the numbers of arrays, are not those that these hyperparameters need.

    Examples:
        >>> import numpy as np, rmsprop
        >>> opt = rmsprop.Adagrad([np.ones(2)])
        >>> opt.load_state_dict(from_keras({"iteration": [7], "accumulator": [np.ones(2)]}, opt.state_dict()))
        >>> opt.state[0]
        {'step': 7, 'sum': array([1., 1.])}

        To get them from a Keras optimizer:

        >>> variables = {  # doctest: +SKIP
        ...     name: [v for v in keras_optimizer.variables if v.name.endswith(name)]
        ...     for name in to_keras(opt.state_dict())
        ... }
    """
    if not isinstance(variables, Mapping):
        raise TypeError(f"variables: got {type(variables).__name__}, wanted a dict of lists, as to_keras returns it")
    arrays = {name: list(values) for name, values in variables.items()}
    iteration = arrays.pop("iteration", None)
    if iteration is None or len(iteration) != 1:
        raise ValueError("iteration: wanted a list of one count")
    return _with_lists(state_dict, KERAS, "Keras", int(iteration[0]), arrays)


def to_optax(state_dict: StateDict, opt_state: Any) -> Any:
    """Return the state of an optax transformation with the arrays of one of our state dicts.

    `optax.trace` is applied after the multiplication with the negative learning rate, so its sign is opposite to our
    buffer's.

    Args:
        state_dict: what `state_dict()` of our optimizer returned. Its momentum must be that of optax:
            `lr_in_momentum=True`.
        opt_state: the state to fill, as `init(params)` of `optax.rmsprop(...)` or `optax.adagrad(...)` returns it, also
            inside of `optax.chain`. If our parameters have names or paths (`"layer.w"`) and `params` has names, these
            have to be the same, and arrays are found by them; otherwise ours are in the order of
            `jax.tree.leaves(params)`.

    Raises:
        ValueError: the state is not what these hyperparameters need, or the names are others.

    Examples:
        >>> opt_state = to_optax(opt.state_dict(), optax.rmsprop(1e-3).init(params))  # doctest: +SKIP
    """
    step, arrays = _lists(state_dict, OPTAX, "optax")
    if "trace" in arrays:
        arrays["trace"] = [-array for array in arrays["trace"]]
    found = _fields(opt_state)
    _check_names(found.keys() - {"count"}, arrays.keys(), "optax")
    names = _names(state_dict)
    filled = {name: _tree_like(found[name], values, names) for name, values in arrays.items()}
    return _with_fields(opt_state, {**filled, "count": step})


def from_optax(opt_state: Any, state_dict: StateDict) -> dict[str, Any]:
    """Return a state dict with the state of an optax transformation and the hyperparameters of one of ours.

    Args:
        opt_state: of `optax.rmsprop(...)` or `optax.adagrad(...)`, as for `to_optax`.
        state_dict: of an optimizer of ours with optax's hyperparameters (`rmsprop.presets.optax`). Where nothing in
            `opt_state` counts steps, as without schedule and bias correction, its step counts stay.

    Raises:
        ValueError: the state is not what these hyperparameters need, or the names are others.

    Examples:
        >>> opt.load_state_dict(from_optax(opt_state, opt.state_dict()))  # doctest: +SKIP
    """
    names = _names(state_dict)
    found = _fields(opt_state)
    step = found.pop("count", None)
    arrays = {name: _leaves(tree, names) for name, tree in found.items()}
    if "trace" in arrays:
        arrays["trace"] = [-np.asarray(array) for array in arrays["trace"]]
    return _with_lists(state_dict, OPTAX, "optax", step, arrays)


# ---- Keras and optax: a list for each kind of state ------------------------------------------------------------------


def _needed(state_dict: StateDict, framework: str) -> tuple[str, ...]:
    """Return which arrays all parameters have, by our names."""
    kinds = {_needed_by(group, framework) for group in state_dict["param_groups"]}
    if len(kinds) != 1:
        raise ValueError(f"param_groups: they need different state, and {framework} has one kind for all parameters")
    return kinds.pop()


def _needed_by(group: Mapping[str, Any], framework: str) -> tuple[str, ...]:
    rule = rule_with(group)
    if rule is None:
        raise ValueError(f"param_groups: wanted all hyperparameters of {' or '.join(rules)}, got {', '.join(group)}")
    if group.get("momentum") and not group["lr_in_momentum"]:
        raise ValueError(f"lr_in_momentum: got False, but the momentum of {framework} has the learning rate inside")
    return state_names(rule, group)


def _lists(state_dict: StateDict, names: Mapping[str, str], framework: str) -> tuple[int, dict[str, list[Array]]]:
    """Return the step count, and copies of the arrays, by the framework's names and in the order of the parameters."""
    groups, state = groups_and_state(state_dict)
    numbers = numbers_of(groups, state)
    entries = [state[number] for number in numbers]
    needed = _needed(state_dict, framework)
    for number, entry in zip(numbers, entries, strict=True):
        if missing := [name for name in ("step", *needed) if name not in entry]:
            raise ValueError(f"state[{number}]: no {', '.join(missing)}")
    steps = {entry["step"] for entry in entries}
    if len(steps) != 1:
        raise ValueError(f"step: got {sorted(steps)}, but {framework} has one count for all parameters")
    if any(np.iscomplexobj(entry[name]) for entry in entries for name in needed):
        raise ValueError(f"state: real and imaginary part are two elements here, but not in {framework}")
    return steps.pop(), {names[name]: [np.array(in_full(entry, name)) for entry in entries] for name in needed}


def _with_lists(
    state_dict: StateDict,
    names: Mapping[str, str],
    framework: str,
    step: int | None,
    arrays: Mapping[str, Sequence[Any]],
) -> dict[str, Any]:
    """Return a state dict with the arrays that a framework has under its names, and with this step count if any."""
    groups, state = groups_and_state(state_dict)
    needed = _needed(state_dict, framework)
    _check_names(arrays.keys(), {names[name] for name in needed}, framework)
    numbers = numbers_of(groups, state)
    for name, values in arrays.items():
        _check_count(name, len(values), len(numbers))
    return {
        "state": {
            number: {
                "step": state[number]["step"] if step is None else step,
                **{name: np.asarray(arrays[names[name]][i]) for name in needed},
            }
            for i, number in enumerate(numbers)
        },
        "param_groups": groups,
    }


def _check_names(found: Any, wanted: Any, framework: str) -> None:
    if set(found) != set(wanted):
        raise ValueError(
            f"{framework}: got {', '.join(sorted(found)) or 'no state'}, but these hyperparameters need "
            f"{', '.join(sorted(wanted))}"
        )


def _check_count(name: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise ValueError(f"{name}: got {found} arrays, wanted {wanted}, one for each parameter")


# ---- optax: trees of states ------------------------------------------------------------------------------------------


def _is_ours(name: Any) -> bool:
    return name == "count" or name in OPTAX.values()


def _fields(opt_state: Any) -> dict[str, Any]:
    """Return the fields to convert in a tree of optax's states: trees of arrays by name, and the count."""
    found: dict[str, Any] = {}
    for name, value in _all_fields(opt_state):
        value = int(value) if name == "count" else value
        if name in found and not (name == "count" and value == found[name]):
            raise ValueError(f"optax: there is more than one {name}")
        found[name] = value
    return found


def _all_fields(opt_state: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(opt_state, tuple):
        for name, value in zip(getattr(opt_state, "_fields", opt_state), opt_state, strict=True):
            if isinstance(name, str) and _is_ours(name):
                yield name, value
            else:
                yield from _all_fields(value)


def _with_fields(opt_state: Any, fields: Mapping[str, Any]) -> Any:
    """Return a tree of optax's states with other values in the fields that are converted."""
    if not isinstance(opt_state, tuple):
        return opt_state
    if not hasattr(opt_state, "_fields"):
        return tuple(_with_fields(value, fields) for value in opt_state)
    named: Any = opt_state
    values = named._asdict()
    for name, value in values.items():
        if name == "count":
            values[name] = np.asarray(fields[name], value.dtype)
        else:
            values[name] = fields[name] if _is_ours(name) else _with_fields(value, fields)
    return named._replace(**values)


def _names(state_dict: StateDict) -> list[str] | None:
    """Return the names of all parameters, or None if they have none."""
    names = [name for group in state_dict["param_groups"] for name in group.get("param_names", ())]
    return names or None


def _leaves(tree: Any, names: list[str] | None) -> list[Any]:
    """Return the arrays of a tree in the order of the parameters."""
    leaves = dict(zip(_numbers_of_leaves(tree, names), import_module("jax").tree.leaves(tree), strict=True))
    return [leaf for _, leaf in sorted(leaves.items(), key=itemgetter(0))]


def _tree_like(tree: Any, arrays: list[Array], names: list[str] | None) -> Any:
    """Return a tree with other arrays, given in the order of the parameters."""
    jax_tree = import_module("jax").tree
    leaves = jax_tree.leaves(tree)
    _check_count("optax", len(leaves), len(arrays))
    ordered = [arrays[number] for number in _numbers_of_leaves(tree, names)]
    for leaf, array in zip(leaves, ordered, strict=True):
        if np.shape(leaf) != array.shape:
            raise ValueError(f"optax: got an array of shape {np.shape(leaf)}, wanted {array.shape}")
    return jax_tree.unflatten(jax_tree.structure(tree), ordered)


def _numbers_of_leaves(tree: Any, names: list[str] | None) -> list[int]:
    """Return for each leaf of a tree, in JAX's order, which parameter it belongs to."""
    paths = [path for path, _ in import_module("jax").tree_util.tree_leaves_with_path(tree)]
    if names is None or all(hasattr(key, "idx") for path in paths for key in path):  # lists, which JAX does not sort
        return list(range(len(paths)))
    keys = [".".join(str(_name_of(key)) for key in path) for path in paths]
    if sorted(keys) != sorted(names):
        raise ValueError(f"optax: got arrays of the names {keys}, wanted {names}")
    number_of = {name: number for number, name in enumerate(names)}
    return [number_of[key] for key in keys]


def _name_of(key: Any) -> Any:
    """Return the name or index in an entry of one of JAX's paths, of whichever kind of container it is."""
    return next(getattr(key, kind) for kind in ("key", "idx", "name") if hasattr(key, kind))
