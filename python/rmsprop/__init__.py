"""The RMSprop and Adagrad step on a CPU: in place, at the speed of memory, the same bits on every machine."""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from rmsprop import functional, reference
from rmsprop._core import __version__
from rmsprop.optimizers import Adagrad, RMSprop
from rmsprop.runtime import get_num_threads, instruction_sets, set_num_threads, show_config

if TYPE_CHECKING:
    from rmsprop import presets, schedules

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


def __getattr__(name: str) -> ModuleType:
    """Import what few programs need only when it is asked for, so that the rest starts sooner."""
    if name in ("presets", "schedules"):
        return import_module(f"rmsprop.{name}")
    raise AttributeError(f"module 'rmsprop' has no attribute {name!r}")
