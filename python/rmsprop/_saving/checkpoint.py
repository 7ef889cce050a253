"""Checkpoints: the state of an optimizer in one file, which is either whole or refused.

A checkpoint is a safetensors file, so any reader of that format can look inside:

    state.0.square_avg  the arrays of parameter 0, and so on, in the order of their indices (C). Complex ones are reals
                        with one more dimension of length 2.
    checksum            SHA-256 of all bytes of the file before it. It comes last.
    __metadata__        one entry, "rmsprop checkpoint", with these facts as JSON:
                        format_version      1
                        written_by          the version of rmsprop
                        optimizer           "rmsprop" or "adagrad"
                        param_groups        as in a state dict. If lr was a schedule, it is the number that the schedule
                                            gave, and "lr_is_schedule" is true.
                        steps               the step count of each parameter
                        complex             the names of arrays that are complex

The safetensors package writes the file and reads its header. What version 0.8 of it does not do is done here:

* It writes contiguous arrays (C) only. One in another layout would have to be copied before, so it is put into its
  place in the file afterwards, piece by piece.
* It reads a tensor into new memory, which doubles what a large one needs, and in pieces only from a memory map, where
  the end of a file that became shorter is a SIGBUS. Here bytes are read straight to where they belong.
* It has no checksum, and takes headers with names that are there twice and with entries that mean nothing.
* It does not flush to the disk: that is `atomic_file`.
"""

import hashlib
import json
import math
import os
import re
import stat
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rmsprop._core import __version__
from rmsprop._saving import state_dicts
from rmsprop._saving.atomic_file import replacing

if TYPE_CHECKING:
    from rmsprop.optimizers import Optimizer

Array = NDArray[Any]
Progress = Callable[[int, int], None]

FORMAT = "rmsprop checkpoint"
FORMAT_VERSION = 1
PIECE = 1 << 22  # bytes that are read or written at a time

DTYPES = {"F32": "float32", "F64": "float64"}
"""The types in the file, and what NumPy calls them."""

COMPLEX = {"F32": "complex64", "F64": "complex128"}
"""What NumPy calls pairs of the types in the file."""

CHECKSUM_BYTES = hashlib.sha256().digest_size

FACTS = {
    "format_version": int,
    "written_by": str,
    "optimizer": str,
    "param_groups": list,
    "steps": list,
    "complex": list,
}
"""What a header says besides the arrays, and of which type each fact is."""


