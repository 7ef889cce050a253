"""No test hangs for ever, wherever it hangs."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HANGS = """
import threading

def test_that_hangs():
    threading.Event().wait()

def test_after_it():
    pass
"""
# Waits for itself, with the GIL: no signal handler of Python's gets its turn.
HANGS_IN_COMPILED_CODE = """
import ctypes

def test_that_hangs():
    mutex = ctypes.create_string_buffer(128)
    lock = ctypes.PyDLL(None).pthread_mutex_lock
    lock(mutex)
    lock(mutex)

def test_after_it():
    pass
"""


def run(folder, program, *options):
    """Run tests under the settings of this project, with shorter limits."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "test_hanging.py").write_text(program)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "test_hanging.py"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_test_that_hangs_fails_and_the_others_still_run(tmp_path):
    if platform.system() == "Windows":
        pytest.skip("without SIGALRM the whole run ends")
    result = run(tmp_path, HANGS, "-o", "timeout=2")
    assert "1 failed, 1 passed" in result.stdout
    assert "FAILED test_hanging.py::test_that_hangs" in result.stdout
    assert re.search(r"^>\s+threading\.Event\(\)\.wait\(\)", result.stdout, re.MULTILINE), "where it hung"


def test_a_test_that_hangs_in_compiled_code_ends_the_run_and_shows_where(tmp_path):
    if platform.system() != "Linux":
        pytest.skip("a mutex of all zeros is one that is free on Linux")
    result = run(tmp_path, HANGS_IN_COMPILED_CODE, "-o", "timeout=1", "-o", "faulthandler_timeout=3")
    assert result.returncode == 1
    assert re.search(r'test_hanging\.py", line 8 in test_that_hangs', result.stderr)
    assert "passed" not in result.stdout


def test_there_are_limits_and_the_one_that_ends_the_run_is_the_longest():
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (limit,) = map(int, re.findall(r"^timeout = (\d+)$", settings, re.MULTILINE))
    (last,) = map(int, re.findall(r"^faulthandler_timeout = (\d+)$", settings, re.MULTILINE))
    files = list((ROOT / "tests").rglob("test_*.py"))
    marks = [
        int(seconds) for file in files for seconds in re.findall(r"mark\.timeout\((\d+)\)", file.read_text("utf-8"))
    ]
    assert marks
    assert limit < min(marks)
    assert max(marks) < last


def test_whatever_installs_pytest_by_name_installs_what_knows_the_limits():
    files = [path for folder in ("ci", ".ci", ".github/workflows") for path in (ROOT / folder).glob("*")]
    lines = [
        (path.name, line)
        for path in [*files, ROOT / "pyproject.toml"]
        if path.is_file()
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"""["' ](python3-)?pytest(>=[\d.]+)?["'].*hypothesis""", line)
    ]
    assert {"pyproject.toml", "wheels", "debian"} <= {name for name, _ in lines}
    assert not [(name, line) for name, line in lines if "pytest-timeout" not in line]
