"""What the tests of storage in fewer bits share: runs of a rule, by the engine and by the reference."""

import numpy as np
from ml_dtypes import bfloat16

from rmsprop import functional, reference

BLOCK = 256
STATE_DTYPES = ("bfloat16", "8bit")
# The functions' options that select each rule, and the state beside the accumulator.
RULES = {
    "rmsprop": ("rmsprop_", {}, ()),
    "momentum": ("rmsprop_", {"momentum": 0.9}, ("momentum_buffer",)),
    "nesterov": ("rmsprop_", {"momentum": 0.9, "nesterov": True, "lr_in_momentum": True}, ("momentum_buffer",)),
    "centered": ("rmsprop_", {"centered": True}, ("grad_avg",)),
    "all": ("rmsprop_", {"centered": True, "momentum": 0.9}, ("grad_avg", "momentum_buffer")),
    "adagrad": ("adagrad_", {}, ()),
}


def combinations():
    """Yield every rule with every format that it can have."""
    for rule, (_, options, _) in RULES.items():
        for state_dtype in STATE_DTYPES:
            if state_dtype != "8bit" or not options.get("centered"):
                yield rule, state_dtype


def blocks_of(size):
    return -(-size // BLOCK)


def zeros(shape, dtype, order="C"):
    return np.zeros(shape, dtype, order=order)


class Stored:
    """A parameter with state in fewer bits, and a step of either implementation."""

    def __init__(self, rule, state_dtype, param, order="C", seed=5):
        self.function, self.options, others = RULES[rule]
        self.accumulator = "sum" if rule == "adagrad" else "square_avg"
        self.state_dtype, self.seed, self.t = state_dtype, seed, 0
        self.param = np.array(param, order=order)
        self.state = {}
        for name in (self.accumulator, *others):
            self.state[name] = zeros(param.shape, bfloat16 if state_dtype == "bfloat16" else np.uint8, order)
            if state_dtype == "8bit":
                self.state[f"{name}_scale"] = zeros(blocks_of(param.size), np.uint8)

    def step(self, grad, module=functional, **options):
        self.t += 1
        if module is functional:
            options["state_dtype"] = self.state_dtype
        state = {name: array for name, array in self.state.items() if name != self.accumulator}
        options = {"lr": 0.01, **self.options, **options, "seed": self.seed, "step": self.t}
        getattr(module, self.function)(self.param, grad, self.state[self.accumulator], **state, **options)

    def reference_step(self, grad, **options):
        self.step(grad, reference, **options)

    def arrays(self):
        return {"param": self.param, **self.state}


def gradients(rng, shape, dtype=np.float32, specials=0.0):
    """Return numbers over many orders of magnitude, a share of them special."""
    numbers = (rng.standard_normal(shape) * 10.0 ** rng.integers(-12, 3, shape)).astype(np.float32)
    values = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-42, 1e-20, 3e38, 2.0**-126], np.float32)
    chosen = rng.random(shape) < specials
    return np.where(chosen, rng.choice(values, shape), numbers).astype(dtype)
