"""Checkpoints: the same bits afterwards, a whole file whatever happens, and nothing loaded from one that is not."""

import errno
import hashlib
import json
import os
import resource
import stat
import struct
import subprocess
import sys
import threading
import tracemalloc
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

import rmsprop
from bits import assert_same_bits
from rmsprop._saving import checkpoint
from runs import DTYPES, FORMS, RULES, Run, Unchanged

NAME = "optimizer.safetensors"


@pytest.fixture
def path(tmp_path):
    return tmp_path / NAME


def small(value=1.0, **changes):
    """Return an optimizer with little state, all of it of this value."""
    optimizer = rmsprop.RMSprop({"w": np.ones(3, np.float32), "b": np.ones(1)}, **changes)
    for entry in optimizer.state.values():
        entry["square_avg"][...] = value
    return optimizer


def value_of(optimizer):
    """Return what `small` was called with, having checked that all of the state has this value."""
    (value,) = {float(number) for entry in optimizer.state.values() for number in entry["square_avg"]}
    return value


def loaded_value(path):
    optimizer = small(0.0)
    optimizer.load(path)
    return value_of(optimizer)


# ---- Going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_steps_after_loading_have_the_bits_of_the_uninterrupted_run(rule, dtype, form, path):
    run = Run(rule, dtype, form).step(3)
    run.optimizer.param_groups[-1]["lr"] = 0.05
    run.optimizer.save(path)
    resumed = run.at_the_same_point(eps=0.1, weight_decay=0.0)
    resumed.optimizer.load(path)
    resumed.assert_same_bits_as(run)
    resumed.step(3).assert_same_bits_as(run.step(3))


