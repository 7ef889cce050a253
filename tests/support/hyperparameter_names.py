"""The hyperparameters of both APIs, by the optimizer that has them."""

import rmsprop
from rmsprop import _core

DEFAULTS = {
    name: _core.rules[optimizer.rule].defaults
    for name, optimizer in vars(rmsprop).items()
    if isinstance(optimizer, type) and name in rmsprop.__all__
}
# What may be None, and what is wanted of it otherwise.
LIMITS = ("clip_value", "clip_norm", "ema_decay")
FLAGS = {optimizer: [n for n, v in defaults.items() if isinstance(v, bool)] for optimizer, defaults in DEFAULTS.items()}
# How arrays are stored, which is no number.
STORAGE = ("state_dtype", "master_weights", "seed")
NUMBERS = {
    optimizer: [n for n, v in defaults.items() if not isinstance(v, bool) and n not in STORAGE]
    for optimizer, defaults in DEFAULTS.items()
}
