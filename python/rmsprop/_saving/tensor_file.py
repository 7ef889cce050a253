"""Named arrays and a text in one file with a checksum: the safetensors format, read and written directly.

    8 bytes   the length of the header, little-endian
    header    {"__metadata__":{"rmsprop checkpoint":"..."},"NAME":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},...}
    arrays    their bytes one after the other in the order of their indices (C), little-endian; complex ones are reals
              with one more dimension of length 2
    checksum  SHA-256 of all bytes before it; in the header it is the last array

Any reader of safetensors can read it. Only files as `write` writes them are read: headers without spaces, arrays
without gaps. The header is compared with the size of the file before any object is made of it, so that no file takes
much more memory than it has bytes.
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
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rmsprop._optimizer.storage import bfloat16
from rmsprop.reference import is_bfloat16

Array = NDArray[Any]
Progress = Callable[[int, int], None]

FORMAT = "rmsprop checkpoint"
PIECE = 1 << 22  # bytes that are read or written at a time

DTYPES: dict[bytes, np.dtype[Any]] = {
    b"F64": np.dtype("float64"),
    b"F32": np.dtype("float32"),
    b"I16": np.dtype("int16"),
    b"U8": np.dtype("uint8"),
}
"""The types in the file, and NumPy's, besides bfloat16, which NumPy has from another package."""

CODES = {"d": "F64", "D": "F64", "f": "F32", "F": "F32", "E": "BF16", "h": "I16", "B": "U8"}
"""The file's names for NumPy's types, by their letters; complex ones are pairs."""

IN_ORDER = ("F64", "F32", "BF16", "I16", "U8")
"""The same, the largest elements first."""

CHECKSUM_BYTES = hashlib.sha256().digest_size

START = b'{"__metadata__":{"' + FORMAT.encode() + b'":"'
ENTRY = re.compile(
    rb',"([^"\\]*)":\{"dtype":"(F32|F64|BF16|I16|U8)","shape":\[([0-9,]{0,2000})\],"data_offsets":\[([0-9]{1,20}),([0-9]{1,20})\]\}'
)
END = re.compile(
    rb',"checksum":\{"dtype":"U8","shape":\[%d\],"data_offsets":\[([0-9]{1,20}),([0-9]{1,20})\]\}\} *' % CHECKSUM_BYTES
)
ANY_ENTRY = re.compile(rb'[,{]"([^"\\]{0,200})":(\{[^{}]{0,4000}\})?')


class Tensor(NamedTuple):
    """An array in a file, whose bytes have not been read."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size in bytes, in the file and in memory."""
        return self.dtype.itemsize * math.prod(self.shape)


class Header(NamedTuple):
    """Everything in a file but the bytes of its arrays. Complex arrays are real ones here."""

    text: bytes
    tensors: dict[str, Tensor]


# ---- Writing ---------------------------------------------------------------------------------------------------------


def write(file: BinaryIO, text: str, arrays: Mapping[str, Array], progress: Progress | None) -> None:
    """Write a text and arrays with a checksum.

    Args:
        file: new, empty.
        text: printable ASCII.
        arrays: of float32, float64, complex64, complex128, bfloat16, int16 or uint8 in the machine's byte order, in any
            layout. Their names need no escape in JSON.
        progress: called now and then with the number of bytes written and the number in all.
    """
    header, ordered = _header_for(text, arrays)
    total = len(header) + sum(array.nbytes for array in ordered) + CHECKSUM_BYTES
    digest = hashlib.sha256(header)
    file.write(header)
    done = told = len(header)
    for array in ordered:
        for piece in _pieces(array):
            digest.update(piece)
            file.write(piece)
            done += len(piece)
            if progress is not None and done >= told + PIECE:
                progress(done, total)
                told = done
    file.write(digest.digest())
    if progress is not None:
        progress(total, total)


