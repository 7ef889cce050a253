"""The RMSprop and Adagrad step on a CPU: in place, at the speed of memory, the same bits on every machine."""

from rmsprop import functional, presets, reference, schedules
from rmsprop._core import __version__
from rmsprop.optimizers import Adagrad, RMSprop
from rmsprop.runtime import get_num_threads, instruction_sets, set_num_threads, show_config

__all__ = [
    "Adagrad",
    "RMSprop",
    "__version__",
    "functional",
    "get_num_threads",
    "instruction_sets",
    "presets",
    "reference",
    "schedules",
    "set_num_threads",
    "show_config",
]
