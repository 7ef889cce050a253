"""Coverage-guided fuzzing of checkpoints: whatever the bytes of a file, it is loaded whole or refused without a trace.

Run it with `ci/fuzz checkpoint`. Each input is a byte that chooses the optimizer, and then the file. Mutations know the
format: they change the header as JSON and set its length right, and for most the checksum is made right, since behind
a wrong one there is nothing to find. That memory stays bounded is what the fuzzer's own limits see to.
"""

import contextlib
import json
import os
import random
import struct
import sys
import tempfile
from hashlib import sha256

import atheris
import numpy as np

with atheris.instrument_imports(include=["rmsprop"]):
    import rmsprop
    from rmsprop._saving import checkpoint

CHECKSUM = slice(-checkpoint.CHECKSUM_BYTES, None)

# In memory, if that can be: it is the parser that is tested and not the disk.
folder = tempfile.TemporaryDirectory(prefix="rmsprop-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
path = os.path.join(folder.name, "checkpoint")


def halving(step):
    """Return a learning rate, as a schedule does."""
    return 0.5**step


OPTIMIZERS = [
    lambda: rmsprop.RMSprop({"w": np.ones(3, np.float32), "b": np.ones(1)}),
    lambda: rmsprop.RMSprop([np.asfortranarray(np.ones((2, 3), np.complex128))], centered=True, momentum=0.9),
    lambda: rmsprop.RMSprop([{"params": np.ones(2)}, {"params": np.ones((0, 3)), "name": "empty"}], lr=halving),
    lambda: rmsprop.Adagrad([np.ones((), np.complex64), np.ones(4, np.float32)], lr_decay=0.1),
]


def test_one_input(data):
    """Load, and check that all is as promised."""
    optimizer = OPTIMIZERS[data[0] % len(OPTIMIZERS)]() if data else OPTIMIZERS[0]()
    content = data[1:]
    if not data or data[0] < 0xC0:
        content = content[: CHECKSUM.start] + sha256(content[: CHECKSUM.start]).digest()
    with open(path, "wb") as file:
        file.write(content)
    before = snapshot(optimizer)
    try:
        optimizer.load(path)
    except (ValueError, TypeError, OSError) as error:
        if snapshot(optimizer) != before:
            raise AssertionError("refused, but the optimizer has changed") from error
        describe_or_refuse()
        return
    checkpoint.describe(path)
    check_that_it_was_loaded_whole(optimizer, data[0])


def describe_or_refuse():
    """Describe the file; it may be one of another optimizer."""
    with contextlib.suppress(ValueError, OSError):
        checkpoint.describe(path)


def check_that_it_was_loaded_whole(optimizer, kind):
    """Check that an optimizer can step, save, and be loaded again with the same bits."""
    loaded = snapshot(optimizer)
    optimizer.save(path)
    other = OPTIMIZERS[kind % len(OPTIMIZERS)]()
    other.load(path)
    if snapshot(other) != loaded:
        raise AssertionError("what was loaded is not what is saved")
    optimizer.step(
        {name: None for name in optimizer.state} if "w" in optimizer.state else [None] * len(optimizer.state)
    )


def snapshot(optimizer):
    """Return all that a load could change."""
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    state = [
        value if isinstance(value, int) else (value.dtype, value.shape, value.tobytes())
        for entry in optimizer.state.values()
        for value in entry.values()
    ]
    params = [param.tobytes() for group in optimizer.param_groups for param in group["params"]]
    return repr(groups), state, params


# ---- Mutations that know the format ----------------------------------------------------------------------------------

VALUES = [
    0,
    1,
    -1,
    2,
    1.5,
    True,
    None,
    "",
    "F32",
    "F64",
    "U8",
    "rmsprop",
    "adagrad",
    [],
    {},
    [2],
    2**31,
    2**62,
    2**64,
    "Ā",
]
KEYS = [
    "dtype",
    "shape",
    "data_offsets",
    "__metadata__",
    checkpoint.FORMAT,
    "checksum",
    "steps",
    "params",
    "lr",
    "name",
]


def mutate(data, max_size, seed):
    """Return a file like this one, with something about its header or its bytes changed."""
    chance = random.Random(seed)
    try:
        kind, (length,) = data[:1], struct.unpack("<Q", data[1:9])
        header, rest = json.loads(data[9 : 9 + length]), data[9 + length :]
        facts = json.loads(header["__metadata__"][checkpoint.FORMAT])
    except (ValueError, KeyError, TypeError, struct.error, RecursionError):
        return atheris.Mutate(data, max_size)
    choice = chance.randrange(6)
    if choice == 0:
        return atheris.Mutate(data, max_size)
    if choice == 1:
        rest = atheris.Mutate(rest, max(len(rest), 1))
    if choice == 2:
        facts = changed(facts, chance)
    if choice == 3:
        header = changed(header, chance)
    if choice in (1, 2) and isinstance(header.get("__metadata__"), dict):
        header["__metadata__"][checkpoint.FORMAT] = json.dumps(facts)
    text = json.dumps(header, separators=(",", ":")).encode()
    if choice == 4:
        text = atheris.Mutate(text, len(text) + 100)
    if choice == 5:
        start = chance.randrange(len(text))
        piece = text[start : start + chance.randrange(1, 80)]
        where = chance.randrange(len(text))
        text = text[:where] + piece + text[where:]
    text += b" " * (-len(text) % 8)
    return (kind + struct.pack("<Q", len(text)) + text + rest)[:max_size]


def changed(value, chance):
    """Return JSON with one change somewhere inside."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        action = chance.randrange(6)
        if action == 0:
            return {name: item for name, item in value.items() if name != key}
        if action == 1:
            return {**value, chance.choice(KEYS): chance.choice(VALUES)}
        if action == 2:
            return {chance.choice(KEYS) if name == key else name: item for name, item in value.items()}
        return {**value, key: changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        index = chance.randrange(len(value))
        action = chance.randrange(4)
        if action == 0:
            return value[:index] + value[index + 1 :]
        if action == 1:
            return [*value[:index], value[index], *value[index:]]
        return [*value[:index], changed(value[index], chance), *value[index + 1 :]]
    if isinstance(value, int) and chance.random() < 0.5:
        return value + chance.choice((-8, -4, -1, 1, 4, 8))
    return chance.choice(VALUES)


def write_corpus(to):
    """Write the file of each optimizer, before and after a step: where fuzzing starts from."""
    for number, make in enumerate(OPTIMIZERS):
        optimizer = make()
        grads = [np.full_like(param, 0.5) for group in optimizer.param_groups for param in group["params"]]
        optimizer.step(dict(zip(optimizer.state, grads, strict=True)) if "w" in optimizer.state else grads)
        optimizer.save(path)
        with open(path, "rb") as saved, open(os.path.join(to, f"optimizer-{number}"), "wb") as seed:
            seed.write(bytes([number]) + saved.read())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write-corpus"]:
        write_corpus(sys.argv[2])
        sys.exit()
    atheris.Setup(sys.argv, test_one_input, custom_mutator=mutate)
    atheris.Fuzz()
