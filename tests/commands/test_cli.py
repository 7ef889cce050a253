"""The command line: what it prints, what it refuses, and what it does not drag in."""

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import struct
import subprocess
import sys
import sysconfig
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rmsprop
from rmsprop._commands import main as cli

MODULE = (sys.executable, "-m", "rmsprop")


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in `folder`, the way a script or a CI job does: no terminal, no colours."""
    plain = {name: value for name, value in os.environ.items() if name not in {"FORCE_COLOR", "COLUMNS"}}
    return subprocess.run(command, cwd=folder, env=plain, capture_output=True, text=True, check=False, timeout=120)


def without(package: str, *arguments: str) -> tuple[str, ...]:
    """Return a command that runs `rmsprop` in a Python that does not have `package`."""
    program = (
        f"import sys; sys.modules[{package!r}] = None; "
        f"from rmsprop._commands.main import main; sys.exit(main({arguments!r}))"
    )
    return sys.executable, "-c", program


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of every command under the command's name, and the main one under an empty name."""
    main = cli.build_parser()
    (commands,) = (action for action in main._actions if isinstance(action, argparse._SubParsersAction))
    return {"": main, **commands.choices}


def examples() -> list[str]:
    """Return every example that a help text gives."""
    epilogs = "".join(parser.epilog or "" for parser in parsers().values())
    return re.findall(r"^  (.*\brmsprop .*)$", epilogs, flags=re.MULTILINE)


