"""`ci/slow` runs what it is asked for, reads its figures, and fails if any part did. The parts are stand-ins here."""

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

SLOW = Path(__file__).parents[2] / "ci" / "slow"

PRINTED = {
    "same-bits": "x86_64  clang++  - skipped: no clang++\n\n12 agree, 0 differ, 1 skipped",
    "crash-safety": (
        "contiguous        killed at a system call         70\n"
        "contiguous        killed at a random moment       $1\n"
        "contiguous        a system call failed            110\n"
        "another layout    the disk was full               not done: not root"
    ),
    "sanitizers": (
        "100% tests passed, 0 tests failed out of 50\n"
        "100% tests passed out of 20\n"
        "90% tests passed, 1 test failed out of 10\n"
        "SKIPPED [2] tests/test_x.py:3: PyTorch is not installed\n"
        "1200 passed, 2 skipped in 9.00s\n"
        "300 passed in 9.00s\n"
        "\n=== clean: cpp python (100s)"
    ),
    "fuzz": (
        "=== checkpoint, $2 seconds\nstat::number_of_executed_units: 12345\n"
        "=== arguments, $2 seconds\nstat::number_of_executed_units: 678"
    ),
    "state-machines": (
        "numpy: 90 runs, 4,000 steps in $2 s, and none differed\ntorch: 8 runs, 300 steps in $2 s, and none differed"
    ),
    "free-threaded": (
        "3.13t     interpreter       ok        300 s  3.13.15-1 of Debian\n"
        "3.13t     tests, no GIL     ok         90 s  25 passed in 89.10s\n"
        "3.15t     interpreter       skipped: no mirror has a source of python3.15"
    ),
    "mutants": (
        "AREA               MISTAKES  SEEN  EXPLAINED  MISSED   SHARE\n"
        "overlap                  28    25          2       1     96%\n"
        "all                     614   600          9       5     99%\n"
        "MISSED        9 cpp/x.cpp: a mistake"
    ),
}


@pytest.fixture
def folder(tmp_path):
    shutil.copy(SLOW, tmp_path / "slow")
    for name, text in PRINTED.items():
        stand_in(tmp_path / name, text)
    return tmp_path


def stand_in(path, text, exit_code=0):
    path.write_text(f"#!/bin/sh\ncat <<END\n{text}\nEND\nexit {exit_code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def run(folder, *arguments):
    command = [sys.executable, folder / "slow", "--logs", folder / "logs", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("jobs", [(), ("--jobs", "3")], ids=["one after the other", "side by side"])
def test_all_parts_run_and_their_figures_are_in_the_table(folder, jobs):
    result = run(folder, "--seconds", "7", "--kills", "30", *jobs)
    assert result.returncode == 0
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if " passed " in line}
    assert list(rows) == list(PRINTED)
    assert "12 agree, 0 differ, 1 skipped" in rows["same-bits"]
    assert "100 kills survived, 110 errors survived, 0 full disks survived" in rows["crash-safety"]
    assert "1,500 tests of Python and 79 of C++ passed; clean: cpp python" in rows["sanitizers"]
    assert "checkpoint: 12,345 inputs, arguments: 678 inputs" in rows["fuzz"]
    assert "numpy: 90 runs, 4,000 steps, torch: 8 runs, 300 steps" in rows["state-machines"]
    assert "3.13t: 25 passed" in rows["free-threaded"]
    assert "600 of 614 seen, 9 explained, 5 missed" in rows["mutants"]
    assert "=== checkpoint, 7 seconds" in (folder / "logs" / "fuzz.log").read_text()
    _, skipped = result.stdout.split("Skipped:\n")
    assert skipped.splitlines() == [
        "same-bits: x86_64 clang++ - skipped: no clang++",
        "crash-safety: another layout the disk was full not done: not root",
        "sanitizers: tests/test_x.py:3: PyTorch is not installed",
        "free-threaded: 3.15t interpreter skipped: no mirror has a source of python3.15",
    ]


def test_parts_that_may_run_side_by_side_do(folder):
    for name, other in (("fuzz", "state-machines"), ("state-machines", "fuzz")):
        wait = f"touch {folder}/{name}.began; while [ ! -e {folder}/{other}.began ]; do sleep 0.01; done"
        stand_in(folder / name, f"$({wait}){PRINTED[name]}")
    result = run(folder, "fuzz", "state-machines", "--jobs", "2")
    assert result.returncode == 0
    assert "checkpoint: 12,345 inputs" in result.stdout
    assert "numpy: 90 runs" in result.stdout


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_part_that_fails_fails_the_whole_and_the_others_still_run(folder, jobs):
    stand_in(folder / "same-bits", "11 agree, 1 differ, 0 skipped", exit_code=3)
    result = run(folder, "same-bits", "fuzz", "--jobs", jobs)
    assert result.returncode == 1
    assert "FAILED (3)" in result.stdout
    shown = result.stdout.split("PART")[0]
    assert "=== same-bits failed, the end of its log:\n11 agree, 1 differ" in shown
    assert "checkpoint: 12,345 inputs" in result.stdout
    assert "sanitizers" not in result.stdout


@pytest.mark.parametrize("arguments", ["all", "--seconds 0", "--kills many", "--jobs -1"])
def test_what_is_not_understood_is_an_error_before_anything_runs(folder, arguments):
    result = run(folder, *arguments.split())
    assert result.returncode == 2
    assert arguments.split()[-1] in result.stderr
    assert not (folder / "logs").exists()
