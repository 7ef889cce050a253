"""Checkpoints: the state of an optimizer in one file, which is either whole or refused.

A checkpoint is a safetensors file, so any reader of that format can look inside: 8 bytes with the length of the header
(little-endian), the header (JSON), and the arrays one after the other.

    state.0.square_avg  the arrays of parameter 0, and so on: little-endian, in the order of their indices (C). Complex
                        ones, which the format lacks, are reals with one more dimension of length 2.
    checksum            SHA-256 of all bytes of the file before it. It comes last.
    __metadata__        format              always "rmsprop checkpoint"
                        format_version      "1"
                        written_by          the version of rmsprop
                        optimizer           "rmsprop" or "adagrad"
                        param_groups        JSON: as in a state dict. If lr was a schedule, it is the number that the
                                            schedule gave, and "lr_is_schedule" is true.
                        steps               JSON: the step count of each parameter
                        complex             JSON: the names of arrays that are complex

Why not the safetensors package (0.8)? Its writer needs all arrays contiguous and complete before it starts, does not
flush to the disk, and turns the system's errors into ones without a number. Its reader maps the file into memory, and
takes duplicate entries and bytes that mean nothing. Here arrays are written and read piece by piece, straight from
and to their place, and a header is accepted if it is, byte for byte, the one that this module writes.
"""

import hashlib
import json
import math
import os
import re
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmsprop import state_dicts
from rmsprop._core import __version__
from rmsprop.atomic_file import replacing, write_all

if TYPE_CHECKING:
    from rmsprop.optimizers import Optimizer

Array = NDArray[Any]
Progress = Callable[[int, int], None]

FORMAT = "rmsprop checkpoint"
FORMAT_VERSION = 1
LONGEST_HEADER = 100_000_000  # the limit of the safetensors format
MOST_DIMENSIONS = 64  # of NumPy's arrays
PIECE = 1 << 22  # bytes that are read or written at a time

STORED_AS = {"float32": ("F32", ()), "float64": ("F64", ()), "complex64": ("F32", (2,)), "complex128": ("F64", (2,))}
"""The type in the file of each dtype, and the dimensions that an element has there."""

CHECKSUM_BYTES = hashlib.sha256().digest_size

METADATA = ("format", "format_version", "written_by", "optimizer", "param_groups", "steps", "complex")


class NotACheckpointError(ValueError):
    """What was read is no checkpoint of ours, or one so damaged that this cannot be told."""


class DamagedError(ValueError):
    """A checkpoint is not what was written."""


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

    metadata: dict[str, str]
    tensors: list[Tensor]

    @property
    def nbytes_after(self) -> int:
        """How many bytes of the file come after the header."""
        return sum(tensor.nbytes for tensor in self.tensors) + CHECKSUM_BYTES


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
    tensors = [Tensor(name, array.dtype, array.shape) for name, array in arrays.items()]
    header = Header(_metadata(optimizer.algorithm.name, saved, tensors), tensors)
    start = encoded(header)
    meter = _Meter(len(start) + header.nbytes_after, progress)
    with replacing(path) as descriptor:
        for piece in _pieces_of_file(start, arrays.values()):
            write_all(descriptor, memoryview(piece))
            meter.count(len(piece))
        # A step that is under way would be told by this, one that came and went by its count.
        optimizer._check(optimizer.param_groups, columns)
        if optimizer._columns is not columns or not np.array_equal(columns.steps, steps):
            raise RuntimeError("save: the optimizer took a step, or loaded other state, while it was being saved")


def load(optimizer: "Optimizer", path: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
    """Load what `save` wrote; see `Optimizer.load`."""
    with _opened(path) as reader:
        header = reader.header(progress)
        saved = _state_dict_in(header)
        if header.metadata["optimizer"] != optimizer.algorithm.name:
            raise ValueError(f"it is the state of {header.metadata['optimizer']}, wanted {optimizer.algorithm.name}")
        _put_schedules(optimizer, saved["param_groups"])
        replacement = state_dicts.replacement_for(optimizer, saved, array_type=Tensor)
        array_of = {tensor.name: array for array, tensor in replacement.copies}
        for tensor in header.tensors:
            reader.read_array(array_of[tensor.name])
        reader.check_checksum()
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
    with _opened(path) as reader:
        header = reader.header(progress)
        saved = _state_dict_in(header)
        reader.skip(sum(tensor.nbytes for tensor in header.tensors))
        reader.check_checksum()
        return Contents(
            nbytes=reader.meter.total,
            format_version=int(header.metadata["format_version"]),
            written_by=header.metadata["written_by"],
            optimizer=header.metadata["optimizer"],
            param_groups=saved["param_groups"],
            state=saved["state"],
        )


# ---- What is in the header -------------------------------------------------------------------------------------------


def encoded(header: Header) -> bytes:
    """Return the bytes of a header. There is one form only, so reading can insist on it."""
    entries: dict[str, Any] = {"__metadata__": header.metadata}
    offset = 0
    for tensor in header.tensors:
        stored, inner = STORED_AS[tensor.dtype.name]
        end = offset + tensor.nbytes
        entries[tensor.name] = {"dtype": stored, "shape": [*tensor.shape, *inner], "data_offsets": [offset, end]}
        offset = end
    entries["checksum"] = {"dtype": "U8", "shape": [CHECKSUM_BYTES], "data_offsets": [offset, offset + CHECKSUM_BYTES]}
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)  # so that all arrays are aligned
    return struct.pack("<Q", len(text)) + text