@pytest.mark.parametrize("command", parsers())
def test_help_mentions_every_option_and_shows_examples(command: str, tmp_path: Path) -> None:
    finished = run(*MODULE, *command.split(), "--help", folder=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "examples:" in finished.stdout
    for action in parsers()[command]._actions:
        assert all(option in finished.stdout for option in action.option_strings)
        assert action.help or isinstance(action, argparse._SubParsersAction)


def test_help_lists_every_command(tmp_path: Path) -> None:
    listed = re.findall(r"^    (\w+) ", run(*MODULE, "--help", folder=tmp_path).stdout, flags=re.MULTILINE)
    assert listed == [command for command in parsers() if command]


@pytest.mark.parametrize("example", examples())
def test_examples_in_the_help_are_understood(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(example)
    cli.build_parser().parse_args(words[words.index("rmsprop") + 1 :])


def test_help_fits_any_terminal(tmp_path: Path) -> None:
    for command in parsers():
        help_text = run(*MODULE, *command.split(), "--help", folder=tmp_path).stdout
        assert help_text.isascii()
        assert max(map(len, help_text.splitlines())) <= 80


def test_version_is_the_version_of_the_package(tmp_path: Path) -> None:
    finished = run(*MODULE, "--version", folder=tmp_path)
    assert (finished.returncode, finished.stdout) == (0, f"rmsprop {rmsprop.__version__}\n")


def test_info_says_what_a_bug_report_needs(tmp_path: Path) -> None:
    finished = run(*MODULE, "info", folder=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    facts = (
        rmsprop.__version__,
        np.__version__,
        platform.python_version(),
        platform.platform(),
        rmsprop.instruction_sets().chosen,
        *rmsprop.instruction_sets().available,
        "threads",
        "OpenMP",
    )
    assert [fact for fact in facts if fact not in finished.stdout] == []


def test_info_is_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    rmsprop.show_config()
    expected = capsys.readouterr().out
    assert cli.main(["info"]) == 0
    assert capsys.readouterr().out == expected


def test_console_script_and_module_are_the_same_program(tmp_path: Path) -> None:
    (entry_point,) = {entry.value for entry in entry_points(group="console_scripts", name="rmsprop")}
    assert entry_point == "rmsprop._commands.main:main"
    script = shutil.which("rmsprop", path=sysconfig.get_path("scripts"))
    assert script is not None
    for arguments in (["info"], ["--help"], ["demo", "--help"], ["demo", "--epochs", "0"]):
        by_script = run(script, *arguments, folder=tmp_path)
        by_module = run(*MODULE, *arguments, folder=tmp_path)
        assert (by_script.returncode, by_script.stdout, by_script.stderr) == (
            by_module.returncode,
            by_module.stdout,
            by_module.stderr,
        )


@pytest.mark.parametrize("arguments", [[], ["train"], ["info", "--epochs", "3"], ["demo", "--learning-rate", "1"]])
def test_what_is_not_understood_is_an_error_and_names_the_way_out(arguments: list[str], tmp_path: Path) -> None:
    finished = run(*MODULE, *arguments, folder=tmp_path)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith("usage: rmsprop")
    assert "Traceback" not in finished.stderr
    assert "demo" in finished.stderr
    assert "info" in finished.stderr


@pytest.mark.parametrize("option", ["--epochs", "--batch-size", "--hidden-units", "--seed"])
@pytest.mark.parametrize("value", ["-1", "1.5", "many", ""])
def test_numbers_that_make_no_sense_are_refused(
    option: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_status:
        cli.main(["demo", option, value])
    assert exit_status.value.code == 2
    minimum = 0 if option == "--seed" else 1
    expected = f"argument {option}: expected a whole number of at least {minimum}, got {value!r}"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("picture.jpg", "expected a name that ends in .png, got 'picture.jpg'"),
        ("missing/picture.png", "there is no folder 'missing' to write 'picture.png' into"),
        ("file/picture.png", "there is no folder 'file' to write 'picture.png' into"),
        ("folder.png", "cannot write 'folder.png': "),
        ("n" * 300 + ".png", "cannot write 'nnn"),
        ("pipe.png", "cannot write 'pipe.png': it is not a regular file"),
        ("null.png", "cannot write 'null.png': it is not a regular file"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused_before_training(output: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for a reader
    (tmp_path / "null.png").symlink_to("/dev/null")
    finished = run(*MODULE, "demo", "--output", output, folder=tmp_path)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert f"argument --output: {reason}" in finished.stderr
    assert "RMSprop" not in finished.stderr  # no progress bar: nothing was trained
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png", "null.png", "pipe.png"]


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a folder this user cannot write to")
def test_a_folder_without_permission_is_refused_before_training(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(argparse.ArgumentTypeError, match="Permission denied"):
        cli.picture_path(str(tmp_path / "picture.png"))


def test_looking_whether_a_picture_can_be_written_changes_nothing(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    assert cli.picture_path(str(picture)) == picture
    assert list(tmp_path.iterdir()) == []
    picture.write_bytes(b"an older picture")
    assert cli.picture_path(str(picture)) == picture
    assert picture.read_bytes() == b"an older picture"


@pytest.mark.parametrize("package", sorted(cli.DEMO_PACKAGES))
def test_demo_without_its_packages_says_how_to_install_them(package: str, tmp_path: Path) -> None:
    finished = run(*without(package, "demo"), folder=tmp_path)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr.startswith("rmsprop demo: error: ")
    assert finished.stderr.endswith("is not installed; run: pip install 'rmsprop[demo]'\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", sorted(cli.DEMO_PACKAGES))
def test_info_needs_none_of_the_packages_of_the_demo(package: str, tmp_path: Path) -> None:
    assert run(*without(package, "info"), folder=tmp_path).returncode == 0


def test_a_fault_of_our_own_is_not_blamed_on_a_missing_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "rmsprop._commands.demo", raising=False)
    monkeypatch.delattr(rmsprop._commands, "demo", raising=False)
    monkeypatch.setitem(sys.modules, "rmsprop.optimizers", None)
    with pytest.raises(ModuleNotFoundError, match=r"rmsprop\.optimizers"):
        cli.main(["demo"])


def test_importing_the_package_imports_no_command_line(tmp_path: Path) -> None:
    program = "import sys, numpy; before = set(sys.modules); import rmsprop; print(*sorted(set(sys.modules) - before))"
    imported = run(sys.executable, "-c", program, folder=tmp_path).stdout.split()
    assert "rmsprop.optimizers" in imported
    unwanted = {"argparse", "tempfile", "rmsprop._commands.main", "rmsprop._commands.demo", *cli.DEMO_PACKAGES}
    assert unwanted.isdisjoint(imported)


def test_an_interrupted_command_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rmsprop, "show_config", interrupted)
    assert cli.main(["info"]) == 130


# ---- rmsprop inspect -------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The checkpoint of an optimizer with two groups, one with a schedule."""
    groups = [
        {"params": {"weight": np.ones((3, 4)), "größe": np.ones((), np.complex64)}, "lr": lambda step: 0.5**step},
        {"params": {"bias": np.ones(1000, np.float32)}, "lr": 0.25, "name": "[red]second[/red]"},
    ]
    optimizer = rmsprop.RMSprop(groups, momentum=0.9)
    optimizer.step({"weight": np.ones((3, 4)), "größe": None, "bias": np.ones(1000, np.float32)})
    path = tmp_path / "optimizer.safetensors"
    optimizer.save(path)
    return path


def test_inspect_prints_what_is_inside(checkpoint: Path, tmp_path: Path) -> None:
    finished = run(*MODULE, "inspect", checkpoint.name, folder=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    rows = [re.split(r"  +", line) for line in finished.stdout.splitlines()]
    for row in (
        ["optimizer", "rmsprop"],
        ["parameters", "3 in 2 groups, 1,013 elements"],
        ["steps", "0 to 1"],
        ["file", f"{checkpoint.stat().st_size:,} bytes, its checksum is right"],
        ["format", f"2, written by rmsprop {rmsprop.__version__}"],
        ["hyperparameter", "group 0", "group 1 ([red]second[/red])"],
        ["lr", "0.5 (by a schedule)", "0.25"],
        ["momentum", "0.9", "0.9"],
        ["parameter", "group", "steps", "shape", "dtype", "state", "bytes"],
        ["weight", "0", "1", "3 x 4", "float64", "momentum_buffer, square_avg", "192"],
        ["größe", "0", "0", "scalar", "complex64", "momentum_buffer, square_avg", "16"],
        ["bias", "1", "1", "1000", "float32", "momentum_buffer, square_avg", "8,000"],
    ):
        assert row in rows


def test_inspect_prints_the_same_facts_with_rich_on_a_terminal(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")
    assert cli.main(["inspect", str(checkpoint)]) == 0
    plain = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert cli.main(["inspect", str(checkpoint)]) == 0
    captured = capsys.readouterr()
    drawn = re.sub(r"\x1b\[[0-9;]*m|[┏┳┓┃┡╇┩│┌┬┐├┼┤└┴┘━─]", " ", captured.out)
    assert drawn != captured.out
    assert drawn.split() == plain.split()
    assert "reading" in captured.err


def test_inspect_needs_no_rich(checkpoint: Path, tmp_path: Path) -> None:
    with_rich = run(*MODULE, "inspect", checkpoint.name, folder=tmp_path)
    finished = run(*without("rich", "inspect", checkpoint.name), folder=tmp_path)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, with_rich.stdout, "")


def test_inspect_of_a_file_that_is_no_checkpoint_is_an_error(checkpoint: Path, tmp_path: Path) -> None:
    content = checkpoint.read_bytes()
    (tmp_path / "damaged").write_bytes(content[:-40] + b"!" + content[-39:])
    (tmp_path / "foreign").write_text("nothing of ours\n" * 10)
    (tmp_path / "folder").mkdir()
    for name, problem in (
        ("damaged", "damaged: its checksum does not match its content"),
        ("foreign", "not a checkpoint of rmsprop, or damaged: its header is longer than the file"),
        ("folder", "Is a directory"),
        ("missing", "No such file or directory"),
    ):
        finished = run(*MODULE, "inspect", name, folder=tmp_path)
        assert (finished.returncode, finished.stdout) == (1, "")
        assert finished.stderr.startswith(f"rmsprop inspect: error: {name}: {problem}")
        assert len(finished.stderr.splitlines()) == 1


WRONG_FACTS = {
    "steps of lists": (("steps", [[1], 0, 0]), "step: got list, wanted an int"),
    "steps of texts": (("steps", ["x", 0, 0]), "step: got str, wanted an int"),
    "steps below 0": (("steps", [-5, 0, 0]), "step: got -5, wanted a count >= 0"),
    "no names": (
        ("param_groups", 0, "param_names", None),
        "param_groups[0]['param_names']: wanted a list with the name",
    ),
    "no parameters": (("param_groups", 0, "params", None), "param_groups[0]['params']: wanted a list with the number"),
    "a name that is none": (("param_groups", 1, "name", 7), "param_groups[1]['name']: got int, wanted a str"),
    "lr of a list": (("param_groups", 0, "lr", [1]), "param_groups[0]: lr: got list, wanted a number"),
    "lr of a text": (("param_groups", 0, "lr", "\x1b[2J"), "param_groups[0]: lr: got str, wanted a number"),
    "lr of a dict": (("param_groups", 0, "lr", {}), "param_groups[0]: lr: got dict, wanted a number"),
    "schedule of a list": (("param_groups", 0, "lr_is_schedule", [1]), "lr_is_schedule: got list, wanted a number"),
    "complex of lists": (("complex", [[]]), "'complex' in its header has '[]', which is no array"),
    "written by a list": (("written_by", []), "wanted format_version, written_by"),
}


@pytest.mark.parametrize(("change", "problem"), WRONG_FACTS.values(), ids=WRONG_FACTS)
def test_inspect_of_a_file_that_says_nonsense_is_an_error(
    change: tuple[Any, ...], problem: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each in a file whose checksum is right."""
    content = checkpoint.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    facts = json.loads(header["__metadata__"]["rmsprop checkpoint"])
    *places, last, value = change
    changed = facts
    for place in places:
        changed = changed[place]
    changed[last] = value
    header["__metadata__"]["rmsprop checkpoint"] = json.dumps(facts)
    text = json.dumps(header, separators=(",", ":")).encode()
    content = struct.pack("<Q", len(text)) + text + content[8 + length : -32]
    checkpoint.write_bytes(content + sha256(content).digest())
    assert cli.main(["inspect", str(checkpoint)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"rmsprop inspect: error: {checkpoint}: ")
    assert problem in captured.err
    assert len(captured.err.splitlines()) == 1


def test_names_from_a_file_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    rmsprop.RMSprop({"\x1b[2Jname": np.ones(1), "two\nlines": np.ones(1), "\udc80": np.ones(1)}).save(path)
    assert cli.main(["inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    for name in ("\\x1b[2Jname", "two\\nlines", "\\udc80"):
        assert f"\n{name} " in printed
