"""The C++ engine on its own: compiled with warnings as errors, tested without Python, and its objects looked at."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import rmsprop

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(900)  # compiles


def run(*command):
    """Return what a command prints; it has to succeed."""
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900, check=False
    )
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}"
    return result.stdout


def configure(folder, *definitions):
    return run("cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "-DRMSPROP_WARNINGS_AS_ERRORS=ON", *definitions)


def has_cmake_package(name, folder):
    """Whether CMake finds a package on this machine."""
    folder.mkdir()
    project = f"cmake_minimum_required(VERSION 3.18)\nproject(probe CXX)\nfind_package({name} CONFIG)\n"
    (folder / "CMakeLists.txt").write_text(f'{project}message("found: ${{{name}_FOUND}}")\n')
    return "found: 1" in run("cmake", "-S", folder, "-B", folder / "build", "-G", "Ninja", "-Wno-dev")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A build folder with the engine."""
    folder = tmp_path_factory.mktemp("engine")
    configure(folder, "-DRMSPROP_BUILD_SAME_BITS=ON")
    run("cmake", "--build", folder)
    return folder


def clang():
    return shutil.which("clang++-19") or shutil.which("clang++") or "clang++"


AARCH64 = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")
CROSS_COMPILER = "aarch64-linux-gnu-g++"  # Clang takes headers and libraries from it
TOOLCHAINS = {
    "c++": ([], "objdump", []),
    "clang++": ([clang()], "objdump", []),
    CROSS_COMPILER: ([CROSS_COMPILER], "aarch64-linux-gnu-objdump", AARCH64),
    "clang++ for aarch64": (
        [clang(), CROSS_COMPILER],
        "aarch64-linux-gnu-objdump",
        [*AARCH64, "-DCMAKE_CXX_COMPILER_TARGET=aarch64-linux-gnu"],
    ),
}
"""For compilers and machines: the compiler and what else it needs, what disassembles, and options of CMake."""


@pytest.fixture(scope="module", params=TOOLCHAINS)
def toolchain(request):
    compilers, *_ = TOOLCHAINS[request.param]
    for command in compilers:
        if shutil.which(command) is None:
            pytest.skip(f"{command} is not installed (Debian: clang-19 g++-aarch64-linux-gnu)")
    return request.param


@pytest.fixture(scope="module")
def kernel_objects(toolchain, request, tmp_path_factory):
    """The object file of each instruction set."""
    compilers, _, options = TOOLCHAINS[toolchain]
    if compilers:
        folder = tmp_path_factory.mktemp("kernels")
        configure(folder, f"-DCMAKE_CXX_COMPILER={compilers[0]}", *options, "-DRMSPROP_OPENMP=OFF")
        run("cmake", "--build", folder, "--target", "rmsprop")
    else:
        folder = request.getfixturevalue("engine")
    paths = folder.rglob("kernels.cpp.o")
    by_name = {re.search(r"kernels_(\w+)\.dir", path.as_posix()).group(1): path for path in paths}
    assert "baseline" in by_name
    return by_name


@pytest.fixture(scope="module")
def disassembly(toolchain, kernel_objects):
    objdump = TOOLCHAINS[toolchain][1]
    if shutil.which(objdump) is None:
        pytest.skip(f"{objdump} (binutils) is not installed, so the objects cannot be disassembled")
    return {name: run(objdump, "-d", "--no-show-raw-insn", path) for name, path in kernel_objects.items()}


# Names of packed and of fused instructions, on x86-64 (with and without the prefix v) and on aarch64.
PACKED_ROOT = re.compile(r"\s(v?sqrtp([sd])\s|fsqrt\s+v\d+\.\d([sd]))")
PACKED_DIVIDE = re.compile(r"\s(v?divp([sd])\s|fdiv\s+v\d+\.\d([sd]))")
FUSED = re.compile(r"\s(vfn?m(add|sub)\w*|fn?m(add|sub|la|ls)\w*)\s")
APPROXIMATE = re.compile(r"\s(v?rsqrt\w*|v?rcp\w*|frsqrte|frecpe)\s")


def types_of(pattern, text):
    return {match.group(2) or match.group(3) for match in pattern.finditer(text)}


def test_kernels_use_packed_roots_and_divisions_in_both_types(disassembly):
    for name, text in disassembly.items():
        assert types_of(PACKED_ROOT, text) == {"s", "d"}, name
        assert types_of(PACKED_DIVIDE, text) == {"s", "d"}, name