def decoded(data: bytes) -> Header:
    """Return the header that has these bytes.

    Raises:
        ValueError: it is not one of ours, was written by a newer version, or is not in the form that `encoded` gives.
    """
    try:
        entries = json.loads(data[8:])
    except (ValueError, RecursionError):
        raise NotACheckpointError("its header is not JSON") from None
    metadata = entries.get("__metadata__") if isinstance(entries, dict) else None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise NotACheckpointError(f"its header does not say {FORMAT!r}")
    _check_version(metadata.get("format_version"))
    if tuple(metadata) != METADATA or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"its header has {', '.join(metadata)}, wanted {', '.join(METADATA)}")
    complex_names = {name for name in _list_in(metadata, "complex") if isinstance(name, str)}
    tensors = [
        _tensor(name, entry, name in complex_names)
        for name, entry in entries.items()
        if name not in {"__metadata__", "checksum"}
    ]
    header = Header(metadata, tensors)
    if encoded(header) != data or metadata["complex"] != _complex_names(tensors):
        raise ValueError("its header is not in the form that rmsprop writes")
    return header


def _check_version(version: Any) -> None:
    if version == str(FORMAT_VERSION):
        return
    if isinstance(version, str) and re.fullmatch("[1-9][0-9]{0,9}", version):
        raise ValueError(f"in format {version}, written by a newer rmsprop; this one reads format {FORMAT_VERSION}")
    raise ValueError("its header has no format version")


def _tensor(name: str, entry: Any, is_complex: bool) -> Tensor:
    """Return the array that an entry of the header describes. Offsets are not looked at: they follow from the rest."""
    stored, shape = (entry.get("dtype"), entry.get("shape")) if isinstance(entry, dict) else (None, None)
    if not (isinstance(shape, list) and len(shape) <= MOST_DIMENSIONS + 1 and all(map(_is_length, shape))):
        raise ValueError(f"{name!r} has no shape that an array can have")
    inner = (2,) if is_complex else ()
    for dtype, form in STORED_AS.items():
        if form == (stored, inner):
            return Tensor(name, np.dtype(dtype), tuple(shape[: len(shape) - len(inner)]))
    raise ValueError(f"{name!r} is of type {stored!r}, wanted F32 or F64")


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _list_in(metadata: Mapping[str, Any], key: str) -> list[Any]:
    """Return the list that an entry of the metadata holds as JSON."""
    try:
        value = json.loads(metadata[key])
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list) or json.dumps(value) != metadata[key]:
        raise ValueError(f"{key!r} in its header is no list in the form that rmsprop writes")
    return value


def _metadata(algorithm: str, saved: Mapping[str, Any], tensors: list[Tensor]) -> dict[str, str]:
    """Return what a checkpoint says of an optimizer besides its arrays."""
    groups = [_without_schedule(group, saved["state"], i) for i, group in enumerate(saved["param_groups"])]
    return {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "written_by": __version__,
        "optimizer": algorithm,
        "param_groups": json.dumps(groups, allow_nan=False),
        "steps": json.dumps([entry["step"] for entry in saved["state"].values()]),
        "complex": _complex_names(tensors),
    }


def _complex_names(tensors: list[Tensor]) -> str:
    return json.dumps([tensor.name for tensor in tensors if tensor.dtype.kind == "c"])


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
    """Return all arrays of a state dict under their names in the file; those of large elements first, for alignment."""
    arrays = {
        f"state.{index}.{name}": array
        for index, entry in state.items()
        for name, array in entry.items()
        if name != "step"
    }
    return dict(sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize))


