"""The RMSprop and Adagrad step on a CPU: in place, at memory bandwidth, the same bits on every machine."""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from rmsprop import functional, reference
from rmsprop._core import __version__
from rmsprop.optimizers import Adagrad, RMSprop
from rmsprop.runtime import get_num_threads, instruction_sets, set_num_threads, show_config

if TYPE_CHECKING:
    from rmsprop import convert, presets, schedules

__all__ = [
    "Adagrad",
    "RMSprop",
    "__version__",
    "convert",
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
    """Import rarely used modules at their first use, so that the package is imported sooner."""
    if name in ("convert", "presets", "schedules"):
        return import_module(f"rmsprop.{name}")
    raise AttributeError(f"module 'rmsprop' has no attribute {name!r}")