def _header_for(text: str, arrays: Mapping[str, Array]) -> tuple[bytes, list[Array]]:
    """Return a header with its length, and the arrays in the order of the file: aligned, the largest elements first."""
    codes = {name: CODES[array.dtype.char] for name, array in arrays.items()}
    names = sorted(sorted(arrays), key=lambda name: IN_ORDER.index(codes[name]))
    entries = [f'{{"__metadata__":{{"{FORMAT}":{json.dumps(text)}}}']
    end = 0
    for name in names:
        array = arrays[name]
        shape = ",".join(map(str, array.shape if array.dtype.kind != "c" else (*array.shape, 2)))
        start, end = end, end + array.nbytes
        entries.append(f'"{name}":{{"dtype":"{codes[name]}","shape":[{shape}],"data_offsets":[{start},{end}]}}')
    checksum = f'"shape":[{CHECKSUM_BYTES}],"data_offsets":[{end},{end + CHECKSUM_BYTES}]'
    entries.append(f'"checksum":{{"dtype":"U8",{checksum}}}}}')
    header = ",".join(entries).encode("ascii")
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header, [arrays[name] for name in names]


def _pieces(array: Array) -> Iterator[bytes]:
    """Yield the bytes of an array in the order of its indices, little-endian, at most PIECE of them at a time.

    They are copies, so that what is written is what was added to the checksum, even if the array changes meanwhile.
    """
    if array.nbytes <= PIECE and sys.byteorder == "little":
        yield array.tobytes()
        return
    for piece in _buffers(array, "readonly"):
        yield piece.tobytes()


def _plain(array: Array) -> Array:
    """Return an array of bfloat16 as the integers that its elements are: it has no buffer of its own."""
    return array.view(np.uint16) if is_bfloat16(array) else array


def _buffers(array: Array, access: str) -> Iterator[memoryview]:
    """Yield buffers for an array's bytes in the order of its indices, little-endian, at most PIECE bytes at a time.

    They are the memory of a contiguous array; otherwise NumPy copies from it to them, or back.
    """
    array = _plain(array)
    nditer: Any = np.nditer  # the flag "contig" is missing from NumPy's types
    with nditer(
        array,
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=[[access, "contig"]],
        op_dtypes=[array.dtype.newbyteorder("<")],
        casting="equiv",
        order="C",
        buffersize=PIECE // array.itemsize,
    ) as buffers:
        for buffer in buffers:
            yield buffer.view(np.uint8).data


# ---- Reading ---------------------------------------------------------------------------------------------------------


def read_header(file: BinaryIO) -> Header:
    """Read the header of a file, and stop where the arrays begin.

    Raises:
        ValueError: the header is not one that `write` has written, or belongs to a file of another size.
    """
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise _refusal("it is not a regular file")
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if length < len(START):
        raise _refusal("header too small")
    if length > status.st_size - 8:
        raise _refusal("its header is longer than the file")
    header = _read_text(file, length)
    text, position = _text_in(header)
    tensors, position, nbytes = _tensors_in(header, position)
    data_bytes = status.st_size - 8 - length
    last = END.fullmatch(header, position)
    if last is None:
        raise _refusal(_complaint(header, position, nbytes == data_bytes))
    if int(last[1]) != nbytes or int(last[2]) != nbytes + CHECKSUM_BYTES:
        raise _refusal("invalid offset of its checksum")
    if nbytes + CHECKSUM_BYTES != data_bytes:
        raise _refusal("file not fully covered")
    return Header(text, tensors)


def check(file: BinaryIO, progress: Progress | None) -> None:
    """Raise a ValueError if the checksum of a file does not match, and restore the read position."""
    before = file.tell()
    size = os.fstat(file.fileno()).st_size
    left = size - CHECKSUM_BYTES
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(size, PIECE)))
    file.seek(0)
    while left > 0:
        count = file.readinto(buffer[:left])  # type: ignore[attr-defined]
        if count == 0:
            raise ValueError("damaged: it ends early")
        digest.update(buffer[:count])
        left -= count
        if progress is not None:
            progress(size - left, size)
    if digest.digest() != file.read(CHECKSUM_BYTES):
        raise ValueError("damaged: its checksum does not match its content")
    file.seek(before)


def read_into(file: BinaryIO, array: Array) -> None:
    """Read the bytes of the next array into it."""
    is_like_file = array.flags.c_contiguous and sys.byteorder == "little"
    for buffer in [_plain(array)] if is_like_file else _buffers(array, "writeonly"):
        if file.readinto(buffer) != buffer.nbytes:  # type: ignore[attr-defined]
            raise ValueError("damaged: it ends early")


