"""What the documentation shows is what happens."""

import ast
import doctest
import importlib
import re
import runpy
from pathlib import Path

import pytest

import rmsprop

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGE = Path(rmsprop.__file__).parent
TESTS = {path.relative_to(ROOT / "tests").as_posix(): path for path in (ROOT / "tests").rglob("test_*.*")}


def module_names():
    """Return all modules of the package, those of its subpackages too, without importing any."""
    paths = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.name != "__main__.py"]
    parts = [path.parts[:-1] if path.name == "__init__.py" else path.with_suffix("").parts for path in paths]
    return sorted(".".join(["rmsprop", *names]) for names in parts)


def test_all_modules_are_looked_at():
    assert {"rmsprop", "rmsprop.optimizers", "rmsprop._saving.checkpoint", "rmsprop.torch"} <= set(module_names())


@pytest.mark.parametrize("name", module_names())
def test_examples_in_docstrings_run(name):
    if name.startswith("rmsprop.torch"):
        pytest.importorskip("torch", reason="PyTorch is not installed")
    before = rmsprop.get_num_threads()
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    rmsprop.set_num_threads(before)
    assert results.failed == 0


@pytest.mark.parametrize(
    "function",
    [
        rmsprop.RMSprop,
        rmsprop.Adagrad,
        rmsprop.RMSprop.step,
        rmsprop.functional.rmsprop_,
        rmsprop.functional.adagrad_,
        rmsprop.set_num_threads,
        rmsprop.instruction_sets,
    ],
)
def test_public_docstrings_have_an_example(function):
    assert ">>> " in function.__doc__
    assert function.__module__ in module_names(), "where its examples are run"


@pytest.mark.parametrize("optimizer", [rmsprop.RMSprop, rmsprop.Adagrad])
def test_every_argument_is_documented(optimizer):
    arguments = set(optimizer.__init__.__annotations__) - {"return"}
    assert {"params", "lr", "eps", "num_threads"} <= arguments
    arguments_section = optimizer.__doc__.partition("Args:")[2].partition("Raises:")[0]
    documented = set(re.findall(r"^        (\w+): ", arguments_section, re.MULTILINE))
    assert documented == arguments


def test_example_in_the_readme_runs(tmp_path, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(example)
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out.strip()
    (shown,) = re.findall(r"^print\(.*#\s*(.*)$", example, re.MULTILINE)
    assert printed == shown


def test_pictures_and_pages_that_the_readme_names_exist():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert len(targets) > 5
    assert [target for target in targets if not (ROOT / target).is_file()] == []


def is_in(path, name):
    """Tell whether a file has a test of this name, or, under this name, one of a table of programs or of C++ cases."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py" and name.startswith("test_"):
        return name in {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    return f'"{name}"' in text


def test_every_test_that_the_page_of_promises_names_exists():
    page = (ROOT / "docs/promises.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+\.(?:py|cpp))::([^`]+)`", page))
    assert len(named) > 80
    names = [path.name for path in TESTS.values()]
    place = {**TESTS, **{path.name: path for path in TESTS.values() if names.count(path.name) == 1}}
    assert not sorted(f"{file}::{name}" for file, name in named if file not in place or not is_in(place[file], name))
    paths = {path.rstrip(".") for path in re.findall(r"(?:tests|ci)/[\w./*-]+", page)}
    assert len(paths) > 5
    assert [path for path in sorted(paths) if not list(ROOT.glob(path))] == []


def test_a_test_that_is_not_there_is_noticed():
    assert not is_in(Path(__file__), "test_of_what_nobody_wrote")
    assert not is_in(ROOT / "tests/cpp/test_step.cpp", "a step writes poems")