def _state_dict_in(header: Header) -> dict[str, Any]:
    """Return the state dict that was saved, with a `Tensor` for each array."""
    groups = _list_in(header.metadata, "param_groups")
    steps = _list_in(header.metadata, "steps")
    if not all(type(step) is int for step in steps):
        raise ValueError("'steps' in its header are not all whole numbers")
    state: dict[int, dict[str, Any]] = {index: {"step": step} for index, step in enumerate(steps)}
    for tensor in header.tensors:
        parts = re.fullmatch(r"state\.(0|[1-9][0-9]{0,17})\.(\w+)", tensor.name)
        if parts is None or int(parts[1]) not in state:
            raise ValueError(f"{tensor.name!r} is the state of no parameter")
        state[int(parts[1])][parts[2]] = tensor
    saved = {"state": state, "param_groups": groups}
    state_dicts.numbers_of(*state_dicts.groups_and_state(saved))
    return saved


# ---- Bytes -----------------------------------------------------------------------------------------------------------


class _Meter:
    """Counts bytes and reports them."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total = total
        self.done = 0
        self.progress = progress

    def count(self, nbytes: int) -> None:
        self.done += nbytes
        if self.progress is not None:
            self.progress(self.done, self.total)


def _pieces_of_file(start: bytes, arrays: Iterable[Array]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a checkpoint, piece by piece; `start` is its header."""
    digest = hashlib.sha256(start)
    yield start
    for array in arrays:
        for piece in _pieces(array, "readonly"):
            digest.update(piece)
            yield piece
    yield digest.digest()


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
def _opened(path: str | os.PathLike[str]) -> Iterator["_Reader"]:
    """Open a checkpoint; whatever is found wrong with it becomes a ValueError that names the file and tells damage."""
    name = os.fsdecode(path)
    with open(name, "rb", buffering=0, opener=_open_without_waiting) as file:
        reader = _Reader(file)
        try:
            yield reader
        except NotACheckpointError as error:
            raise ValueError(f"{name}: not a checkpoint of rmsprop, or damaged: {error}") from error
        except (TypeError, ValueError) as error:
            is_damaged = isinstance(error, DamagedError) or not reader.is_intact()
            raise ValueError(f"{name}: {'damaged: ' if is_damaged else ''}{error}") from error


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file. Without this, a named pipe would be waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


class _Reader:
    """Reads a checkpoint from start to end, adding up its checksum."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file: Any = file
        self.digest = hashlib.sha256()
        self.meter = _Meter(0, None)

    def header(self, progress: Progress | None) -> Header:
        """Read the header; nothing that it claims is allocated before it is known to be in the file."""
        status = os.fstat(self.file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise NotACheckpointError("it is not a regular file")
        size = status.st_size
        if size < 8:
            raise NotACheckpointError(f"it has {size} bytes")
        start = self._take(8)
        (length,) = struct.unpack("<Q", start)
        if not 2 <= length <= min(size - 8, LONGEST_HEADER):
            raise NotACheckpointError(f"its header would have {length} bytes, the file has {size}")
        header = decoded(start + self._take(length))
        wanted = 8 + length + header.nbytes_after
        if size != wanted:
            raise DamagedError(f"it has {size} bytes, wanted {wanted}")
        self.meter = _Meter(size, progress)
        self.meter.count(8 + length)
        return header

    def read_array(self, array: Array) -> None:
        """Fill an array with the next bytes of the file."""
        for piece in _pieces(array, "writeonly"):
            self._fill(piece)
            self.meter.count(len(piece))

    def skip(self, nbytes: int) -> None:
        """Pass over the next bytes of the file."""
        buffer = bytearray(min(nbytes, PIECE))
        while nbytes > 0:
            part = memoryview(buffer)[:nbytes]
            self._fill(part)
            self.meter.count(len(part))
            nbytes -= len(part)

    def check_checksum(self) -> None:
        """Read the checksum, which is the end of the file, and compare it with all that was read before."""
        expected = self.digest.digest()
        if self._take(CHECKSUM_BYTES) != expected:
            raise DamagedError("its checksum does not match its content")
        self.meter.count(CHECKSUM_BYTES)

    def is_intact(self) -> bool:
        """Read the whole file again and tell whether its checksum is right."""
        size = os.fstat(self.file.fileno()).st_size
        again = _Reader(self.file)
        self.file.seek(0)
        try:
            again.skip(size - CHECKSUM_BYTES)
            again.check_checksum()
        except DamagedError:
            return False
        return True

    def _take(self, nbytes: int) -> bytes:
        data = bytearray(nbytes)
        self._fill(memoryview(data))
        return bytes(data)

    def _fill(self, data: memoryview) -> None:
        unfilled = data
        while unfilled:
            count = self.file.readinto(unfilled)
            if count == 0:
                raise DamagedError("it ends early")
            unfilled = unfilled[count:]
        self.digest.update(data)
