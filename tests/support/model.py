"""What an optimizer should be: plain copies of all it has, stepped with the reference, for the state machines."""

import copy

import numpy as np

from rmsprop import _core, reference

RULES = {name: getattr(reference, f"{name}_") for name in _core.rules}
NOT_OF_A_STEP = {"lr", "clip_norm", "initial_accumulator_value", "state_dtype", "master_weights"}
"""Hyperparameters that are not passed to the reference as they are."""


class Model:
    """Groups of parameters by key, their state, and what a step makes of them. Keys are unique over all groups."""

    def __init__(self, algorithm, nonfinite="propagate"):
        self.algorithm = algorithm
        self.accumulator = _core.rules[algorithm].accumulator
        self.nonfinite = nonfinite
        self.skipped_steps = 0
        self.groups = []  # of a list of keys and a dict of hyperparameters
        self.params = {}
        self.state = {}

    def copy(self):
        return copy.deepcopy(self)

    def add_group(self, params, hyperparameters):
        """Add a group. Its parameters are copied, and have all the state that they need."""
        self.groups.append((list(params), dict(hyperparameters)))
        for key, param in params.items():
            self.params[key] = np.array(param)
            self.state[key] = {}
        self.complete_state(params)

    def needed_state(self, hyperparameters):
        centered = ["grad_avg"] if hyperparameters.get("centered") else []
        momentum = ["momentum_buffer"] if hyperparameters.get("momentum") else []
        return [self.accumulator, *centered, *momentum]

    def lacks_state(self, keys):
        """Tell whether any of these parameters lacks state that its hyperparameters need."""
        needed = {key: self.needed_state(hyperparameters) for group, hyperparameters in self.groups for key in group}
        return any(name not in self.state[key] for key in keys for name in needed[key])

    def complete_state(self, keys):
        """Make all state of these parameters that their hyperparameters need and that they do not have."""
        for group, hyperparameters in self.groups:
            for key in set(group) & set(keys):
                self.state[key].setdefault("step", 0)
                for name in self.needed_state(hyperparameters):
                    if name not in self.state[key]:
                        value = hyperparameters["initial_accumulator_value"] if name == self.accumulator else 0
                        self.state[key][name] = self.full_like(self.params[key], value)

    @staticmethod
    def full_like(param, value):
        filled = np.empty(param.shape, param.dtype)
        for part in (filled.real, filled.imag) if np.iscomplexobj(filled) else (filled,):
            part[...] = value
        return filled

    def learning_rate(self, keys, hyperparameters):
        rate = hyperparameters["lr"]
        return float(rate(max(self.state[key]["step"] for key in keys)) if callable(rate) else rate)

    def step(self, grads, grad_scale=1.0):
        """Take a step with gradients by key, None where there is none; tell whether it was taken and not skipped."""
        grads = {key: grad for key, grad in grads.items() if grad is not None}
        if self.nonfinite != "propagate" and not all(is_finite(grad, grad_scale) for grad in grads.values()):
            assert self.nonfinite == "skip", "a step that raises is not taken"
            self.skipped_steps += 1
            return False
        if self.lacks_state(grads):
            self.complete_state(self.keys_to_complete(grads))
        total = 0.0
        if any(hyperparameters["clip_norm"] is not None for _, hyperparameters in self.groups):
            in_order = [grads[key] for keys, _ in self.groups for key in keys if key in grads]
            with np.errstate(all="ignore"):
                total = reference.sum_of_squares(in_order, grad_scale)
        for keys, hyperparameters in self.groups:
            lr = self.learning_rate(keys, hyperparameters)
            for key in keys:
                if key in grads:
                    self.step_one(key, grads[key], {**hyperparameters, "lr": lr}, grad_scale, total)
        return True

    def keys_to_complete(self, grads):
        """Return the parameters whose state is made as soon as one with a gradient lacks some: all of them."""
        return self.params

    def step_one(self, key, grad, hyperparameters, grad_scale, sum_of_squares):
        state = self.state[key]
        clip_norm = hyperparameters["clip_norm"]
        plain = {name: number(value) for name, value in hyperparameters.items() if name not in NOT_OF_A_STEP}
        plain["seed"] = int(hyperparameters.get("seed", 0))
        if clip_norm is not None:
            plain["clip_scale"] = reference.clip_scale(sum_of_squares, float(clip_norm))
        state["step"] += 1
        arrays = {name: value for name, value in state.items() if name in self.needed_state(hyperparameters)}
        RULES[self.algorithm](
            self.params[key],
            grad,
            **arrays,
            **plain,
            lr=hyperparameters["lr"],
            step=state["step"],
            grad_scale=float(grad_scale),
        )


def number(value):
    """Return a hyperparameter as Python has it: None, a bool or a float."""
    return value if value is None or isinstance(value, (bool, np.bool_)) else float(value)


def is_finite(grad, grad_scale):
    real = np.ascontiguousarray(grad).reshape(-1).view(grad.real.dtype)
    with np.errstate(all="ignore"):
        return bool(np.isfinite(real.dtype.type(grad_scale) * real).all())
