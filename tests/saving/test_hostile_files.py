"""Whatever a file says, refusing it takes memory in proportion to its size, and little for one that is all holes."""

import json
import os
import struct
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest

import rmsprop
from rmsprop._saving import checkpoint

SIZE = 2_000_000  # bytes of each file, about

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="this system does not tell peaks")

REFUSE = """
import json, os, re, sys
import numpy as np, rmsprop
from rmsprop._saving import checkpoint

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

def refuse(path):
    before = peak()
    messages = []
    for act in (optimizer.load, checkpoint.describe):
        try:
            act(path)
        except ValueError as error:
            messages.append(str(error)[:1000])
    print(json.dumps((path, peak() - before, messages)), flush=True)

optimizer = rmsprop.RMSprop({"w": np.ones(3, np.float32), "b": np.ones(1)})
good = sys.argv[1] + ".good"
for act in (optimizer.save, optimizer.load, checkpoint.describe):
    act(good)
for path in sys.argv[1:]:
    pid = os.fork()  # a process whose memory was never more than it is now
    if pid == 0:
        refuse(path)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


def refused(*paths):
    """Refuse each file in a process of its own, and return how much memory that took, and the messages."""
    command = [sys.executable, "-c", REFUSE, *map(str, paths)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return {path: (nbytes, messages) for path, nbytes, messages in map(json.loads, finished.stdout.splitlines())}


def facts(**changes):
    """Return the facts of a small optimizer with others in their places, as JSON without spaces."""
    group = {**rmsprop.RMSprop([np.ones(1)]).defaults, "params": [0]}
    said = {"format_version": 1, "written_by": "1", "optimizer": "rmsprop", "param_groups": [group], "steps": [0]}
    parts = {name: json.dumps(value, separators=(",", ":")) for name, value in {**said, "complex": []}.items()}
    return "{" + ",".join(f'"{name}":{text}' for name, text in {**parts, **changes}.items()) + "}"


def repeated(text, size=SIZE):
    return "[" + ",".join([text] * (size // (len(text) + 1))) + "]"


def numbered(pattern, size=SIZE):
    """Return a pattern with 0, 1, ... in the place of @, repeated."""
    count = size // (len(pattern) + 5)
    return ",".join(pattern.replace("@", f"{number}") for number in range(count))


def groups(**entries):
    """Return a list of one group as JSON."""
    return "[{" + ",".join(f'"{name}":{text}' for name, text in entries.items()) + "}]"


def names(texts):
    """Return a list of one group with one parameter and these names."""
    return groups(params="[0]", param_names=texts)


FACTS = {
    "steps of zero": lambda: facts(steps=repeated("0")),
    "steps and params": lambda: facts(
        steps=repeated("0", SIZE // 4), param_groups=groups(params="[" + numbered("@") + "]")
    ),
    "large steps": lambda: facts(steps=repeated("1000")),
    "fractions as steps": lambda: facts(steps=repeated("1.5")),
    "lists as steps": lambda: facts(steps=repeated("[]")),
    "lists in lists": lambda: facts(steps=repeated("[0]")),
    "texts as steps": lambda: facts(steps=repeated('""')),
    "dicts as steps": lambda: facts(steps=repeated("{}")),
    "steps deep": lambda: facts(steps="[" * SIZE + "]" * SIZE),
    "empty groups": lambda: facts(param_groups=repeated("{}")),
    "small groups": lambda: facts(param_groups=repeated('{"params":[0]}')),
    "numbered groups": lambda: facts(param_groups="[" + numbered('{"params":[@]}') + "]"),
    "names without parameters": lambda: facts(param_groups=names(repeated('"ab"'))),
    "names beyond ASCII": lambda: facts(param_groups=names(repeated('"\\u0100"'))),
    "names of escapes": lambda: facts(param_groups=names(repeated('"a\\"b"'))),
    "a long name": lambda: facts(param_groups=names('["' + "x" * SIZE + '"]')),
    "a long name of escapes": lambda: facts(param_groups=names('["' + "xy\\n" * (SIZE // 4) + '"]')),
    "a long name of quotes": lambda: facts(param_groups=names('["' + '\\"' * (SIZE // 2) + '"]')),
    "many hyperparameters": lambda: facts(param_groups="[{" + numbered('"@":1') + "}]"),
    "one hyperparameter often": lambda: facts(param_groups="[{" + ",".join(['"ab":1'] * (SIZE // 7)) + "}]"),
    "many facts": lambda: facts(**{f"a{number}": "1" for number in range(SIZE // 12)}),
    "many complex names": lambda: facts(complex="[" + numbered('"@"') + "]"),
    "many complex texts": lambda: facts(complex=repeated('"ab"')),
    "spaces": lambda: facts(steps="[" + " " * SIZE + "0]"),
    "nothing": lambda: " " * SIZE,
    "quotes": lambda: '"' * SIZE,
    "backslashes": lambda: "\\" * SIZE,
    "beyond ASCII": lambda: "\U0001f600" * (SIZE // 4),
    "control characters": lambda: "\x01" * SIZE,
}
NONE = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
HEADERS = {
    "arrays without elements": lambda: numbered(f'"state.@.sum":{NONE}'),
    "arrays of one parameter": lambda: numbered(f'"state.0.a@":{NONE}'),
    "one array often": lambda: ",".join([f'"state.0.sum":{NONE}'] * (SIZE // 60)),
    "long array names": lambda: numbered(f'"{"x" * 1000}@":{NONE}'),
    "a long array name": lambda: f'"{"x" * SIZE}":{NONE}',
    "many dimensions": lambda: '"state.0.sum":' + NONE.replace("[0]", repeated("1")),
    "large dimensions": lambda: '"state.0.sum":' + NONE.replace("[0]", repeated("99999")),
    "long numbers": lambda: '"state.0.sum":' + NONE.replace("[0]", "[" + "9" * SIZE + "]"),
    "entries that are lists": lambda: numbered('"state.@.sum":[]'),
    "entries with more": lambda: '"state.0.sum":{' + numbered('"@":1') + "}",
    "brackets": lambda: "[" * SIZE,
    "commas": lambda: "," * SIZE,
    "colons": lambda: '"":' * (SIZE // 3),
    "braces": lambda: "{" * SIZE,
}


def write_file(path, text=None, entries=""):
    """Write a file with these facts and arrays, and a checksum that is right."""
    checksum = '"checksum":{"dtype":"U8","shape":[32],"data_offsets":[0,32]}'
    said = json.dumps(facts() if text is None else text, ensure_ascii=False)
    header = f'{{"__metadata__":{{"{checkpoint.FORMAT}":{said}}},{entries + "," * bool(entries)}{checksum}}}'.encode()
    content = struct.pack("<Q", len(header)) + header
    path.write_bytes(content + sha256(content).digest())
    return len(content) + 32


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """For each name in the tables the size of its file, how much memory refusing it took, and the messages."""
    folder = tmp_path_factory.mktemp("hostile")
    sizes = {name: write_file(folder / name, text=make()) for name, make in FACTS.items()}
    sizes |= {name: write_file(folder / name, entries=make()) for name, make in HEADERS.items()}
    found = refused(*(folder / name for name in sizes))
    return {name: (size, *found[str(folder / name)]) for name, size in sizes.items()}


@pytest.mark.parametrize("name", [*FACTS, *HEADERS])
def test_a_file_of_any_kind_is_refused_in_16_times_the_memory_of_its_size(name, outcomes):
    size, nbytes, messages = outcomes[name]
    assert messages
    assert f"{name}: " in messages[0]
    assert 0 < nbytes < 16 * size


@pytest.mark.parametrize("form", ["one group", "groups", "names"])
def test_the_state_of_another_model_is_refused_in_16_times_the_memory_of_the_file(form, tmp_path):
    params = [np.ones(1, np.float32) for _ in range(1000 if form == "groups" else 40_000)]
    if form == "names":
        params = {f"{number:x}": param for number, param in enumerate(params)}
    path = tmp_path / "file"
    rmsprop.RMSprop([{"params": param} for param in params] if form == "groups" else params).save(path)
    nbytes, messages = refused(path)[str(path)]
    assert "wanted" in messages[0]
    assert 0 < nbytes < 16 * path.stat().st_size


@pytest.mark.parametrize("length", [200, 1 << 31, 200 * 10**9 - 8, 2**64 - 1])
@pytest.mark.parametrize("start", [b"", b'{"__metadata__":{"rmsprop checkpoint":"', None])
def test_a_file_of_holes_is_refused_at_once_in_64_megabytes(start, length, tmp_path):
    """Within the time limit its bytes could not be read."""
    path = tmp_path / "file"
    if start is None:
        write_file(path)
        start = path.read_bytes()[8:-32]
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", length) + start)
        file.truncate(200 * 10**9)
    nbytes, messages = refused(path)[str(path)]
    assert "not a checkpoint of rmsprop, or damaged: " in messages[0]
    assert nbytes < 64 << 20


def test_a_header_of_more_than_100_megabytes_is_saved_and_loaded(tmp_path):
    names = [f"{number}" + "x" * 1_800_000 for number in range(60)]
    params = {name: np.ones(1, np.float32) for name in names}
    rmsprop.Adagrad(params, initial_accumulator_value=2.0).save(tmp_path / "file")
    assert os.path.getsize(tmp_path / "file") > 100_000_000
    optimizer = rmsprop.Adagrad(params)
    optimizer.load(tmp_path / "file")
    assert all(optimizer.state[name]["sum"] == 2.0 for name in names)
