"""The CMake option RMSPROP_SHIP_OPENMP, on a module of one function: `ci/wheels` tests whole wheels, in minutes."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROJECT = f"""
cmake_minimum_required(VERSION 3.18...4.0)
project(probe CXX)
list(APPEND CMAKE_MODULE_PATH "{ROOT / "cmake"}")
include(ShipOpenMP)
if(WITH_OPENMP)
  find_package(OpenMP REQUIRED COMPONENTS CXX)
endif()
add_library(_core MODULE core.cpp)
if(WITH_OPENMP)
  target_link_libraries(_core PRIVATE OpenMP::OpenMP_CXX)
endif()
rmsprop_ship_openmp(_core)
install(TARGETS _core LIBRARY DESTINATION rmsprop COMPONENT python)
"""
MODULE = "#include <omp.h>\nint threads() { return omp_get_max_threads(); }\n"


def cmake(*arguments):
    return subprocess.run(
        ["cmake", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def configured(tmp_path):
    """A function that configures the project with some definitions, and returns the outcome and the build folder."""
    if platform.system() != "Linux" or shutil.which("g++") is None:
        pytest.skip("a copy of GCC's runtime is for Linux, and needs g++")
    (tmp_path / "CMakeLists.txt").write_text(PROJECT)
    (tmp_path / "core.cpp").write_text(MODULE)
    build = tmp_path / "build"

    def configure(*definitions):
        return cmake("-S", tmp_path, "-B", build, "-G", "Ninja", "-DCMAKE_CXX_COMPILER=g++", *definitions), build

    return configure


def install(build):
    """Build and install, and return the folder of the package."""
    prefix = build.parent / "prefix"
    for arguments in (("--build", build), ("--install", build, "--prefix", prefix, "--component", "python")):
        result = cmake(*arguments)
        assert result.returncode == 0, result.stdout
    return prefix / "rmsprop"


def resolved(module):
    """Return the library that the loader takes for libgomp.so.1."""
    printed = subprocess.run(["ldd", module], capture_output=True, text=True, timeout=60, check=True).stdout
    return Path(re.search(r"libgomp\.so\.1 => (\S+)", printed).group(1))


def test_the_copy_has_the_name_that_all_know_and_is_the_one_that_is_loaded(configured):
    result, build = configured("-DWITH_OPENMP=ON", "-DRMSPROP_SHIP_OPENMP=ON")
    assert result.returncode == 0, result.stdout
    package = install(build)
    assert {path.name for path in package.iterdir()} == {"lib_core.so", "libgomp.so.1", "libgomp-licence.txt"}
    assert not (package / "libgomp.so.1").is_symlink()
    assert resolved(package / "lib_core.so").resolve() == package / "libgomp.so.1"


def test_without_the_option_nothing_is_shipped(configured):
    _, build = configured("-DWITH_OPENMP=ON")
    package = install(build)
    assert {path.name for path in package.iterdir()} == {"lib_core.so"}
    assert resolved(package / "lib_core.so").parent != package


def test_a_build_without_gccs_runtime_is_refused(configured):
    result, _ = configured("-DWITH_OPENMP=OFF", "-DRMSPROP_SHIP_OPENMP=ON")
    assert result.returncode != 0
    assert "RMSPROP_SHIP_OPENMP: the OpenMP runtime of this compiler is ''" in " ".join(result.stdout.split())


def test_a_copy_without_the_texts_of_its_licence_is_refused(configured):
    ours = ROOT / "LICENSE"
    result, _ = configured("-DWITH_OPENMP=ON", "-DRMSPROP_SHIP_OPENMP=ON", f"-DRMSPROP_LIBGOMP_LICENCE={ours}")
    assert result.returncode != 0
    assert f"found no 'GNU GENERAL PUBLIC LICENSE' in '{ours}'" in " ".join(result.stdout.split())


def test_the_levels_of_x86_64_follow_the_compiler_and_not_the_processor_that_cmake_was_told(tmp_path):
    """On macOS the processor that CMake knows is the one it runs on, whatever it compiles for."""
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if compiler is None:
        pytest.skip("needs a compiler for another processor (Debian: g++-aarch64-linux-gnu)")
    result = cmake(
        *("-S", ROOT, "-B", tmp_path, "-G", "Ninja", f"-DCMAKE_CXX_COMPILER={compiler}"),
        *("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=x86_64", "-DRMSPROP_OPENMP=OFF"),
    )
    assert result.returncode == 0, result.stdout
    objects = re.findall(r"build \S*rmsprop_kernels_(\w+)\.dir\S*\.o:", (tmp_path / "build.ninja").read_text())
    assert objects == ["baseline"]
