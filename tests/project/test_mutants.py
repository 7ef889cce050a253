"""`ci/mutants` tells mistakes that a test sees from those that none does, and its list fits the files that are here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MUTANTS = ROOT / "ci" / "mutants"

PROJECT = {
    "python/thing/__init__.py": "def double(x):\n    return 2 * x\n\n\ndef half(x):\n    y = x\n    return y / 2\n",
    "tests/test_double.py": "import thing\n\ndef test_double():\n    assert thing.double(3) == 6\n",
    "tests/test_half.py": "import thing\n\ndef test_half():\n    assert thing.half(0) == 0\n",
}
AREAS = """\
@ first: python/* -> tests/test_double.py tests/test_half.py
"""
SEEN = """
# three times as much
python/thing/__init__.py
- return 2 * x
+ return 3 * x
"""
MISSED = """
# the whole of it
python/thing/__init__.py
- y = x
- return y / 2
+ y = x
+ return y
"""
EXPLAINED = """
# another way round
python/thing/__init__.py
- return 2 * x
+ return x * 2
= A product does not depend on the order.
"""
SEES_IT_NOT = SEEN.replace("2 * x", "4 * x")


@pytest.fixture
def run(tmp_path):
    """A function that runs the script on a small project, with some entries in its list."""
    project = tmp_path / "project"
    for name, text in PROJECT.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)

    def run(*entries, options=()):
        path = project / "mutants.txt"
        path.write_text("\n".join([AREAS, *entries]))
        command = [sys.executable, MUTANTS, "--list", path, "--root", project, "--outcomes", tmp_path / "outcomes"]
        return subprocess.run([*command, *options], capture_output=True, text=True, timeout=250, check=False)

    run.project = project
    return run


def rows(result):
    """Return the numbers of each line of the table."""
    return {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.endswith("%")}


def test_mistakes_that_no_test_sees_are_named_and_are_too_many(run):
    result = run(SEEN, MISSED, EXPLAINED)
    assert result.returncode == 1, result.stderr
    assert rows(result) == {"first": ["3", "1", "1", "1", "50%"], "all": ["3", "1", "1", "1", "50%"]}
    assert "1 three times as much: tests/test_double.py::test_double" in result.stdout
    assert "MISSED        2 python/thing/__init__.py: the whole of it" in result.stdout
    assert "A product does not depend on the order." in result.stdout
    assert {name: (run.project / name).read_text() for name in PROJECT} == PROJECT


def test_it_is_enough_if_all_are_seen_or_explained_and_an_outcome_is_kept(run):
    assert run(SEEN, EXPLAINED).returncode == 0
    again = run(EXPLAINED, SEEN)
    assert again.returncode == 0
    assert "2 of 2 have an outcome from an earlier run" in again.stdout
    assert rows(again)["all"] == ["2", "1", "1", "0", "100%"]
    with (run.project / "tests" / "test_half.py").open("a") as file:  # other files: all is tried again
        file.write("\n")
    assert "earlier run" not in run(SEEN, options=["--jobs", "2"]).stdout


def test_the_test_that_saw_a_mistake_comes_first_and_need_not_see_it_again(run):
    def write(name, body):
        (run.project / "tests" / f"test_{name}.py").write_text(f"import thing\n\ndef test_{name}():\n    {body}\n")

    assert run(SEEN, MISSED).returncode == 1
    write("half", "assert thing.half(2) == 1")
    kept = run(SEEN, MISSED, options=["--kept"])
    assert kept.returncode == 0
    assert "1 of 2 have an outcome from an earlier run" in kept.stdout
    write("double", "assert thing.half(2) == 2")  # would fail before, and without the mistake too
    again = run(MISSED)
    assert again.returncode == 0, again.stderr
    assert "the whole of it: tests/test_half.py::test_half" in again.stdout


def test_some_of_the_list_can_be_chosen(run):
    assert rows(run(MISSED, SEEN, options=["--only", "2"]))["all"] == ["1", "1", "0", "0", "100%"]
    assert run(SEEN, options=["--area", "second"]).returncode == 2


def test_tests_that_fail_anyway_see_nothing(run):
    (run.project / "tests" / "test_half.py").write_text("def test_half():\n    assert False\n")
    result = run(MISSED, SEEN)
    assert result.returncode == 2
    assert "1 (the whole of it): tests/test_half.py::test_half fails without it as well" in result.stderr
    assert "2 three times as much: tests/test_double.py::test_double" in result.stdout


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (SEES_IT_NOT, "1 (three times as much): python/thing/__init__.py has it 0 times, wanted once"),
        (SEEN.replace("- return 2 * x", "-"), "has it 3 times, wanted once"),
        (SEEN.replace("thing/__init__", "nothing"), "there is no python/nothing.py"),
        (SEEN.replace("python/", "cpp/"), "cpp/thing/__init__.py is in no area"),
        (SEEN.replace("+ return 3 * x", "+ return 2 * x"), "wanted '# WHAT', a path, and as many lines"),
        (SEEN.replace("# three", "three"), "wanted '# WHAT', a path, and as many lines"),
        ("@ second: python/*", "wanted '@ AREA: PATTERNS -> TESTS'"),
        ("@ second: x/* -> tests/none.py\n\n# what\nx/y\n- a\n+ b", "there is no tests/none.py"),
    ],
)
def test_a_list_that_does_not_fit_is_an_error_before_anything_runs(run, entry, message):
    result = run(entry, options=["--check"])
    assert result.returncode == 2
    assert message in result.stderr


def test_every_entry_of_the_list_fits_one_place():
    if not (ROOT / "ci" / "mutants.txt").exists() or not (ROOT / "python").is_dir():
        pytest.skip("the list is for the package's source")
    result = subprocess.run(
        [sys.executable, MUTANTS, "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    counts = dict(re.findall(r"^(\S.*?) +(\d+)$", result.stdout, re.MULTILINE))
    assert int(counts["all"]) >= 200


def test_which_test_saw_a_mistake_can_be_recorded_and_comes_first_elsewhere(run, tmp_path):
    assert run(MISSED.replace("y = x\n+ return y", "y = x + 1\n+ return y / 2")).returncode == 0
    assert run(MISSED.replace("y = x\n+ return y", "y = x + 1\n+ return y / 2"), options=["--record"]).returncode == 0
    (record,) = (run.project / "mutants-seen.txt").read_text().splitlines()
    assert record.endswith(" tests/test_half.py::test_half")
    (tmp_path / "outcomes").unlink()
    (run.project / "tests" / "test_double.py").write_text("raise SystemExit('not to be run')\n")
    assert run(MISSED.replace("y = x\n+ return y", "y = x + 1\n+ return y / 2")).returncode == 0
