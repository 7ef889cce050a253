"""Threads that step and change whatever a step looks at: each step is whole, with right bits, or a RuntimeError.

With the GIL as without it; `ci/free-threaded` runs these where there is none.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import racing

# Memory that is freed goes back to the operating system at once, so that a stale pointer is a crash and not luck.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(racing.__file__).parent), "MALLOC_MMAP_THRESHOLD_": "16384"}


def run(code):
    """Run code in a Python of its own, so that a crash is one failed test."""
    return subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.mark.parametrize("name", racing.PROGRAMS)
def test_every_step_is_whole_or_refused_while(name):
    result = run(f"import racing; racing.run({name!r})")
    assert result.returncode == 0, f"{result.returncode}: {result.stderr}"
    assert result.stdout == "came to its end\n"


def test_the_package_does_not_switch_the_gil_on():
    if not hasattr(sys, "_is_gil_enabled"):
        pytest.skip("this Python is always with the GIL")
    if os.environ.get("PYTHON_GIL") == "1" or sys._is_gil_enabled():
        pytest.skip("the GIL is on for another reason")
    result = run("import sys, rmsprop; print(sys._is_gil_enabled())")
    assert (result.stdout, result.stderr) == ("False\n", "")


def test_an_error_in_a_thread_is_one_of_the_program():
    def fail():
        assert racing.same(racing.np.zeros(1), racing.np.ones(1))

    with pytest.raises(AssertionError):
        racing.together(fail, lambda: None)
