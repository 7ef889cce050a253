"""Checkpoints: the state of an optimizer in one file, which is either complete or refused.

A checkpoint is a file of `tensor_file` with these arrays and this text:

    state.0.square_avg  the arrays of parameter 0, and so on
    text                these facts as JSON:
                        format_version      2. Version 1 had no arrays of fewer bits, and no hyperparameters for them.
                        written_by          the version of rmsprop
                        optimizer           "rmsprop" or "adagrad"
                        param_groups        as in a state dict. If lr was a schedule, it is the number that the schedule
                                            gave, and "lr_is_schedule" is true.
                        steps               the step count of each parameter
                        complex             the names of arrays that are complex
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from rmsprop._core import __version__
from rmsprop._optimizer.state import step_count
from rmsprop._saving import layout, state_dicts, tensor_file
from rmsprop._saving.atomic_file import replacing
from rmsprop._saving.tensor_file import CHECKSUM_BYTES, FORMAT, PIECE, Array, Header, Progress, Tensor

__all__ = ["CHECKSUM_BYTES", "FORMAT", "PIECE", "Contents", "Progress", "Tensor", "describe", "load", "save"]

FORMAT_VERSION = 2

COMPLEX: dict[str, np.dtype[Any]] = {"f": np.dtype("complex64"), "d": np.dtype("complex128")}
"""NumPy's dtypes for pairs of the types in the file."""

FACTS = {
    "format_version": int,
    "written_by": str,
    "optimizer": str,
    "param_groups": list,
    "steps": list,
    "complex": list,
}
"""The facts in a header besides the arrays, and their types."""

NAMED = frozenset({"state_dtype", "master_weights"})
"""Hyperparameters whose values are names."""

NAME = re.compile(r"state\.(0|[1-9][0-9]{0,17})\.(\w+)")


@dataclass(frozen=True)
class Contents:
    """The contents of a checkpoint, as `describe` returns them."""

    nbytes: int
    """The size of the file."""
    format_version: int
    written_by: str
    optimizer: str
    """\"rmsprop\" or \"adagrad\"."""
    param_groups: list[dict[str, Any]]
    """The hyperparameters, and the numbers of the parameters as `params`, their names as `param_names`."""
    state: dict[int, dict[str, Any]]
    """For each parameter its `step`, and for each array a `Tensor` with `dtype`, `shape` and `nbytes`."""


