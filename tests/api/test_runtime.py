"""What a step runs on, and what importing the package does to a process."""

import platform
import shutil
from pathlib import Path

import numpy as np
import pytest

import rmsprop
from children import output_of, run_python

REFERENCE = Path(rmsprop.reference.__file__)


@pytest.mark.parametrize("name", rmsprop.instruction_sets().available)
def test_environment_variable_chooses_the_instruction_set(name):
    code = "import rmsprop; print(rmsprop.instruction_sets().chosen)"
    assert output_of(code, RMSPROP_ISA=name) == name


def test_the_best_instruction_set_is_chosen_when_none_is_named():
    code = "import rmsprop; print(rmsprop.instruction_sets().chosen)"
    assert output_of(code, RMSPROP_ISA="") == rmsprop.instruction_sets().available[0]


@pytest.mark.parametrize("name", ["sse9", "x86-64-v4 ", *rmsprop.instruction_sets().unavailable])
def test_unknown_or_unsupported_instruction_set_makes_the_import_fail(name):
    result = run_python("import rmsprop", RMSPROP_ISA=name)
    assert result.returncode == 1
    last_line = result.stderr.strip().splitlines()[-1]
    assert last_line.startswith("ImportError: RMSPROP_ISA: ")
    assert f"'{name}'" in last_line
    assert "supported here: " in last_line
    assert "baseline" in last_line


@pytest.fixture
def cpu_without_avx():
    """The command before a command that runs it on an emulated CPU of 2008."""
    if platform.machine() != "x86_64" or shutil.which("qemu-x86_64") is None:
        pytest.skip("needs an x86-64 machine with qemu-x86_64 (Debian: qemu-user)")
    # OpenBLAS, which NumPy brings, is one that may have been told to use the instructions of a later CPU.
    return ("env", "-u", "OPENBLAS_CORETYPE", "qemu-x86_64", "-cpu", "Nehalem")


def test_a_cpu_without_avx_takes_the_baseline_and_gets_the_same_bits(cpu_without_avx):
    code = """
        import numpy as np, rmsprop
        from rmsprop import reference
        assert rmsprop.instruction_sets() == (("baseline",), "baseline", ("x86-64-v4", "x86-64-v3"))
        grad = np.random.default_rng(0).standard_normal(30_003)
        param, expected, square_avg = np.ones((3, 30_003))
        rmsprop.functional.rmsprop_(param, grad, square_avg.copy(), lr=0.1, weight_decay=0.1, num_threads=2)
        reference.rmsprop_(expected, grad, square_avg, lr=0.1, weight_decay=0.1)
        assert param.tobytes() == expected.tobytes()
    """
    result = run_python(code, before=cpu_without_avx, timeout=300)
    assert result.returncode == 0, result.stderr


def test_a_cpu_without_avx_refuses_what_it_lacks(cpu_without_avx):
    result = run_python("import rmsprop", before=cpu_without_avx, timeout=300, RMSPROP_ISA="x86-64-v3")
    assert result.returncode == 1
    assert "ImportError: RMSPROP_ISA: instruction set 'x86-64-v3' is not supported by this CPU" in result.stderr


def test_baseline_is_always_available():
    sets = rmsprop.instruction_sets()
    assert sets.available[-1] == "baseline"
    assert sets.chosen in sets.available
    assert not set(sets.available) & set(sets.unavailable)


def test_number_of_threads_can_be_set_and_read():
    before = rmsprop.get_num_threads()
    try:
        rmsprop.set_num_threads(3)
        assert rmsprop.get_num_threads() == 3
    finally:
        rmsprop.set_num_threads(before)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "num_threads: got 0, wanted a number from 1 to 1024"),
        (-1, ValueError, "num_threads: got -1, wanted a number from 1 to 1024"),
        (1025, ValueError, "num_threads: got 1025, wanted a number from 1 to 1024"),
        (10**30, ValueError, f"num_threads: got {10**30}, wanted a number from 1 to 1024"),
        (True, TypeError, "num_threads: got bool, wanted an int or None"),
        (2.0, TypeError, "num_threads: got float, wanted an int or None"),
        ("2", TypeError, "num_threads: got str, wanted an int or None"),
        (None, TypeError, "num_threads: got None, wanted an int"),
    ],
)
def test_wrong_number_of_threads_is_an_error(value, error, message):
    before = rmsprop.get_num_threads()
    with pytest.raises(error) as raised:
        rmsprop.set_num_threads(value)
    assert str(raised.value) == message
    assert rmsprop.get_num_threads() == before


def test_show_config_names_everything_a_bug_report_needs(capsys):
    rmsprop.show_config()
    text = capsys.readouterr().out
    for wanted in (rmsprop.__version__, np.__version__, rmsprop.instruction_sets().chosen, "threads", "OpenMP"):
        assert wanted in text


def test_reference_needs_no_compiled_extension():
    code = f"""
        import runpy, sys
        sys.modules["rmsprop"] = None
        module = runpy.run_path({str(REFERENCE)!r})
        import numpy as np
        param, square_avg = np.ones(1), np.zeros(1)
        module["rmsprop_"](param, np.ones(1), square_avg, lr=0.1)
        print(param[0] < 1)
    """
    assert output_of(code) == "True"


def test_import_brings_in_nothing_heavy():
    code = """
        import sys, numpy
        before = set(sys.modules)
        import rmsprop
        print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
    """
    assert not set(output_of(code).split()) & {"argparse", "matplotlib", "rich", "safetensors", "sklearn", "torch"}


def test_a_step_allocates_nothing_that_grows_with_the_parameters():
    code = """
        import numpy as np, resource, rmsprop
        param, grad = np.ones(1 << 22), np.ones(1 << 22)
        views = [np.ones((1 << 11, 1 << 11)) for _ in range(2)]
        flat, strided = rmsprop.RMSprop(param, weight_decay=0.1), rmsprop.RMSprop(views[0], momentum=0.9)
        flat.step(grad)  # starts the threads
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        flat.step(grad)
        strided.step(views[1].T)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    pytest.importorskip("resource", reason="peak memory is read with the resource module")
    assert int(output_of(code)) < 1024  # KiB, where one array has 32 MiB
