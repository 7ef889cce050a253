"""Optimizers of many kinds, and runs that can be interrupted, for the tests of saving and loading."""

import copy

import numpy as np

import rmsprop
from bits import assert_same_bits

RULES = {
    "plain": (rmsprop.RMSprop, {}),
    "momentum": (rmsprop.RMSprop, {"momentum": 0.9, "nesterov": True, "lr_in_momentum": True, "clip_norm": 2.0}),
    "centered": (rmsprop.RMSprop, {"centered": True, "momentum": 0.5, "bias_correction": True, "weight_decay": 0.1}),
    "torch": (rmsprop.RMSprop, {"alpha": 0.99, "eps_in_sqrt": False, "maximize": True, "clip_value": 0.5}),
    "tf1": (
        rmsprop.RMSprop,
        {"initial_accumulator_value": 1.0, "lr_in_momentum": True, "decoupled_weight_decay": True},
    ),
    "adagrad": (rmsprop.Adagrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.1}),
}
DTYPES = ("float32", "float64", "complex64", "complex128")
FORMS = {
    "one array": lambda params: params["matrix"],
    "list": lambda params: list(params.values()),
    "dict": dict,
    "groups": lambda params: [
        {"params": [params["matrix"], params["scalar"]], "lr": 0.3, "name": "first"},
        {"params": [params["reversed"], params["empty"]], "eps": 1e-3},
    ],
    "named groups": lambda params: [
        {"params": {"matrix": params["matrix"]}, "weight_decay": 0.5},
        {"params": {name: params[name] for name in ("scalar", "reversed", "empty")}, "name": "rest"},
    ],
}


def random_params(dtype="float64", seed=0):
    """Return parameters by name: in the order of Fortran, without dimensions, with a negative stride, and empty."""
    return {
        "matrix": np.asfortranarray(numbers((3, 4), dtype, seed)),
        "scalar": numbers((), dtype, seed + 1),
        "reversed": numbers((2, 10), dtype, seed + 2)[:, ::-2],
        "empty": numbers((0, 3), dtype, seed + 3),
    }


def numbers(shape, dtype, seed):
    random = np.random.default_rng(seed)
    real, imaginary = random.standard_normal(shape), random.standard_normal(shape)
    return np.array(real + 1j * imaginary if np.dtype(dtype).kind == "c" else real).astype(dtype)


def joined(parts):
    """Return the parts of several groups, all lists or all dicts, as one."""
    if isinstance(parts[0], dict):
        return {name: array for part in parts for name, array in part.items()}
    return [array for part in parts for array in part]


class Run:
    """Parameters with their optimizer; the gradients depend on the number of the step alone."""

    def __init__(self, rule="momentum", dtype="float64", form="dict", **changes):
        optimizer, options = RULES[rule]
        self.params = random_params(dtype)
        self.form_name = form
        self.form = FORMS[form]
        self.optimizer = optimizer(self.form(self.params), **{"lr": 0.1, **options, **changes})
        self.t = 0

    def step(self, count=1):
        for _ in range(count):
            self.t += 1
            grads = self.form({name: numbers(p.shape, p.dtype, 1000 + self.t) for name, p in self.params.items()})
            if "groups" in self.form_name:
                grads = joined([group["params"] for group in grads])
            self.optimizer.step(grads)
        return self

    def at_the_same_point(self, **changes):
        """Return another run, with the parameters of this one now, and an optimizer that took no step."""
        other = copy.copy(self)
        other.params = {name: param.copy(order="K") for name, param in self.params.items()}
        options = {**self.optimizer.defaults, **changes}
        other.optimizer = type(self.optimizer)(self.form(other.params), **options)
        return other

    def assert_same_bits_as(self, expected):
        for name, param in expected.params.items():
            assert_same_bits(self.params[name], param)
        assert_same_state(self.optimizer, expected.optimizer)


def assert_same_state(actual, expected):
    """Assert that two optimizers have the same state and the same hyperparameters."""
    assert actual.state.keys() == expected.state.keys()
    for key, entry in expected.state.items():
        assert actual.state[key].keys() == entry.keys()
        for name, value in entry.items():
            assert_same_bits(actual.state[key][name], value)
    for actual_group, group in zip(actual.param_groups, expected.param_groups, strict=True):
        assert without_params(actual_group) == without_params(group)


def without_params(group):
    return {name: value for name, value in group.items() if name != "params"}


class Unchanged:
    """Asserts that an optimizer is, to the byte, what it was at the start of the block, down to the same objects."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def __enter__(self):
        self.before = self.snapshot()
        return self

    def __exit__(self, error_type, error, traceback):
        if error is None:
            assert self.snapshot() == self.before

    def snapshot(self):
        params = [param for group in self.optimizer.param_groups for param in group["params"]]
        state = [value for entry in self.optimizer.state.values() for value in entry.values()]
        arrays = [value for value in [*params, *state] if isinstance(value, np.ndarray)]
        return (
            [(id(array), array.dtype, array.shape, array.strides, array.tobytes()) for array in arrays],
            [value for value in state if isinstance(value, int)],
            [(id(group), list(without_params(group).items())) for group in self.optimizer.param_groups],
        )