@pytest.mark.parametrize("size", [0, 1, checkpoint.PIECE // 8 - 1, checkpoint.PIECE // 8, checkpoint.PIECE // 8 + 1])
@pytest.mark.parametrize("step", [1, -2])
def test_arrays_of_any_size_and_layout_keep_every_bit(size, step, path):
    bits = np.random.default_rng(size).integers(0, 2**64, size, np.uint64)
    numbers = bits.view(np.float64)
    weights = np.ones(abs(step) * size)[::step]
    optimizer = rmsprop.RMSprop(weights)
    optimizer.state[0]["square_avg"] = np.zeros(abs(step) * size)[::step]
    optimizer.state[0]["square_avg"].view(np.uint64)[...] = bits
    optimizer.save(path)
    other = rmsprop.RMSprop(weights)
    other.load(path)
    assert (other.state[0]["square_avg"].view(np.uint64) == numbers.view(np.uint64)).all()


def test_loaded_state_is_laid_out_in_memory_like_its_parameter(path):
    weights = np.ones((2, 3, 4)).transpose(1, 2, 0)
    rmsprop.RMSprop(weights).save(path)
    other = rmsprop.RMSprop(weights)
    other.load(path)
    assert other.state[0]["square_avg"].strides == weights.strides


def test_step_counts_are_exact(path):
    optimizer = small()
    optimizer.state["w"]["step"] = 2**62 + 1
    optimizer.save(path)
    other = small()
    other.load(path)
    assert [entry["step"] for entry in other.state.values()] == [2**62 + 1, 0]


def test_hyperparameters_keep_every_bit(path):
    values = {"lr": 0.1 + 0.2, "alpha": np.nextafter(1.0, 0.0), "eps": 5e-324, "weight_decay": 1.7976931348623157e308}
    small(**values).save(path)
    other = small()
    other.load(path)
    assert {name: other.param_groups[0][name] for name in values} == values


def test_names_of_any_letters_survive(path):
    for name in ("weight", "größe", "層/0.重み", 'a "quoted" \\ name', "\n\t\x00", "\udc80", ""):
        rmsprop.RMSprop({name: np.ones(1)}).save(path)
        rmsprop.RMSprop({name: np.ones(1)}).load(path)
        with pytest.raises(ValueError, match="got a parameter of the name"):
            rmsprop.RMSprop({name + "x": np.ones(1)}).load(path)


def test_state_of_a_subclass_is_saved_as_it_lies_in_memory(path):
    class Liar(np.ndarray):
        nbytes = property(lambda self: 5)
        itemsize = property(lambda self: 1)

        def tobytes(self, order=None):
            return b"what it is not"

    optimizer = small()
    for entry in optimizer.state.values():
        entry["square_avg"] = np.full_like(entry["square_avg"], 0.5).view(Liar)
    optimizer.save(path)
    assert loaded_value(path) == 0.5


def test_optimizers_with_and_without_names_load_each_other_s_files(path):
    Run(form="list").step(2).optimizer.save(path)
    run = Run(form="dict")
    run.optimizer.load(path)
    run.optimizer.save(path)
    Run(form="list").optimizer.load(path)


def test_a_loaded_file_can_be_saved_onto_and_removed(path):
    run = Run().step(2)
    run.optimizer.save(path)
    resumed = run.at_the_same_point()
    resumed.optimizer.load(path)
    resumed.step().optimizer.save(path)
    path.unlink()
    resumed.step().assert_same_bits_as(run.step(2))


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_a_path_may_be_of_any_kind(kind, path):
    small(7.0).save(kind(path))
    assert loaded_value(kind(path)) == 7


def test_a_relative_path_is_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small(7.0).save(NAME)
    assert loaded_value(tmp_path / NAME) == 7


# ---- Schedules -------------------------------------------------------------------------------------------------------


def halving(step):
    return 0.5**step


def test_a_run_with_a_schedule_goes_on_with_the_schedule(path):
    run = Run(lr=halving, form="groups").step(2)
    run.optimizer.save(path)
    resumed = run.at_the_same_point()
    resumed.optimizer.load(path)
    assert [group["lr"] for group in resumed.optimizer.param_groups] == [0.3, halving]
    resumed.step(2).assert_same_bits_as(run.step(2))


def test_the_number_of_a_schedule_is_that_of_the_next_step(path):
    optimizer = small(lr=halving)
    optimizer.state["b"]["step"] = 3
    optimizer.save(path)
    (group,) = checkpoint.describe(path).param_groups
    assert (group["lr"], group["lr_is_schedule"]) == (0.125, True)


def test_a_schedule_that_is_missing_is_an_error_and_not_a_constant(path):
    run = Run(lr=halving).step(2)
    run.optimizer.save(path)
    resumed = run.at_the_same_point(lr=0.1)
    message = (
        r"\['lr'\]: got 0.1, but a schedule was saved, .* \(it gave 0.25\); give this optimizer the schedule first"
    )
    with Unchanged(resumed.optimizer), pytest.raises(ValueError, match=message):
        resumed.optimizer.load(path)


def test_a_number_takes_the_place_of_a_schedule(path):
    run = Run(lr=0.1).step(1)
    run.optimizer.save(path)
    resumed = run.at_the_same_point(lr=halving)
    resumed.optimizer.load(path)
    resumed.step(2).assert_same_bits_as(run.step(2))


# ---- The format ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_safetensors_library_reads_what_is_saved(dtype, path):
    safetensors = pytest.importorskip("safetensors", reason="the safetensors library is not installed")
    run = Run("centered", dtype, "groups").step(2)
    run.optimizer.save(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        assert json.loads(file.metadata()[checkpoint.FORMAT])["steps"] == [2, 2, 2, 2]
        names = set(file.keys())
        for number, entry in run.optimizer.state_dict()["state"].items():
            for name, array in entry.items():
                if name != "step":
                    names.remove(f"state.{number}.{name}")
                    stored = file.get_tensor(f"state.{number}.{name}")
                    if np.iscomplexobj(array):
                        stored = stored.view(array.dtype)[..., 0]
                    assert_same_bits(stored, array)
        assert names == {"checksum"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_has_the_bytes_that_the_safetensors_library_writes(dtype, form, path):
    safetensors = pytest.importorskip("safetensors", reason="the safetensors library is not installed")
    numpy = pytest.importorskip("safetensors.numpy")
    run = Run("centered", dtype, form).step(2)
    run.optimizer.param_groups[0]["name"] = 'a "name"\\\n'
    run.optimizer.save(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    numpy.save_file(numpy.load_file(path), path.with_name("theirs"), metadata)
    assert path.read_bytes() == path.with_name("theirs").read_bytes()


def test_arrays_are_aligned_to_their_elements_in_the_file(path):
    optimizer = rmsprop.RMSprop([np.ones(1, np.float32), np.ones(1), np.ones(3, np.float32), np.ones(1, np.complex64)])
    optimizer.save(path)
    length, header, _ = parts(path.read_bytes())
    assert length % 8 == 0
    for name, entry in header.items():
        if name.startswith("state"):
            assert entry["data_offsets"][0] % {"F32": 4, "F64": 8}[entry["dtype"]] == 0


def test_saving_twice_gives_the_same_file(path):
    run = Run().step(2)
    run.optimizer.save(path)
    first = path.read_bytes()
    run.optimizer.save(path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("layout", ["np.ones(SHAPE, np.float32)", "np.ones(SHAPE, np.float32).T"])
def test_neither_saving_nor_loading_needs_another_copy_of_the_state(layout, path):
    """Measured as the system does, of this process alone: `ru_maxrss` is no less than that of who started it."""
    program = f"""
import re, numpy as np, rmsprop
SHAPE = (1 << 12, 1 << 12)
weights = {layout}
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
optimizer = rmsprop.RMSprop(weights[:1])  # so that all that is imported is imported
optimizer.save({os.fspath(path)!r})
optimizer.load({os.fspath(path)!r})
optimizer = rmsprop.RMSprop(weights, centered=True)
before = peak()
optimizer.save({os.fspath(path)!r})
saved = peak()
optimizer.load({os.fspath(path)!r})
print(saved - before, peak() - saved, weights.nbytes)
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    by_saving, by_loading, nbytes = map(int, finished.stdout.split())
    assert by_saving < nbytes / 4
    assert nbytes < by_loading < (2 + 1 / 4) * nbytes  # the new state itself is two arrays


def test_describe_tells_what_is_in_a_file(path):
    run = Run("momentum", "complex64", "named groups", lr=halving).step(2)
    run.optimizer.save(path)
    contents = checkpoint.describe(path)
    assert contents.nbytes == path.stat().st_size
    assert (contents.format_version, contents.written_by) == (2, rmsprop.__version__)
    assert contents.optimizer == "rmsprop"
    assert [group["param_names"] for group in contents.param_groups] == [["matrix"], ["scalar", "reversed", "empty"]]
    assert [group["lr"] for group in contents.param_groups] == [0.25, 0.25]
    assert contents.state[0]["step"] == 2
    matrix = contents.state[0]["momentum_buffer"]
    assert (matrix.dtype, matrix.shape, matrix.nbytes) == (np.complex64, (3, 4), 96)


# ---- Progress --------------------------------------------------------------------------------------------------------


def test_progress_is_told_up_to_the_last_byte(path):
    optimizer = rmsprop.RMSprop(np.ones(3 * checkpoint.PIECE // 8))
    for act in (optimizer.save, optimizer.load, lambda path, progress: checkpoint.describe(path, progress=progress)):
        told = []
        act(path, progress=lambda *numbers, told=told: told.append(numbers))
        size = path.stat().st_size
        assert {total for _, total in told} == {size}
        done = [count for count, _ in told]
        assert done == sorted(done)
        assert len(done) >= 4
        assert done[-1] == size


def test_an_exception_of_progress_stops_saving_and_loading_and_changes_nothing(path):
    def stop(done, total):
        raise KeyboardInterrupt

    small(1.0).save(path)
    with pytest.raises(KeyboardInterrupt):
        small(2.0).save(path, progress=stop)
    assert loaded_value(path) == 1
    optimizer = small(3.0)
    with Unchanged(optimizer), pytest.raises(KeyboardInterrupt):
        optimizer.load(path, progress=stop)
    assert os.listdir(path.parent) == [NAME]


# ---- Writing whole files ---------------------------------------------------------------------------------------------


def failing(function, error, on_call=1):
    """Return a function that fails once, and otherwise does what it did."""
    calls = []

    def wrapped(*args, **kwargs):
        calls.append(args)
        if len(calls) == on_call:
            raise error
        return function(*args, **kwargs)

    return wrapped


FAILURES = [
    ("open", OSError(errno.EDQUOT, "Disk quota exceeded"), 2),  # the first opens the folder
    ("chmod", OSError(errno.EIO, "Input/output error"), 1),
    ("fsync", OSError(errno.EIO, "Input/output error"), 1),
    ("fsync", KeyboardInterrupt(), 1),
    ("replace", OSError(errno.EIO, "Input/output error"), 1),
]


@pytest.mark.parametrize(("name", "error", "on_call"), FAILURES)
def test_an_error_on_the_way_is_raised_and_leaves_the_old_file_alone(name, error, on_call, path, monkeypatch):
    small(1.0).save(path)
    path.chmod(0o777)  # which a new file does not have, so that it has to be set
    original = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(os, name, failing(getattr(os, name), error, on_call))
        with pytest.raises(type(error)) as raised:
            small(2.0).save(path)
    assert raised.value is error
    assert path.read_bytes() == original
    assert os.listdir(path.parent) == [NAME]


def test_an_error_without_an_old_file_leaves_none(path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(os.fsync, OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output error"):
        small().save(path)
    assert os.listdir(path.parent) == []


def test_an_error_of_the_last_flush_is_raised_and_leaves_the_new_file(path, monkeypatch):
    small(1.0).save(path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing(os.fsync, OSError(errno.EIO, "Input/output error"), on_call=2))
        with pytest.raises(OSError, match="Input/output error"):
            small(2.0).save(path)
    assert loaded_value(path) == 2
    assert os.listdir(path.parent) == [NAME]


def test_file_is_flushed_before_it_is_renamed_and_the_folder_after(path, monkeypatch):
    happened = []

    def recording(name, describe):
        function = getattr(os, name)

        def wrapped(*args, **kwargs):
            happened.append(describe(*args))
            return function(*args, **kwargs)

        monkeypatch.setattr(os, name, wrapped)

    def flushed(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        return "flush folder" if is_folder else ("flush", Path(f"/dev/fd/{descriptor}").read_bytes())

    recording("fsync", flushed)
    recording("replace", lambda source, target: f"rename to {os.path.basename(target)}")
    small().save(path)
    assert happened == [("flush", path.read_bytes()), f"rename to {NAME}", "flush folder"]


def test_a_full_disk_is_an_error_and_the_old_file_stays(tmp_path):
    program = f"""
import errno, os, resource, signal, numpy as np, rmsprop
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = {os.fspath(tmp_path / NAME)!r}
rmsprop.RMSprop(np.ones(10)).save(path)
old = open(path, "rb").read()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    rmsprop.RMSprop(np.ones(100_000)).save(path)
except OSError as error:
    assert error.errno == errno.EFBIG, error
else:
    raise AssertionError("no error")
assert open(path, "rb").read() == old
assert os.listdir({os.fspath(tmp_path)!r}) == [{NAME!r}]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_two_savers_at_once_give_the_file_of_one_of_them(path):
    def save(value):
        for _ in range(20):
            small(value).save(path)

    savers = [threading.Thread(target=save, args=(float(value),)) for value in range(1, 5)]
    for saver in savers:
        saver.start()
    seen = set()
    while any(saver.is_alive() for saver in savers):
        if path.exists():
            seen.add(loaded_value(path))
    for saver in savers:
        saver.join()
    assert seen <= {1, 2, 3, 4}
    assert loaded_value(path) in {1, 2, 3, 4}
    assert os.listdir(path.parent) == [NAME]


def test_an_array_that_changes_while_it_is_saved_gives_a_file_that_can_be_loaded(path, monkeypatch):
    optimizer, other = (rmsprop.RMSprop(np.ones(checkpoint.PIECE // 8 + 1)) for _ in range(2))
    array = optimizer.state[0]["square_avg"]

    class Changing:
        def __init__(self, data):
            self.own = sha256(data)

        def update(self, data):
            self.own.update(data)
            array[...] += 1.0

        def digest(self):
            return self.own.digest()

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "sha256", Changing)
        optimizer.save(path)
    assert array[0] > 1.0
    other.load(path)
    assert other.state[0]["square_avg"][0] == 0.0  # as it was before the first change


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o666])
def test_a_file_that_is_replaced_keeps_its_permissions(mode, path):
    small().save(path)
    path.chmod(mode)
    small().save(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_permissions_of_any_new_file(path):
    other = path.with_name("other")
    other.touch()
    small().save(path)
    assert path.stat().st_mode == other.stat().st_mode


def test_a_symbolic_link_stays_one_and_its_file_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / NAME, tmp_path / "link"
    link.symlink_to(target)
    for value in (1.0, 2.0):
        small(value).save(link)
        assert link.is_symlink()
        assert not target.is_symlink()
        assert loaded_value(target) == value
    assert os.listdir(target.parent) == [NAME]


@pytest.mark.parametrize(
    ("name", "error"),
    [("missing/file", FileNotFoundError), ("folder", IsADirectoryError), ("file/below", NotADirectoryError)],
)
def test_a_path_that_cannot_be_written_is_an_os_error(name, error, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(error):
        small().save(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_what_is_no_regular_file_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="Neither a regular file nor a new one"):
        small().save(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


# ---- Savers that should not save -------------------------------------------------------------------------------------


def test_saving_or_loading_inside_of_a_step_is_an_error(path):
    run = Run()
    run.optimizer.save(path)
    before = path.read_bytes()
    for act in (run.optimizer.save, run.optimizer.load):
        run.optimizer.lr = lambda step, act=act: act(path)
        with Unchanged(run.optimizer), pytest.raises(RuntimeError, match="in the middle of another step"):
            run.step()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda o: o.param_groups[0].update(lr=float("nan")), ValueError, "lr"),
        (lambda o: o.param_groups[0].update(alpha="0.9"), TypeError, "alpha"),
        (lambda o: o.param_groups[0].update(name=("a", 1)), TypeError, "name'\\]: got tuple, wanted a str"),
        (lambda o: o.state["w"].update(square_avg=np.ones(4, np.float32)), ValueError, r"square_avg.*shape \(4,\)"),
        (lambda o: o.state["w"].update(grad_avg=np.ones(3, int)), TypeError, r"grad_avg.*dtype int64"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(spoil, error, message, path):
    optimizer = small()
    spoil(optimizer)
    with pytest.raises(error, match=message):
        optimizer.save(path)
    assert os.listdir(path.parent) == []


# ---- Damage ----------------------------------------------------------------------------------------------------------


def parts(content):
    """Return the length of a header, the header, and what comes after it."""
    (length,) = struct.unpack("<Q", content[:8])
    return length, json.loads(content[8 : 8 + length]), content[8 + length :]


def refuse(optimizer, path, message=None):
    """Assert that a file is refused by a ValueError that names it, and that nothing has changed."""
    with Unchanged(optimizer), pytest.raises(ValueError, match=message) as raised:
        optimizer.load(path)
    assert str(raised.value).startswith(f"{path}: ")
    with pytest.raises(ValueError, match=NAME):
        checkpoint.describe(path)
    return str(raised.value)


def test_a_file_that_is_cut_short_anywhere_is_refused(path):
    optimizer = small()
    optimizer.save(path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refuse(optimizer, path)


def test_a_file_that_goes_on_is_refused(path):
    optimizer = small()
    optimizer.save(path)
    content = path.read_bytes()
    for more in (b"\0", content):
        path.write_bytes(content + more)
        refuse(optimizer, path, "not a checkpoint of rmsprop, or damaged: .*file not fully covered")


@pytest.mark.parametrize("flip", [0x01, 0x20, 0xFF])
def test_a_file_with_any_byte_changed_is_refused(flip, path):
    optimizer = small()
    optimizer.save(path)
    content = path.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= flip
        path.write_bytes(changed)
        assert "damaged" in refuse(optimizer, path)


def test_a_file_with_two_bytes_exchanged_is_refused(path):
    optimizer = small()
    optimizer.state["w"]["square_avg"][:] = (1, 2, 3)
    optimizer.save(path)
    content = path.read_bytes()
    one, two = (content.index(np.array(value, "<f4").tobytes()) for value in (1, 2))
    changed = bytearray(content)
    changed[one : one + 4], changed[two : two + 4] = changed[two : two + 4], changed[one : one + 4]
    path.write_bytes(changed)
    refuse(optimizer, path, "damaged: its checksum does not match its content")


def forged(content, change=lambda header: None, data=None, raw=None):
    """Return a file with another header or other data, and a checksum that is right for them."""
    _, header, rest = parts(content)
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode() if raw is None else raw
    text += b" " * (-len(text) % 8)
    content = struct.pack("<Q", len(text)) + text + (rest[:-32] if data is None else data)
    return content + sha256(content).digest()


def test_a_forged_file_that_changes_nothing_is_accepted(path):
    """Otherwise the tests below would refuse for another reason."""
    small(5.0).save(path)
    path.write_bytes(forged(path.read_bytes()))
    assert loaded_value(path) == 5


def entry(**changes):
    return lambda header: header["state.0.square_avg"].update(changes)


def facts(raw=None, **changes):
    def change(header):
        said = json.loads(header["__metadata__"][checkpoint.FORMAT])
        said.update(changes)
        header["__metadata__"][checkpoint.FORMAT] = json.dumps(said) if raw is None else raw

    return change


def without_fact(name):
    def change(header):
        said = json.loads(header["__metadata__"][checkpoint.FORMAT])
        del said[name]
        header["__metadata__"][checkpoint.FORMAT] = json.dumps(said)

    return change


def group(**changes):
    def change(header):
        groups = json.loads(header["__metadata__"][checkpoint.FORMAT])["param_groups"]
        groups[0].update(changes)
        facts(param_groups=groups)(header)

    return change


def renamed(old, new):
    def change(header):
        items = [(new if name == old else name, value) for name, value in header.items()]
        header.clear()
        header.update(items)

    return change


def checksum_at(*offsets):
    return lambda header: header["checksum"].update(data_offsets=offsets)


def moved_last(name):
    return lambda header: header.update({name: header.pop(name)})


FORGED = {
    "another format": (
        lambda header: header.update({"__metadata__": {"format": "pt"}}),
        "not a checkpoint of rmsprop, or damaged: its header does not say 'rmsprop checkpoint'",
    ),
    "no metadata": (lambda header: header.pop("__metadata__"), "not a checkpoint of rmsprop"),
    "newer": (facts(format_version=3), "in format 3, written by a newer rmsprop; this one reads format 2"),
    "version no number": (facts(format_version="1"), "its header has no format version"),
    "version none": (facts(format_version=0), "its header has no format version"),
    "version a bool": (facts(format_version=True), "its header has no format version"),
    "no version": (without_fact("format_version"), "its header has no format version"),
    "facts no dict": (facts("[1]"), "its header has no format version"),
    "facts no JSON": (facts("{"), "its header is not JSON"),
    "facts deep": (facts("[" * 100_000), "its header is not JSON"),
    "fact missing": (without_fact("written_by"), "its header has .*, wanted"),
    "fact unknown": (facts(more="1"), "its header has .*, more, wanted"),
    "fact of another type": (facts(written_by=3), "its header has .*, wanted"),
    "fact twice": (facts('{"format_version": 1, "steps": [], "steps": []}'), "its header names something twice"),
    "metadata unknown": (lambda header: header["__metadata__"].update(more="1"), "its header has .*more, .*wanted"),
    "another optimizer": (facts(optimizer="adagrad"), "it is the state of adagrad, wanted rmsprop"),
    "shape overflows": (entry(shape=[2**62, 2**62]), "overflow computing buffer size"),
    "shape just overflows": (entry(shape=[2**31, 2**31]), "overflow computing buffer size"),
    "shape too large": (entry(shape=[2**40], data_offsets=[8, 8 + 2**42]), "not fully covered|invalid offset"),
    "shape too long": (entry(shape=[1] * 66 + [3]), r"shape \(1, .* does not match the parameter's \(3,\)"),
    "shape beyond 64 bits": (entry(shape=[2**64, 0]), "invalid JSON in header"),
    "shape negative": (entry(shape=[-3]), "invalid JSON in header"),
    "shape of bools": (entry(shape=[True, 3]), "invalid JSON in header"),
    "shape of floats": (entry(shape=[3.0]), "invalid JSON in header"),
    "shape missing": (entry(shape=None), "invalid JSON in header"),
    "shape other": (entry(shape=[3, 1]), r"shape \(3, 1\) does not match the parameter's \(3,\)"),
    "dtype other": (entry(dtype="I32"), "'state.0.square_avg' is of type 'I32', wanted F64, F32, BF16, I16 or U8"),
    "dtype no text": (entry(dtype=[]), "invalid JSON in header"),
    "dtype of nobody": (
        entry(dtype="F31"),
        "invalid JSON in header.*is of type 'F31', wanted F64, F32, BF16, I16 or U8",
    ),
    "entry no dict": (lambda header: header.update({"state.0.square_avg": 3}), "invalid JSON in header"),
    "entry with more": (entry(more=1), "has dtype, shape, data_offsets, more, wanted dtype, shape, data_offsets"),
    "overlap": (entry(data_offsets=[0, 12]), "invalid offset"),
    "gap": (entry(data_offsets=[9, 21]), "invalid offset"),
    "longer than its shape": (entry(data_offsets=[8, 21]), "invalid offset"),
    "offsets turned": (entry(data_offsets=[20, 8]), "invalid offset"),
    "no checksum": (lambda header: header.pop("checksum"), "not fully covered"),
    "checksum of another type": (
        lambda header: header["checksum"].update(dtype="F32", shape=[8]),
        "its last entry is not its checksum",
    ),
    "checksum elsewhere": (checksum_at(19, 51), "invalid offset of its checksum"),
    "checksum longer": (checksum_at(20, 53), "invalid offset of its checksum"),
    "array missing": (renamed("state.0.square_avg", "state.0.grad_avg"), r"state\['w'\]: no square_avg"),
    "array unknown": (renamed("state.0.square_avg", "state.0.exp_avg"), r"state\['w'\]: unknown entry 'exp_avg'"),
    "array of nobody": (renamed("state.0.square_avg", "state.7.square_avg"), "is the state of no parameter"),
    "name of nothing": (renamed("state.0.square_avg", "weight"), "'weight' is the state of no parameter"),
    "steps missing": (facts(steps=[0]), "is the state of no parameter"),
    "steps more": (facts(steps=[0, 0, 0]), "parameter 2 is in no group"),
    "steps no list": (facts(steps=3), "its header has .*, wanted"),
    "step negative": (facts(steps=[-1, 0]), "step: got -1, wanted a count >= 0"),
    "step a float": (facts(steps=[1.5, 0]), "step: got float, wanted an int"),
    "step a bool": (facts(steps=[True, 0]), "step: got bool, wanted an int"),
    "step huge": (facts(steps=[10**30, 0]), "step: got 1000000000000000000000000000000"),
    "step endless": (facts('{"steps": [' + "1" * 5000 + "]}"), "integer string conversion|has no format version"),
    "complex": (facts(complex=["state.0.square_avg"]), r"has the shape \[3\], wanted one of pairs"),
    "complex of nobody": (facts(complex=["bias"]), "'complex' in its header has 'bias', which is no array"),
    "complex no names": (facts(complex=[[]]), "'complex' in its header has"),
    "complex no list": (facts(complex={}), "its header has .*, wanted"),
    "groups no dicts": (facts(param_groups=[1]), "param_groups: got list, wanted a list of dicts"),
    "no groups": (facts(param_groups=[], steps=[]), "is the state of no parameter"),
    "hyperparameter nan": (group(lr=float("nan")), "lr"),
    "hyperparameter text": (group(lr="fast"), "lr: got str, wanted a number"),
    "hyperparameter unknown": (group(betas=1), "unknown hyperparameter betas"),
    "names other": (group(param_names=["w", "x"]), r"of the name 'x', wanted 'b'"),
    "names no list": (group(param_names=3), r"param_groups\[0\]\['param_names'\]: wanted a list"),
    "params other": (group(params=[0, 2]), "nothing for parameter 2"),
    "params twice": (group(params=[0, 0]), "the same parameter is there twice"),
}


@pytest.mark.parametrize(("change", "message"), FORGED.values(), ids=FORGED)
def test_a_file_that_fits_badly_is_refused_even_if_its_checksum_is_right(change, message, path):
    optimizer = small()
    optimizer.save(path)
    path.write_bytes(forged(path.read_bytes(), change))
    with Unchanged(optimizer), pytest.raises(ValueError, match=message) as raised:
        optimizer.load(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "damaged" not in str(raised.value) or "not a checkpoint of rmsprop, or damaged" in str(raised.value)
    optimizer.step({"w": None, "b": None})


RAW = {
    "nothing": b"",
    "no JSON": b'{"__metadata__": ',
    "a list": b"[1, 2, 3]",
    "a number": b"1" * 16,
    "deep": b"[" * 200_000,
    "bad UTF-8": b'{"\xff\xfe": 1}',
    "UTF-16": '{"__metadata__":{"format":"rmsprop checkpoint"}}'.encode("utf-16"),
    "endless number": b'{"a":' + b"1" * 10_000 + b"}",
}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
def test_a_header_that_is_none_is_refused(raw, path):
    optimizer = small()
    optimizer.save(path)
    path.write_bytes(forged(path.read_bytes(), raw=raw))
    refuse(optimizer, path, "not a checkpoint of rmsprop, or damaged|header")


def test_duplicate_entries_are_refused(path):
    optimizer = small()
    optimizer.save(path)
    content = path.read_bytes()
    length, _, _ = parts(content)
    text = content[8 : 8 + length].rstrip()
    one = text.index(b'"state.0.square_avg"')
    duplicate = text[one : text.index(b"}", one) + 1] + b","
    for raw in (
        text[:one] + duplicate + text[one:],
        text.replace(b'{"rmsprop checkpoint"', b'{"rmsprop checkpoint":"{}","rmsprop checkpoint"'),
    ):
        assert raw != text
        path.write_bytes(forged(content, raw=raw))
        refuse(optimizer, path, "its header names something twice")


@pytest.mark.parametrize("length", [0, 1, 2**16, 99_999_999, 100_000_001, 2**31, 2**32, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_file_is_refused_without_being_allocated(length, path):
    optimizer = small()
    path.write_bytes(struct.pack("<Q", length) + b"{}" * 100)
    refused_within(1 << 20, optimizer, path)


def test_a_header_that_claims_large_arrays_is_refused_without_allocating_them(path):
    optimizer = small()
    optimizer.save(path)
    content = path.read_bytes()
    for shape in ([2**33], [2**62], [3, 2**40], [2**20, 2**20]):
        path.write_bytes(forged(content, entry(shape=shape)))
        refused_within(1 << 20, optimizer, path)


def refused_within(nbytes, optimizer, path):
    tracemalloc.start()
    try:
        refuse(optimizer, path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < nbytes


def test_a_file_of_holes_is_refused_in_bounded_memory(path):
    """A header may have 100 MB; a file that is larger without using space on the disk must not be read into memory."""
    optimizer = small()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 10**12))
        file.truncate(10**12 + 8)
    refused_within(1 << 20, optimizer, path)


FOREIGN = {
    "empty": b"",
    "text": b"These are the weights of my model.\n" * 10,
    "zeros": bytes(1000),
    "zip": b"PK\x03\x04" + bytes(range(256)) * 4,
    "npy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }" + b" " * 60 + b"\n",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_file_of_another_kind_is_refused(content, path):
    path.write_bytes(content)
    refuse(small(), path, "not a checkpoint of rmsprop, or damaged: ")


def test_a_safetensors_file_of_other_origin_is_refused(path):
    numpy = pytest.importorskip("safetensors.numpy", reason="the safetensors library is not installed")
    numpy.save_file({"state.0.square_avg": np.ones(3, np.float32)}, path, metadata={"format": "pt"})
    refuse(small(), path, "not a checkpoint of rmsprop, or damaged: its header does not say 'rmsprop checkpoint'")


def test_the_state_of_other_optimizers_and_parameters_is_refused(path):
    small().save(path)
    others = {
        "adagrad": rmsprop.Adagrad({"w": np.ones(3, np.float32), "b": np.ones(1)}),
        "got 1, wanted 2": rmsprop.RMSprop([{"params": {"w": np.ones(3, np.float32)}}, {"params": {"b": np.ones(1)}}]),
        "got 2 parameters, wanted 1": rmsprop.RMSprop({"w": np.ones(3, np.float32)}),
        r"shape \(3,\) does not match the parameter's \(4,\)": rmsprop.RMSprop([np.ones(4, np.float32), np.ones(1)]),
        "dtype float32 does not match the parameter's float64": rmsprop.RMSprop([np.ones(3), np.ones(1)]),
        "of the name 'w', wanted 'b'": rmsprop.RMSprop({"b": np.ones(3, np.float32), "w": np.ones(1)}),
    }
    for message, optimizer in others.items():
        with Unchanged(optimizer), pytest.raises(ValueError, match=message) as raised:
            optimizer.load(path)
        assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize("share", [0, 1], ids=["before its checksum is known", "afterwards"])
def test_a_file_that_becomes_shorter_while_it_is_read_is_refused(share, path):
    optimizer = rmsprop.RMSprop(np.ones(1 << 20))
    optimizer.save(path)
    with Unchanged(optimizer), pytest.raises(ValueError, match="it ends early"):
        optimizer.load(path, progress=lambda done, total: os.truncate(path, 5000) if done >= share * total else None)


def test_a_file_that_is_written_to_while_it_is_read_is_refused(path):
    optimizer = small(1.0)
    optimizer.save(path)
    os.utime(path, (0, 0))

    def spoil(done, total):
        with open(path, "r+b") as file:
            file.seek(-40, os.SEEK_END)  # in the last array
            file.write(b"\1")

    with Unchanged(optimizer), pytest.raises(ValueError, match="damaged: it was written to while it was read"):
        optimizer.load(path, progress=spoil)


def test_what_cannot_be_opened_stays_an_os_error(tmp_path):
    optimizer = small()
    with Unchanged(optimizer):
        with pytest.raises(FileNotFoundError):
            optimizer.load(tmp_path / "missing")
        with pytest.raises(IsADirectoryError):
            optimizer.load(tmp_path)


def test_too_many_open_files_are_told_by_their_number(path):
    optimizer = small()
    optimizer.save(path)
    spare = [os.open(path, os.O_RDONLY) for _ in range(3)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare) + 1, limits[1]))
    try:
        with Unchanged(optimizer), pytest.raises(OSError, match="Too many open files") as raised:
            optimizer.load(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in spare:
            os.close(descriptor)
    assert raised.value.errno == errno.EMFILE


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / NAME)
    refuse(small(), tmp_path / NAME, "not a checkpoint of rmsprop, or damaged: it is not a regular file")


def test_a_file_without_permission_stays_an_os_error(path):
    small().save(path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    with pytest.raises(PermissionError):
        small().load(path)


def test_importing_the_package_imports_nothing_of_checkpoints():
    program = "import sys, rmsprop; print(*(name for name in sys.modules if 'checkpoint' in name or 'safe' in name))"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert finished.stdout.split() == []


def test_open_files_are_closed_again(path):
    small().save(path)
    path.with_name("bad").write_bytes(b"bad")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        small().save(path)
        small().load(path)
        with pytest.raises(ValueError, match="not a checkpoint"):
            small().load(path.with_name("bad"))
    assert len(os.listdir("/proc/self/fd")) == before
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > before


def test_a_file_of_format_1_is_read_and_goes_on_with_the_same_bits():
    """It was written before state could have fewer bits, by the steps that are taken here."""

    def stepped(params, count):
        optimizer = rmsprop.RMSprop(params, lr=0.1, momentum=0.9, centered=True)
        for _ in range(count):
            optimizer.step({name: np.full_like(param, 0.5) for name, param in params.items()})
        return optimizer

    params = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(3)}
    expected = stepped(params, 3)
    twins = {name: param.copy() for name, param in params.items()}
    optimizer = rmsprop.RMSprop(twins, lr=1.0, momentum=0.5, centered=True)
    optimizer.load(Path(__file__).with_name("version_1.safetensors"))
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.param_groups[0]["state_dtype"] is None
    for each in (expected, optimizer):
        each.step({name: np.full_like(param, -0.25) for name, param in params.items()})
    for name, param in params.items():
        assert_same_bits(twins[name], param)
        for key, value in expected.state[name].items():
            assert_same_bits(np.asarray(optimizer.state[name][key]), np.asarray(value))