def _refusal(reason: str) -> ValueError:
    return ValueError(f"not a checkpoint of rmsprop, or damaged: {reason}")


def _read_text(file: BinaryIO, length: int) -> bytes:
    """Read `length` bytes, but stop at a byte that text cannot contain, such as one in a hole of a sparse file."""
    pieces = [file.read(len(START))]
    if pieces[0] != START:
        raise _refusal(f"its header does not say {FORMAT!r}")
    left = length - len(START)
    while left > 0:
        piece = file.read(min(left, PIECE))
        if not piece or b"\0" in piece:
            raise _refusal("invalid JSON in header")
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _text_in(header: bytes) -> tuple[bytes, int]:
    r"""Return the text in a header without its escapes, which are \\ and \" alone, and where the arrays begin."""
    without_escapes = header.replace(rb"\\", b"\0\0").replace(rb"\"", b"\0\0")  # a header has no other zeros
    end = without_escapes.find(b'"', len(START))
    if end < 0 or b"\\" in without_escapes:
        raise _refusal("invalid JSON in header")
    del without_escapes
    if header[end : end + 2] != b'"}':
        found = ANY_ENTRY.match(header, end + 1)
        more = found[1].decode("utf-8", "replace") if found else "invalid JSON"
        is_twice = more == FORMAT
        raise _refusal("its header names something twice" if is_twice else f"its header has {more}, wanted {FORMAT}")
    text = header[len(START) : end].replace(rb"\\", b"\0").replace(rb"\"", b'"').replace(b"\0", b"\\")
    return text, end + 2


def _tensors_in(header: bytes, position: int) -> tuple[dict[str, Tensor], int, int]:
    """Return the arrays in a header by name, where they end in it, and how many bytes they have in the file."""
    tensors: dict[str, Tensor] = {}
    end = 0
    for entry in ENTRY.finditer(header, position):
        if entry.start() != position:
            break
        stored_name, code, dimensions, stored_start, stored_end = entry.groups()
        if stored_name == b"checksum":
            break
        name = stored_name.decode("utf-8", "replace")
        if name in tensors:
            raise _refusal("its header names something twice")
        dtype, shape, nbytes = _type_of(code, dimensions)
        if int(stored_start) != end or int(stored_end) != end + nbytes:
            raise _refusal(f"invalid offset of {name!r}")
        tensors[name] = Tensor(name, dtype, shape)
        end += nbytes
        position = entry.end()
    return tensors, position, end


@lru_cache(1000)  # many arrays have few shapes
def _type_of(code: bytes, dimensions: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Return dtype and shape of an array as a header has them, and its size."""
    dtype = bfloat16() if code == b"BF16" else DTYPES[code]
    try:
        shape = tuple(map(int, dimensions.split(b","))) if dimensions else ()
    except ValueError:
        raise _refusal("invalid JSON in header") from None
    nbytes = dtype.itemsize * math.prod(shape)
    if max(shape, default=0) >= 2**64:
        raise _refusal("invalid JSON in header")
    if nbytes >= 2**64:
        raise _refusal("overflow computing buffer size")
    return dtype, shape, nbytes


def _complaint(header: bytes, position: int, is_covered: bool) -> str:
    """Return what is wrong with the entry of a header at some position."""
    found = ANY_ENTRY.match(header, position)
    if found is None and re.compile(rb"\} *").fullmatch(header, position):
        return "its last entry is not its checksum" if is_covered else "file not fully covered"
    if found is None or found[2] is None:
        return "invalid JSON in header"
    if found[1] == b"checksum":
        return "its last entry is not its checksum"
    try:
        entry = json.loads(found[2])
    except (ValueError, RecursionError):
        return "invalid JSON in header"
    name = found[1].decode("utf-8", "replace")
    wanted = ["dtype", "shape", "data_offsets"]
    if list(entry) != wanted:
        return f"{name!r} in its header has {', '.join(entry)}, wanted {', '.join(wanted)}"
    if entry["dtype"] not in IN_ORDER:
        wanted_types = f"{', '.join(IN_ORDER[:-1])} or {IN_ORDER[-1]}"
        return f"invalid JSON in header: {name!r} is of type {entry['dtype']!r}, wanted {wanted_types}"
    return f"invalid JSON in header: {name!r}"
