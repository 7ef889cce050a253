"""Each program of bench/ starts from any folder, and commands in the documentation are ones that it accepts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import compare

ROOT = Path(compare.__file__).parents[1]
PROGRAMS = sorted([*(ROOT / "bench").glob("*.py"), *(ROOT / "bench" / "studies").glob("*.py")])
NAMES = [path.relative_to(ROOT).as_posix() for path in PROGRAMS]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "bench" / "README.md"]


@pytest.fixture(scope="module")
def helps(tmp_path_factory):
    """Return what each program prints for --help, started in another folder."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    command = {name: [sys.executable, str(path), "--help"] for name, path in zip(NAMES, PROGRAMS, strict=True)}
    return {
        name: subprocess.run(words, cwd=elsewhere, capture_output=True, text=True, check=True, timeout=60).stdout
        for name, words in command.items()
    }


def test_the_programs_are_those_that_are_run_again_and_again_and_the_rest_lies_below():
    on_top = [f"bench/{name}.py" for name in ("busy_machine", "compare", "regressions", "report", "scaling")]
    studies = ("data_loaders", "growth", "openmp_runtimes", "placement", "subnormals")
    assert on_top + [f"bench/studies/{name}.py" for name in studies] == NAMES


def test_peers_know_nothing_of_the_harness():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "bench" / "peers").glob("*.py")]
    assert len(texts) > 9
    assert not any(re.search(r"^\s*(from|import) (harness|compare|scaling)", text, re.MULTILINE) for text in texts)


@pytest.mark.parametrize("name", NAMES)
def test_every_program_explains_itself(name, helps):
    assert helps[name].startswith("usage: ")
    options = re.findall(r"add\w*\(\s*\"(--[\w-]+)\"(?!.*SUPPRESS)", (ROOT / name).read_text(encoding="utf-8"))
    assert options
    assert all(option in helps[name] for option in options)


def test_commands_in_the_documentation_name_programs_and_options_that_exist(helps):
    commands = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        commands += re.findall(r"python (bench/[\w/]+\.py)([^`|&\n>]*)", text)
    assert len({name for name, _ in commands}) > 4
    for name, arguments in commands:
        assert name in NAMES, name
        for option in re.findall(r"--[\w-]+", arguments):
            assert option in helps[name], f"{name} has no {option}"