def test_wider_instruction_sets_use_their_wider_registers(disassembly, toolchain):
    widest = "%ymm" if toolchain == "clang++" else "%zmm"  # Clang takes half of them even where it might take all
    for name, register in {"x86_64_v3": "%ymm", "x86_64_v4": widest}.items():
        if name in disassembly:
            assert re.search(rf"vsqrtps\s+.*{register}", disassembly[name]), name


def test_kernels_have_no_fused_and_no_approximate_instruction(disassembly):
    for name, text in disassembly.items():
        assert not FUSED.findall(text), name
        assert not APPROXIMATE.findall(text), name


def test_patterns_know_the_instructions_they_look_for():
    assert types_of(PACKED_ROOT, " \tvsqrtps %ymm0,%ymm1\n \tsqrtpd %xmm0,%xmm1\n") == {"s", "d"}
    assert types_of(PACKED_DIVIDE, " \tfdiv\tv0.4s, v1.4s, v2.4s") == {"s"}
    for fused in ("vfmadd213ps %ymm0,%ymm1,%ymm2", "vfnmsub231sd %xmm0,%xmm1,%xmm2", "fmla\tv0.4s, v1.4s, v2.4s"):
        assert FUSED.search(f" \t{fused}")
    assert APPROXIMATE.search(" \tvrsqrtps %ymm0,%ymm1")


def test_kernel_objects_export_one_table_and_no_weak_symbol(kernel_objects):
    """A weak symbol could be merged with its copy for another instruction set."""
    if shutil.which("nm") is None:
        pytest.skip("nm (binutils) is not installed, so the symbols cannot be listed")
    for name, path in kernel_objects.items():
        symbols = [line.split() for line in run("nm", "--demangle", path).splitlines()]
        exported = [parts[-1] for parts in symbols if parts[-2] in "ABCDGRSTVWuvwi"]
        assert exported == [f"rmsprop::kernels_{name}"]


def test_engine_has_the_bits_of_the_committed_table_on_every_instruction_set_of_this_machine(engine):
    """The quick part of `ci/same-bits`, which does it for other compilers and machines too."""
    report = run(engine / "tests/cpp/same_bits", ROOT / "tests/same_bits.txt")
    for name in rmsprop.instruction_sets().available:
        assert re.search(rf"^{re.escape(name)}: \d+ hashes agree$", report, re.MULTILINE), report


def test_a_changed_hash_in_the_table_is_reported(engine, tmp_path):
    table = (ROOT / "tests/same_bits.txt").read_text()
    first_hash = re.search(r"^[^#].* \| (\w{16})", table, re.MULTILINE).group(1)
    (tmp_path / "table").write_text(table.replace(first_hash, "0" * 16, 1))
    result = subprocess.run(
        [engine / "tests/cpp/same_bits", tmp_path / "table"],
        env={**os.environ, "RMSPROP_ISA": "baseline"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 1
    assert "DIFFER" in result.stdout
    assert "wanted 0" in result.stdout


def test_no_build_file_asks_for_other_arithmetic():
    forbidden = re.compile(r"(?<!no-)fast-math|-Ofast|-march=native|-mrecip|-funsafe-math|-fassociative-math")
    for path in [ROOT / "CMakeLists.txt", ROOT / "pyproject.toml", *(ROOT / "cmake").iterdir()]:
        code = re.sub(r"#.*", "", path.read_text())
        assert not forbidden.search(code), path.name


@pytest.mark.parametrize("openmp", ["ON", "OFF"])
def test_engine_keeps_its_promises_without_python(engine, tmp_path, openmp):
    """Builds and runs the doctest suite of tests/cpp, with and without OpenMP, on kernels that are compiled already."""
    if not has_cmake_package("doctest", tmp_path / "probe"):
        pytest.skip("the C++ test framework doctest is not installed (Debian: doctest-dev)")
    log = configure(engine, "-DRMSPROP_BUILD_TESTS=ON", f"-DRMSPROP_OPENMP={openmp}")
    assert ("built without OpenMP" in log) == (openmp == "OFF")
    run("cmake", "--build", engine)
    # What takes a minute and has nothing to do with threads is run once.
    left_out = ["-E", r"more than 2\^31"] if openmp == "OFF" else []
    report = run("ctest", "--test-dir", engine, "--output-on-failure", *left_out)
    assert "100% tests passed" in report
