"""What tests of bad input share: four ways to take a step, alike, whose arrays can be spoiled one at a time."""

import decimal
import math
from typing import Any, NamedTuple

import numpy as np
import pytest

import rmsprop
from rmsprop import functional
from rmsprop._core import rules

OPTIMIZERS = ("RMSprop", "Adagrad")
FUNCTIONS = ("rmsprop_", "adagrad_")
INTERFACES = (*OPTIMIZERS, *FUNCTIONS)
# The state of each interface. With these hyperparameters RMSprop uses all of it.
STATE = {interface: rules[interface.lower().strip("_")].state for interface in INTERFACES}
HYPERPARAMETERS = {
    "RMSprop": {"lr": 0.1, "momentum": 0.5, "centered": True},
    "rmsprop_": {"lr": 0.1, "momentum": 0.5, "centered": True},
    "Adagrad": {"lr": 0.1},
    "adagrad_": {"lr": 0.1},
}


def contents(thing):
    """Return, as something to compare, all of an array or an optimizer that a failed call must leave alone."""
    if isinstance(thing, rmsprop.optimizers.Optimizer):
        groups = [{name: contents(value) for name, value in group.items()} for group in thing.param_groups]
        state = {key: {name: contents(value) for name, value in entry.items()} for key, entry in thing.state.items()}
        return groups, state
    if isinstance(thing, np.ndarray):
        whole = thing
        while isinstance(whole.base, np.ndarray):  # to see the gaps between the elements of a view, too
            whole = whole.base
        return id(thing), repr(thing.__array_interface__), whole.tobytes()
    if isinstance(thing, (list, tuple)):
        return [contents(item) for item in thing]
    if isinstance(thing, dict):
        return {name: contents(value) for name, value in thing.items()}
    return repr(thing)


SHAPES = ((4,), (), (128,), (128,))
SPOILED = 3  # the parameter that tests spoil: the last, when all others have passed every check


class Subject:
    """Four parameters with gradients and state, all of them good, of one optimizer or in the hands of one function."""

    def __init__(self, interface, dtype=np.float32):
        rng = np.random.default_rng(0)
        self.interface = interface
        self.hyperparameters = dict(HYPERPARAMETERS[interface])
        self.grads = [np.array(rng.standard_normal(shape), dtype) for shape in SHAPES]
        params = [np.array(rng.standard_normal(shape), dtype) for shape in SHAPES]
        if interface in OPTIMIZERS:
            self.optimizer = getattr(rmsprop, interface)(params, **self.hyperparameters)
            self.arrays = {"params": self.optimizer.param_groups[0]["params"]}
        else:
            self.optimizer = None
            self.arrays = {"params": params, **{name: [np.zeros_like(p) for p in params] for name in STATE[interface]}}
        self.step()  # so that no array is all zeros

    def step(self, **more):
        if self.optimizer is not None:
            self.optimizer.step(self.grads, **more)
        else:
            params, accumulator, *rest = self.arrays
            rule = getattr(functional, self.interface)
            rest = {name: self.arrays[name] for name in rest}
            rule(self.arrays[params], self.grads, self.arrays[accumulator], **rest, **{**self.hyperparameters, **more})

    def set(self, name, value):
        """Set a hyperparameter."""
        if self.optimizer is not None:
            self.optimizer.param_groups[0][name] = value
        else:
            self.hyperparameters[name] = value

    def get_array(self, operand, index=SPOILED):
        if operand == "grads":
            return self.grads[index]
        if self.optimizer is not None and operand != "params":
            return self.optimizer.state[index][operand]
        return self.arrays[operand][index]

    def put_array(self, operand, array, index=SPOILED):
        if operand == "grads":
            self.grads[index] = array
        elif self.optimizer is not None and operand != "params":
            self.optimizer.state[index][operand] = array
        else:
            self.arrays[operand][index] = array

    def label(self, operand, index=SPOILED):
        """Return what messages call an array."""
        if self.optimizer is None:
            return f"{operand.removesuffix('s')}[{index}]"  # param and grad
        return f"{operand}[{index}]" if operand in ("params", "grads") else f"state[{index}]['{operand}']"

    def watched(self):
        return self.optimizer, self.arrays, self.grads


def operands(interface):
    return ("params", "grads", *STATE[interface])


class BadArray(NamedTuple):
    make: Any  # from the good array, of float32
    kind: type
    message: str  # after the name of the argument


def not_an_array(found):
    return f"got {found}, wanted a numpy.ndarray, which can be used without a copy"


GOOD = np.ones(SHAPES[SPOILED], np.float32)


def cases_for(table, operands_of):
    """Return (interface, operand, case) for pytest to be parametrised with."""
    return [
        pytest.param(interface, operand, case, id=f"{interface}-{operand}-{name}")
        for interface in INTERFACES
        for operand in operands_of(interface)
        for name, case in table.items()
        # An optimizer's state refuses what is no array when it is put there: see test_optimizers.py.
        if interface in FUNCTIONS or operand not in STATE[interface] or isinstance(case.make(GOOD), np.ndarray)
    ]


def accumulator_of(optimizer):
    return optimizer.state_names[0]


def shares_memory(first, second):
    return f"{first}: shares memory with {second}, so that updating one would change the other"


def not_a_sequence(found):
    return f": got {found}, wanted a sequence of arrays, one for each parameter"


BAD_VALUES = (-0.001, math.nan, math.inf, -math.inf)
NOT_NUMBERS = {
    "str": "0.1",
    "bytes": b"1",
    "NoneType": None,
    "complex": 1j,
    "bool": True,
    f"numpy.{np.bool_.__name__}": np.True_,
    "list": [0.1],
    "numpy.ndarray": np.array(0.1),
    "decimal.Decimal": decimal.Decimal("0.1"),
    "numpy.complex64": np.complex64(1),
}
BUSY = "step: this optimizer is in the middle of another step, of another thread or of the caller itself"
