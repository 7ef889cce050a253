"""What the package shows of itself: modules, signatures, and types for checkers."""

import ast
import functools
import importlib.util
import inspect
import re
import subprocess
import sys
import tempfile
import typing
from pathlib import Path

import pytest

import rmsprop

OPTIMIZERS = (rmsprop.RMSprop, rmsprop.Adagrad)
SNIPPETS = Path(__file__).parent / "snippets"
CHECKERS = {
    "mypy": ["mypy", "--strict", "--no-error-summary", "--python-executable", sys.executable],
    "basedpyright": ["basedpyright", "--level", "error", "--pythonpath", sys.executable],
}


@pytest.mark.parametrize("thing", [*OPTIMIZERS, rmsprop.functional.rmsprop_, rmsprop.functional.adagrad_])
def test_signature_can_be_read_and_its_types_can_be_found(thing):
    shown = str(inspect.signature(thing))
    function = thing.__init__ if isinstance(thing, type) else thing
    assert len(shown) < 1000
    assert "ndarray" not in shown
    assert "typing." not in shown
    assert typing.get_type_hints(function).keys() >= inspect.signature(thing).parameters.keys()


@pytest.mark.parametrize("name", ["convert", "functional", "presets", "reference", "schedules"])
def test_modules_are_attributes_of_the_package(name):
    """In a process of its own, where nothing has imported them before."""
    program = f"import sys, rmsprop; assert rmsprop.{name} is sys.modules['rmsprop.{name}']"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert name in rmsprop.__all__


def test_importing_the_package_imports_nothing_that_few_programs_need():
    program = "import sys, rmsprop; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=60, capture_output=True, text=True
    ).stdout.split()
    assert "rmsprop.optimizers" in modules
    assert not {"rmsprop.convert", "rmsprop.presets", "rmsprop.schedules", "safetensors", "torch"} & {*modules}


@functools.cache
def lines_with_errors(checker):
    """Return the lines of each snippet where a checker finds an error, and what it says, without any settings."""
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    files = [SNIPPETS / "accepted.py", SNIPPETS / "rejected.py"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", *CHECKERS[checker], *map(str, files)]
        said = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert said.returncode in (0, 1), said.stdout + said.stderr
    lines = {file.name: re.findall(rf"{file.name}:(\d+)\b.*error", said.stdout) for file in files}
    return {name: set(map(int, found)) for name, found in lines.items()}, said.stdout


@pytest.mark.parametrize("checker", CHECKERS)
def test_checkers_accept_all_that_runs(checker):
    found, said = lines_with_errors(checker)
    assert not found["accepted.py"], said


@pytest.mark.parametrize("checker", CHECKERS)
def test_checkers_reject_mistakes_and_nothing_else(checker):
    lines = (SNIPPETS / "rejected.py").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert len(wrong) > 10
    found, said = lines_with_errors(checker)
    assert found["rejected.py"] == wrong, said


def test_snippets_that_checkers_accept_run():
    program = (SNIPPETS / "accepted.py").read_text()
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_signature_has_the_hyperparameters_of_the_table_and_their_defaults(optimizer):
    parameters = inspect.signature(optimizer).parameters
    table, options = rmsprop._core.rules[optimizer.rule], {"params", "nonfinite", "num_threads"}
    assert parameters.keys() - options == set(table.hyperparameters) == table.defaults.keys()
    for name in parameters.keys() - options - {"lr"}:
        assert parameters[name].default == table.defaults[name], name


def test_package_is_marked_as_typed():
    package = Path(rmsprop.__file__).parent
    assert (package / "py.typed").is_file()
    assert (package / "_core.pyi").is_file()


def test_types_of_the_compiled_engine_have_all_its_names():
    tree = ast.parse((Path(rmsprop.__file__).parent / "_core.pyi").read_text())
    described = {name for node in tree.body for name in defined_by(node)}
    assert {name for name in dir(rmsprop._core) if name == "__version__" or not name.startswith("_")} <= described
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and hasattr(rmsprop._core, node.name):
            own = vars(getattr(rmsprop._core, node.name)).keys()
            described = {name for item in node.body for name in defined_by(item)}
            assert {name for name in own if not name.startswith("_")} == described - {
                "__init__",
                "__enter__",
                "__exit__",
            }, node.name


def defined_by(node):
    """Return the names that a statement of a stub defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.AnnAssign):
        return [node.target.id]
    return [target.id for target in node.targets] if isinstance(node, ast.Assign) else []


def test_types_of_the_compiled_engine_are_those_at_run_time(tmp_path):
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    allowed = tmp_path / "allowed"
    # pybind11 has a metaclass of its own, and marks its enums.
    allowed.write_text(
        "rmsprop\\._core\\.(Hold|Rule|Stepper)\nrmsprop\\._core\\.(Hold|Rule)\\.__init__\nrmsprop\\._core\\..*__pybind11_native_enum__\n"
    )
    command = [sys.executable, "-m", "mypy.stubtest", "rmsprop._core", "--concise", "--ignore-unused-allowlist"]
    said = subprocess.run([*command, "--allowlist", str(allowed)], cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr
