"""Arguments of the programs, checked before anything is measured."""

import argparse
import tempfile
from pathlib import Path


def whole_number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a whole number from 1 on")
    return int(text)


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a number above 0")
    return value


def writable(folder: Path) -> Path:
    """Return the folder, made if need be.

    Raises:
        OSError: nothing can be written into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return folder