def save(optimizer: state_dicts.Optimizer, path: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
    """Write the state of an optimizer to a file; see `Optimizer.save`."""
    with optimizer._stepper.hold("save"):
        optimizer._check(optimizer.param_groups, optimizer._columns)
        state_dicts.check_arrays(optimizer)
        saved = state_dicts.state_dict(optimizer)
        arrays = _arrays_of(saved["state"])
        facts = json.dumps(_facts(optimizer._stepper.rule.name, saved, arrays), allow_nan=False)
        with replacing(path) as file:
            tensor_file.write(file, facts, arrays, progress)


def load(optimizer: state_dicts.Optimizer, path: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
    """Load what `save` wrote; see `Optimizer.load`."""
    with optimizer._stepper.hold("load"):
        with _opened(path, progress) as (facts, tensors, file):
            rule = optimizer._stepper.rule.name
            if facts["optimizer"] != rule:
                raise ValueError(f"it is the state of {facts['optimizer']}, wanted {rule}")
            saved = _state_dict_in(facts, tensors)
            _put_schedules(optimizer, saved["param_groups"])
            replacement = state_dicts.replacement_for(optimizer, saved, array_type=Tensor)
            array_of = {tensor.name: array for array, tensor in replacement.copies}
            for name in tensors:
                tensor_file.read_into(file, array_of[name])
        state_dicts.install(optimizer, replacement)


def describe(path: str | os.PathLike[str], *, progress: Progress | None = None) -> Contents:
    """Return the contents of a checkpoint, after its checksum is verified; no array is kept in memory.

    Args:
        path: path to read.
        progress: called now and then with the number of bytes read and the number in all.

    Raises:
        ValueError: the file is damaged, or is not a checkpoint.
        OSError: the file cannot be read.

    Examples:
        >>> import os, tempfile
        >>> import numpy as np, rmsprop
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "optimizer.safetensors")
        ...     rmsprop.RMSprop({"weight": np.ones((3, 2))}).save(path)
        ...     contents = describe(path)
        >>> contents.param_groups[0]["param_names"], contents.state[0]["square_avg"].shape
        (['weight'], (3, 2))
    """
    with _opened(path, progress) as (facts, tensors, file):
        saved = _state_dict_in(facts, tensors)
        return Contents(
            nbytes=os.fstat(file.fileno()).st_size,
            format_version=facts["format_version"],
            written_by=facts["written_by"],
            optimizer=facts["optimizer"],
            param_groups=saved["param_groups"],
            state=saved["state"],
        )


# ---- Writing ---------------------------------------------------------------------------------------------------------


def _facts(rule: str, saved: Mapping[str, Any], arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Return the facts about an optimizer that a checkpoint has besides its arrays."""
    return {
        "format_version": FORMAT_VERSION,
        "written_by": __version__,
        "optimizer": rule,
        "param_groups": [_without_schedule(group, saved["state"], i) for i, group in enumerate(saved["param_groups"])],
        "steps": [entry["step"] for entry in saved["state"].values()],
        "complex": [name for name, array in arrays.items() if array.dtype.kind == "c"],
    }


def _without_schedule(group: Mapping[str, Any], state: Mapping[int, Any], index: int) -> dict[str, Any]:
    """Return a group that a file can hold: a schedule is code, so only its current value is kept."""
    if not isinstance(group.get("name", ""), str):
        raise TypeError(f"param_groups[{index}]['name']: got {type(group['name']).__name__}, wanted a str")
    if not callable(group["lr"]):
        return dict(group)
    return {**group, "lr": layout.current_lr(group, state), "lr_is_schedule": True}


def _arrays_of(state: Mapping[int, Mapping[str, Any]]) -> dict[str, Array]:
    """Return all arrays of a state dict under their names in the file, as plain ones."""
    return {
        f"state.{index}.{name}": np.asarray(array)
        for index, entry in state.items()
        for name, array in entry.items()
        if name != "step"
    }


# ---- Reading ---------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(
    path: str | os.PathLike[str], progress: Progress | None
) -> Iterator[tuple[dict[str, Any], dict[str, Tensor], BinaryIO]]:
    """Open a checkpoint, and check its header and its checksum; errors become a ValueError with the path.

    Yields:
        The facts, the arrays in the order of the file, and the file, at the beginning of the arrays.
    """
    name = os.fsdecode(path)
    with open(name, "rb", opener=_open_without_waiting) as file:
        status = os.fstat(file.fileno())
        try:
            header = tensor_file.read_header(file)
            tensor_file.check(file, progress)
            facts = _facts_in(header, status.st_size)
            yield facts, _with_complex(header.tensors, facts["complex"]), file
            # The bytes read after the checksum must be those it was computed from.
            if os.fstat(file.fileno()).st_mtime_ns != status.st_mtime_ns:
                raise ValueError("damaged: it was written to while it was read")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file without waiting for a writer, if it is a named pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # Windows has none


def _facts_in(header: Header, file_bytes: int) -> dict[str, Any]:
    """Return the facts in the text of a header, each of them checked.

    Raises:
        TypeError, ValueError: they are not as `save` writes them, or were written by a newer version.
    """
    parsed = _parsed(header.text, 10 * file_bytes + 65536 - 360 * len(header.tensors))
    facts: dict[str, Any] = parsed if isinstance(parsed, dict) else {}
    version = facts.get("format_version")
    if type(version) is not int or version < 1:
        raise ValueError("its header has no format version")
    if version > FORMAT_VERSION:
        raise ValueError(f"in format {version}, written by a newer rmsprop; this one reads format {FORMAT_VERSION}")
    if {name: type(value) for name, value in facts.items()} != FACTS:
        raise ValueError(f"its header has {', '.join(facts)}, wanted {', '.join(FACTS)}, of their types")
    for step in facts["steps"]:
        step_count(step)
    for i, group in enumerate(layout.checked_groups(facts["param_groups"])):
        for name, value in group.items():
            _check_entry(f"param_groups[{i}]", name, value)
    return facts


def _check_entry(label: str, name: str, value: Any) -> None:
    """Check an entry of a group in a file."""
    if name == "param_names" and value is None:
        raise TypeError(f"{label}['param_names']: wanted a list with the name of each parameter")
    if name == "name" and not isinstance(value, str):
        raise TypeError(f"{label}['name']: got {type(value).__name__}, wanted a str")
    is_name = name in NAMED and isinstance(value, str)
    if name not in {"params", "param_names", "name"} and not (is_name or isinstance(value, (int, float, type(None)))):
        raise TypeError(f"{label}: {name}: got {type(value).__name__}, wanted a number")


def _parsed(text: bytes, most_bytes: int) -> Any:
    """Parse JSON, but refuse duplicate names, and text that would take more memory than a checkpoint of its size.

    The objects that `json` makes of `[[],[],...]` take 25 times the memory of the text; those of facts a few times.
    """
    if not text.isascii() or _bytes_to_parse(text) > most_bytes:
        raise ValueError("its header is not JSON as a checkpoint has it")
    try:
        return json.loads(text, object_pairs_hook=_dict_without_duplicates)
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("its header is not JSON") from None


def _bytes_to_parse(text: bytes) -> int:
    """Estimate the memory of the objects that JSON describes, from the punctuation outside of its strings."""
    plain = text.replace(rb"\\", b"  ").replace(rb"\"", b"  ")
    counts = np.zeros(256, np.int64)
    quotes = 0
    for start in range(0, len(plain), 1 << 16):
        piece = np.frombuffer(plain[start : start + (1 << 16)], np.uint8)
        inside = (np.cumsum(piece == ord('"'), dtype=np.uint8) + np.uint8(quotes)) & 1
        counts += np.bincount(piece[inside == 0], minlength=256)
        quotes = int(inside[-1])
    containers, strings = counts[ord("[")] + counts[ord("{")], counts[ord('"')]
    return int(200 * containers + 72 * strings + 90 * counts[ord(":")] + 48 * counts[ord(",")])


def _dict_without_duplicates(items: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(items)
    if len(entries) != len(items):
        raise ValueError("its header names something twice")
    return entries


def _with_complex(tensors: dict[str, Tensor], names: list[Any]) -> dict[str, Tensor]:
    """Return arrays of which those with these names are complex."""
    found = dict(tensors) if names else tensors
    for name in map(str, names):
        if name not in found:
            raise ValueError(f"'complex' in its header has {name!r}, which is no array")
        shape = tensors[name].shape
        if tensors[name].dtype.char not in COMPLEX:
            raise ValueError(f"{name!r} is of {tensors[name].dtype}, wanted float32 or float64, as it is complex")
        if shape[-1:] != (2,):
            raise ValueError(f"{name!r} has the shape {list(shape)}, wanted one of pairs, as it is complex")
        found[name] = Tensor(name, COMPLEX[tensors[name].dtype.char], shape[:-1])
    return found


def _state_dict_in(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the state dict that was saved, with a `Tensor` for each array."""
    groups, steps = facts["param_groups"], facts["steps"]
    if len(steps) > len(tensors):
        layout.numbers_of(groups, range(len(steps)))
        raise ValueError(f"it has {len(tensors):,} arrays, less than one for each of its {len(steps):,} parameters")
    state: dict[int, dict[str, Any]] = {index: {"step": step} for index, step in enumerate(steps)}
    for name, tensor in tensors.items():
        parts = NAME.fullmatch(name)
        entry = state.get(int(parts[1])) if parts else None
        if parts is None or entry is None:
            raise ValueError(f"{name!r} is the state of no parameter")
        entry[parts[2]] = tensor
    layout.numbers_of(groups, state)
    return {"state": state, "param_groups": groups}


def _put_schedules(optimizer: state_dicts.Optimizer, saved_groups: list[dict[str, Any]]) -> None:
    """Put the optimizer's own schedules where the saved optimizer had schedules."""
    for i, (group, saved) in enumerate(zip(optimizer.param_groups, saved_groups, strict=False)):
        if saved.pop("lr_is_schedule", False):
            if not callable(group["lr"]):
                raise ValueError(
                    f"param_groups[{i}]['lr']: got {group['lr']}, but a schedule was saved, which a file cannot hold "
                    f"(it gave {saved.get('lr')}); give this optimizer the schedule first"
                )
            saved["lr"] = group["lr"]