class Tensor(NamedTuple):
    """An array in a checkpoint, its bytes left where they are."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """How many bytes it has, in the file and in memory."""
        return self.dtype.itemsize * math.prod(self.shape)


class Header(NamedTuple):
    """All of a checkpoint but the bytes of its arrays."""

    facts: dict[str, Any]
    tensors: list[Tensor]


@dataclass(frozen=True)
class Contents:
    """What is in a checkpoint, as `describe` returns it."""

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


def save(optimizer: "Optimizer", path: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
    """Write the state of an optimizer to a file; see `Optimizer.save`."""
    columns, steps = optimizer._columns, optimizer._columns.steps.copy()
    optimizer._check(optimizer.param_groups, columns)
    state_dicts.check_arrays(optimizer)
    saved = state_dicts.state_dict(optimizer)
    arrays = _arrays_of(saved["state"])
    facts = _facts(optimizer.rule, saved, arrays)
    with replacing(path) as new:
        _write(new, arrays, facts, progress)
        # A step that is under way would be told by this, one that came and went by its count.
        optimizer._check(optimizer.param_groups, columns)
        if optimizer._columns is not columns or not np.array_equal(columns.steps, steps):
            raise RuntimeError("save: the optimizer took a step, or loaded other state, while it was being saved")


def load(optimizer: "Optimizer", path: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
    """Load what `save` wrote; see `Optimizer.load`."""
    with _opened(path, progress) as (header, file):
        saved = _state_dict_in(header)
        if header.facts["optimizer"] != optimizer.rule:
            raise ValueError(f"it is the state of {header.facts['optimizer']}, wanted {optimizer.rule}")
        _put_schedules(optimizer, saved["param_groups"])
        replacement = state_dicts.replacement_for(optimizer, saved, array_type=Tensor)
        array_of = {tensor.name: array for array, tensor in replacement.copies}
        for tensor in header.tensors:
            for piece in _pieces(array_of[tensor.name], "writeonly"):
                if file.readinto(piece) != len(piece):
                    raise ValueError("damaged: it ends early")
    state_dicts.install(optimizer, replacement)


def describe(path: str | os.PathLike[str], *, progress: Progress | None = None) -> Contents:
    """Return what is in a checkpoint, once its checksum is found right; no array is kept in memory.

    Args:
        path: of the file.
        progress: called now and then with the number of bytes read and the number in all.

    Raises:
        ValueError: the file is damaged, or is not a checkpoint.
        OSError: the file cannot be read.

    Example:
        >>> import os, tempfile
        >>> import numpy as np, rmsprop
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "optimizer.safetensors")
        ...     rmsprop.RMSprop({"weight": np.ones((3, 2))}).save(path)
        ...     contents = describe(path)
        >>> contents.param_groups[0]["param_names"], contents.state[0]["square_avg"].shape
        (['weight'], (3, 2))
    """
    with _opened(path, progress) as (header, file):
        saved = _state_dict_in(header)
        return Contents(
            nbytes=os.fstat(file.fileno()).st_size,
            format_version=header.facts["format_version"],
            written_by=header.facts["written_by"],
            optimizer=header.facts["optimizer"],
            param_groups=saved["param_groups"],
            state=saved["state"],
        )


# ---- What is in the header -------------------------------------------------------------------------------------------


def _facts(algorithm: str, saved: Mapping[str, Any], arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Return what a checkpoint says of an optimizer besides its arrays."""
    return {
        "format_version": FORMAT_VERSION,
        "written_by": __version__,
        "optimizer": algorithm,
        "param_groups": [_without_schedule(group, saved["state"], i) for i, group in enumerate(saved["param_groups"])],
        "steps": [entry["step"] for entry in saved["state"].values()],
        "complex": [name for name, array in arrays.items() if array.dtype.kind == "c"],
    }


def _header(text: bytes, stored: Any) -> Header:
    """Return the header that has this text; `stored` is what safetensors made of it.

    Raises:
        ValueError: it is not one of ours, was written by a newer version, or has more in it than we write.
    """
    for name, entry in _parsed(text).items():
        if name != "__metadata__" and entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{name!r} in its header has {', '.join(entry)}, wanted dtype, shape, data_offsets")
    facts = _facts_in(stored.metadata())
    slices = {name: stored.get_slice(name) for name in stored.offset_keys()}
    entries = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    if list(entries.items())[-1:] != [("checksum", ("U8", [CHECKSUM_BYTES]))]:
        raise ValueError("its last entry is not its checksum")
    del entries["checksum"]
    complex_names = set(map(str, facts["complex"]))
    if unknown := complex_names - entries.keys():
        raise ValueError(f"'complex' in its header has {min(unknown)!r}, which is no array")
    return Header(facts, [_tensor(name, *entry, name in complex_names) for name, entry in entries.items()])


def _facts_in(metadata: dict[str, str]) -> dict[str, Any]:
    """Return the facts that the metadata of a safetensors file holds."""
    parsed = _parsed(metadata[FORMAT])
    facts: dict[str, Any] = parsed if isinstance(parsed, dict) else {}
    version = facts.get("format_version")
    if type(version) is not int or version < 1:
        raise ValueError("its header has no format version")
    if version != FORMAT_VERSION:
        raise ValueError(f"in format {version}, written by a newer rmsprop; this one reads format {FORMAT_VERSION}")
    if len(metadata) > 1 or {name: type(value) for name, value in facts.items()} != FACTS:
        raise ValueError(f"its header has {', '.join([*metadata, *facts])}, wanted {', '.join(FACTS)}, of their types")
    return facts


