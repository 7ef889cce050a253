"""The engine as a C++ library: what is installed works without Python, and in a project that has it as a part."""

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "cpp"
HEADERS = sorted(path.name for path in (ROOT / "cpp" / "include" / "rmsprop").iterdir())
WARNINGS = "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Werror"

pytestmark = pytest.mark.timeout(900)  # compiles


def attempt(*command, text=None, **environment):
    return subprocess.run(
        command,
        input=text,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )


def run(*command, **keywords):
    """Return what a command prints; it has to succeed."""
    result = attempt(*command, **keywords)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}"
    return result.stdout


def build(source, folder, *definitions):
    run("cmake", "-S", source, "-B", folder, "-G", "Ninja", *definitions)
    run("cmake", "--build", folder)


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """Where the C++ library was installed."""
    folder = tmp_path_factory.mktemp("library")
    build(ROOT, folder / "build", "-DCMAKE_INSTALL_LIBDIR=lib")
    run("cmake", "--install", folder / "build", "--prefix", folder / "prefix")
    # Nothing may depend on the folders it was made in.
    shutil.move(folder / "prefix", folder / "moved")
    shutil.rmtree(folder / "build")
    return folder / "moved"


def losses_of(program):
    """Return the columns of the table that the example prints."""
    head, *rows = [line.split() for line in run(program).splitlines()]
    assert head == ["step", "Adagrad", "RMSprop"]
    return [[float(row[column]) for row in rows] for column in (1, 2)]


def assert_learns(program):
    adagrad, rmsprop = losses_of(program)
    assert adagrad[0] == rmsprop[0]
    assert all(later < earlier for losses in (adagrad, rmsprop) for earlier, later in itertools.pairwise(losses))
    assert rmsprop[-1] < adagrad[-1] / 2


def test_install_has_headers_library_and_package(prefix):
    wanted = {f"include/rmsprop/{name}" for name in HEADERS} | {"lib/librmsprop.a"}
    wanted |= {f"lib/cmake/rmsprop/rmsprop-{part}.cmake" for part in ("config", "config-version", "targets")}
    assert files_below(prefix) == wanted | {"lib/cmake/rmsprop/rmsprop-targets-release.cmake"}


def test_example_trains_with_the_installed_library(prefix, tmp_path):
    build(EXAMPLE, tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}", WARNINGS)
    assert_learns(tmp_path / "train")


@pytest.mark.parametrize(
    "inclusion",
    [
        f'add_subdirectory("{ROOT.as_posix()}" rmsprop)',
        f'include(FetchContent)\nFetchContent_Declare(rmsprop SOURCE_DIR "{ROOT.as_posix()}")\n'
        "FetchContent_MakeAvailable(rmsprop)",
    ],
    ids=["add_subdirectory", "FetchContent"],
)
def test_example_trains_with_the_library_as_a_part_of_its_project(inclusion, tmp_path):
    project = re.sub(r"find_package\(rmsprop .*\)", lambda _: inclusion, (EXAMPLE / "CMakeLists.txt").read_text())
    assert inclusion in project
    (tmp_path / "CMakeLists.txt").write_text(project + "install(TARGETS train)\n")
    shutil.copy(EXAMPLE / "main.cpp", tmp_path)
    build(tmp_path, tmp_path / "build", WARNINGS)
    assert_learns(tmp_path / "build" / "train")
    run("cmake", "--install", tmp_path / "build", "--prefix", tmp_path / "prefix")
    assert files_below(tmp_path / "prefix") == {"bin/train"}


def test_example_of_the_page_prints_what_it_says(prefix, tmp_path):
    page = (ROOT / "docs" / "cpp.md").read_text(encoding="utf-8")
    for language, name in (("cmake", "CMakeLists.txt"), ("cpp", "main.cpp")):
        (code,) = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
        (tmp_path / name).write_text(code)
    build(tmp_path, tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}", WARNINGS)
    (shown,) = re.findall(r"printf\(.*//\s*(.*)$", (tmp_path / "main.cpp").read_text(), re.MULTILINE)
    assert run(tmp_path / "build" / "app").strip() == shown


@pytest.mark.parametrize("compiler", ["c++", "clang++"])
def test_every_header_stands_alone(compiler, prefix, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"the compiler {compiler} is not installed")
    source = tmp_path / "twice.cpp"
    for name in HEADERS:
        source.write_text(f"#include <rmsprop/{name}>\n#include <rmsprop/{name}>\n")
        run(compiler, "-std=c++20", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", prefix / "include", source)


@pytest.mark.parametrize("version", ["0.0", "0.2", "1"])
def test_package_refuses_to_stand_in_for_another_minor_version(version, prefix, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.18)\nproject(app CXX)\nfind_package(rmsprop {version} REQUIRED)\n"
    )
    result = attempt("cmake", "-S", tmp_path, "-B", tmp_path / "build", "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}")
    assert result.returncode != 0
    assert f'compatible with requested version "{version}"' in " ".join(result.stdout.split())


def test_everything_public_is_documented(tmp_path):
    """Doxygen finds a comment at every type, function and member of the public headers, and nothing wrong in any."""
    if shutil.which("doxygen") is None:
        pytest.skip("doxygen is not installed, so the comments of the public headers cannot be read")
    settings = {
        "INPUT": ROOT / "cpp" / "include",
        "RECURSIVE": "YES",
        "OUTPUT_DIRECTORY": tmp_path,
        "GENERATE_HTML": "NO",
        "GENERATE_LATEX": "NO",
        "GENERATE_XML": "YES",
        "QUIET": "YES",
        "WARN_AS_ERROR": "FAIL_ON_WARNINGS",
    }
    run("doxygen", "-", text="".join(f'{name} = "{value}"\n' for name, value in settings.items()))
    documented = (tmp_path / "xml" / "index.xml").read_text()
    for name in ("step", "dense_tensor", "make_update", "set_num_threads"):
        assert f"<name>{name}</name>" in documented