def _parsed(text: str | bytes) -> Any:
    """Parse JSON, and refuse one that names something twice."""
    try:
        return json.loads(text, object_pairs_hook=_dict_without_duplicates)
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("its header is not JSON") from None


def _dict_without_duplicates(items: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(items)
    if len(entries) != len(items):
        raise ValueError("its header names something twice")
    return entries


def _tensor(name: str, stored: str, shape: list[int], is_complex: bool) -> Tensor:
    """Return the array that an entry of the header describes."""
    if stored not in DTYPES:
        raise ValueError(f"{name!r} is of type {stored!r}, wanted {' or '.join(DTYPES)}")
    if not is_complex:
        return Tensor(name, np.dtype(DTYPES[stored]), tuple(shape))
    if shape[-1:] != [2]:
        raise ValueError(f"{name!r} has the shape {shape}, wanted one of pairs, as it is complex")
    return Tensor(name, np.dtype(COMPLEX[stored]), tuple(shape[:-1]))


def _without_schedule(group: Mapping[str, Any], state: Mapping[int, Any], index: int) -> dict[str, Any]:
    """Return a group that a file can hold: a schedule is code, so only the number that it gives now is kept."""
    if not isinstance(group.get("name", ""), str):
        raise TypeError(f"param_groups[{index}]['name']: got {type(group['name']).__name__}, wanted a str")
    if not callable(group["lr"]):
        return dict(group)
    return {**group, "lr": state_dicts.current_lr(group, state), "lr_is_schedule": True}


def _put_schedules(optimizer: "Optimizer", saved_groups: list[dict[str, Any]]) -> None:
    """Put the optimizer's own schedules where the optimizer that was saved had some."""
    for i, (group, saved) in enumerate(zip(optimizer.param_groups, saved_groups, strict=False)):
        if saved.pop("lr_is_schedule", False):
            if not callable(group["lr"]):
                raise ValueError(
                    f"param_groups[{i}]['lr']: got {group['lr']}, but a schedule was saved, which a file cannot hold "
                    f"(it gave {saved.get('lr')}); give this optimizer the schedule first"
                )
            saved["lr"] = group["lr"]


def _arrays_of(state: Mapping[int, Mapping[str, Any]]) -> dict[str, Array]:
    """Return all arrays of a state dict under their names in the file."""
    return {
        f"state.{index}.{name}": array
        for index, entry in state.items()
        for name, array in entry.items()
        if name != "step"
    }


def _state_dict_in(header: Header) -> dict[str, Any]:
    """Return the state dict that was saved, with a `Tensor` for each array."""
    state: dict[int, dict[str, Any]] = {index: {"step": step} for index, step in enumerate(header.facts["steps"])}
    for tensor in header.tensors:
        parts = re.fullmatch(r"state\.(0|[1-9][0-9]{0,17})\.(\w+)", tensor.name)
        if parts is None or int(parts[1]) not in state:
            raise ValueError(f"{tensor.name!r} is the state of no parameter")
        state[int(parts[1])][parts[2]] = tensor
    saved = {"state": state, "param_groups": header.facts["param_groups"]}
    state_dicts.numbers_of(*state_dicts.groups_and_state(saved))
    return saved


# ---- Bytes -----------------------------------------------------------------------------------------------------------


def _write(path: str, arrays: Mapping[str, Array], facts: Mapping[str, Any], progress: Progress | None) -> None:
    """Write a checkpoint, whole but not flushed to the disk."""
    tensors = {name: _as_stored(array) for name, array in arrays.items()}
    try:
        save_file(
            {**tensors, "checksum": np.zeros(CHECKSUM_BYTES, np.uint8)},
            path,
            {FORMAT: json.dumps(facts, allow_nan=False)},
        )
    except SafetensorError as error:
        raise _system_error(error, path) from error
    with open(path, "r+b") as file, _parsed_by_safetensors(file) as stored:
        for tensor in _header_of(file, stored).tensors:
            array = arrays[tensor.name]
            if array.flags.c_contiguous:
                file.seek(array.nbytes, os.SEEK_CUR)
            else:
                for piece in _pieces(array, "readonly"):
                    file.write(piece)
        file.write(_checksum(file, progress))


def _as_stored(array: Array) -> Array:
    """Return an array as safetensors takes it, without copying it; zeros that take no memory if that cannot be."""
    if not array.flags.c_contiguous:
        array = np.zeros(array.shape, array.dtype)  # the system shares one page of zeros until one is written to
    if array.dtype.kind != "c":
        return array
    return array.reshape(*array.shape, 1).view(array.real.dtype)


def _system_error(error: SafetensorError, path: str) -> Exception:
    """Return the error of the system that stopped safetensors, which tells its number in the text alone."""
    number = re.search(r"\(os error ([0-9]+)\)", str(error))
    return error if number is None else OSError(int(number[1]), os.strerror(int(number[1])), path)


def _pieces(array: Array, access: Literal["readonly", "writeonly"]) -> Iterator[memoryview]:
    """Yield the bytes of an array in the order of its indices, little-endian, at most PIECE of them at a time.

    Where the array is contiguous, a piece is its own memory; else a buffer, which NumPy fills, or empties into place.
    """
    nditer: Any = np.nditer  # the flag "contig" is missing from NumPy's types
    with nditer(
        array,
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=[[access, "contig"]],
        op_dtypes=[array.dtype.newbyteorder("<")],
        casting="equiv",
        order="C",
        buffersize=PIECE // array.itemsize,
    ) as pieces:
        for piece in pieces:
            yield piece.view(np.uint8).data


@contextmanager
def _opened(path: str | os.PathLike[str], progress: Progress | None) -> Iterator[tuple[Header, Any]]:
    """Open a checkpoint, compare its checksum, read its header; what is wrong becomes a ValueError with the path."""
    name = os.fsdecode(path)
    with open(name, "rb", opener=_open_without_waiting) as file:
        written = os.fstat(file.fileno()).st_mtime_ns
        try:
            with _parsed_by_safetensors(file) as stored:
                if FORMAT not in (stored.metadata() or {}):
                    raise ValueError(f"not a checkpoint of rmsprop, or damaged: its header does not say {FORMAT!r}")
                if _checksum(file, progress) != file.read(CHECKSUM_BYTES):
                    raise ValueError("damaged: its checksum does not match its content")
                yield _header_of(file, stored), file
                # What was read after the checksum must be what was read for it.
                if os.fstat(file.fileno()).st_mtime_ns != written:
                    raise ValueError("damaged: it was written to while it was read")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file. Without this, a named pipe would be waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # Windows has none


def _parsed_by_safetensors(file: IO[bytes]) -> Any:
    """Return what safetensors makes of a file, a context manager, or raise a ValueError."""
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise ValueError("not a checkpoint of rmsprop, or damaged: it is not a regular file")
    # By its descriptor, whatever was renamed meanwhile. Windows has no such name, and renames no file that is open.
    same_file = file.name if sys.platform == "win32" else f"/dev/fd/{file.fileno()}"
    try:
        return safe_open(same_file, framework="numpy", backend="pread")
    except FileNotFoundError:
        with open(same_file, "rb"):  # tells what else the matter was, which safetensors does not
            raise
    except SafetensorError as error:
        raise ValueError(f"not a checkpoint of rmsprop, or damaged: {error}") from error


def _header_of(file: IO[bytes], stored: Any) -> Header:
    """Read the header, up to where the arrays begin."""
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    return _header(file.read(length), stored)


def _checksum(file: Any, progress: Progress | None) -> bytes:
    """Return what the checksum of a file should be, and leave off reading where it is."""
    size = os.fstat(file.fileno()).st_size
    left = size - CHECKSUM_BYTES
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(size, PIECE)))
    file.seek(0)
    while left > 0:
        count = file.readinto(buffer[:left])
        if count == 0:
            raise ValueError("damaged: it ends early")
        digest.update(buffer[:count])
        left -= count
        if progress is not None:
            progress(size - left, size)
    return digest.digest()
