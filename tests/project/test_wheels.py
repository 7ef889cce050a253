"""What is uploaded: the checks of wheels and source distributions find what they look for, and the settings agree."""

import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "ci"))

import wheel_checks  # noqa: E402

LINUX = "rmsprop-0.1.0-cp312-cp312-manylinux_2_28_x86_64.whl"
MACOS = "rmsprop-0.1.0-cp312-cp312-macosx_14_0_arm64.whl"
WINDOWS = "rmsprop-0.1.0-cp312-cp312-win_amd64.whl"
INFORMATION = "rmsprop-0.1.0.dist-info"
METADATA = """\
Metadata-Version: 2.4
Name: rmsprop
Version: 0.1.0
License-Expression: MIT
License-File: LICENSE
License-File: licenses/libgomp.txt
Requires-Python: >=3.10
Description-Content-Type: text/markdown
"""
MODULES = {
    LINUX: "_core.cpython-312-x86_64-linux-gnu.so",
    MACOS: "_core.cpython-312-darwin.so",
    WINDOWS: "_core.cp312-win_amd64.pyd",
}

pytestmark = pytest.mark.skipif(
    not (ROOT / "python").is_dir(), reason="what belongs in a wheel is known where the package's source is"
)


def right_files(name):
    """Return the files of a wheel in which nothing is wrong."""
    sources = (path.relative_to(ROOT / "python").as_posix() for path in (ROOT / "python").rglob("*.py*"))
    files = {path: b"" for path in ("rmsprop/py.typed", *sources) if path.endswith((".py", ".pyi", ".typed"))}
    files[f"rmsprop/{MODULES[name]}"] = b""
    if name == LINUX:
        files["rmsprop/libgomp.so.1"] = b""
        files["rmsprop/libgomp-licence.txt"] = "\n".join(wheel_checks.ITS_LICENCES).encode()
    for file in ("RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "licenses/licenses/libgomp.txt"):
        files[f"{INFORMATION}/{file}"] = b""
    files[f"{INFORMATION}/METADATA"] = METADATA.encode()
    return files


def write_wheel(folder, name, files):
    path = folder / name
    with zipfile.ZipFile(path, "w") as wheel:
        for file, content in files.items():
            wheel.writestr(file, content)
    return path


@pytest.mark.parametrize("name", [LINUX, MACOS, WINDOWS])
def test_nothing_is_wrong_with_a_right_wheel(name, tmp_path):
    assert wheel_checks.problems_of_wheel(write_wheel(tmp_path, name, right_files(name))) == []


WRONG = {
    "a stray file": ({"rmsprop/notes.txt": b""}, "rmsprop/notes.txt does not belong in it"),
    "a second package": ({"tests/conftest.py": b""}, "tests/conftest.py does not belong in it"),
    "a renamed runtime": ({"rmsprop.libs/libgomp-a1.so": b""}, "rmsprop.libs/libgomp-a1.so does not belong in it"),
    "a second module": (
        {"rmsprop/_core.cpython-313-x86_64-linux-gnu.so": b""},
        "has 2 extension modules, wanted 1",
    ),
    "no licence": (
        {f"{INFORMATION}/licenses/LICENSE": None},
        f"{INFORMATION}/licenses/LICENSE is missing",
    ),
    "no runtime": ({"rmsprop/libgomp.so.1": None}, "rmsprop/libgomp.so.1 is missing"),
    "no licence of the runtime": ({"rmsprop/libgomp-licence.txt": None}, "rmsprop/libgomp-licence.txt is missing"),
    "half a licence of the runtime": (
        {"rmsprop/libgomp-licence.txt": b"GNU GENERAL PUBLIC LICENSE"},
        "rmsprop/libgomp-licence.txt has no GCC RUNTIME LIBRARY EXCEPTION",
    ),
    "a module of a folder missing": (
        {"rmsprop/torch/__init__.py": None},
        "rmsprop/torch/__init__.py is missing",
    ),
    "no types": ({"rmsprop/py.typed": None}, "rmsprop/py.typed is missing"),
    "debugging symbols": (
        {f"rmsprop/{MODULES[LINUX]}": bytes(2_000_000)},
        "2,000,000",
    ),
    "another version": (
        {f"{INFORMATION}/METADATA": METADATA.replace("0.1.0", "0.2.0").encode()},
        "its metadata says Version: 0.2.0, wanted 0.1.0",
    ),
    "a licence unnamed": (
        {f"{INFORMATION}/METADATA": METADATA.replace("License-File: LICENSE\n", "").encode()},
        "its metadata names the licences ['licenses/libgomp.txt']",
    ),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_wheel_is_found(changes, message, tmp_path):
    files = {**right_files(LINUX), **changes}
    path = write_wheel(tmp_path, LINUX, {file: content for file, content in files.items() if content is not None})
    problems = wheel_checks.problems_of_wheel(path)
    assert len(problems) == 1
    assert message in problems[0]


def test_a_wheel_for_linux_that_auditwheel_has_not_seen_is_found(tmp_path):
    path = write_wheel(tmp_path, LINUX.replace("manylinux_2_28", "linux"), right_files(LINUX))
    assert wheel_checks.problems_of_wheel(path) == ["is for linux_x86_64: auditwheel has not seen it"]


def test_runtimes_of_microsoft_belong_in_a_wheel_for_windows_and_no_other_library(tmp_path):
    files = {**right_files(WINDOWS), "rmsprop.libs/msvcp140-a1.dll": b"", "rmsprop.libs/kernel32.dll": b""}
    problems = wheel_checks.problems_of_wheel(write_wheel(tmp_path, WINDOWS, files))
    assert problems == ["rmsprop.libs/kernel32.dll does not belong in it"]


def write_sdist(folder, changes):
    """Write a source distribution of the files that are here, some of them left out or added."""
    paths = [path for name in ("python", "cpp", "cmake", "tests") for path in (ROOT / name).rglob("*")]
    paths += [ROOT / name for name in ("pyproject.toml", "CMakeLists.txt", "README.md", "CHANGELOG.md")]
    paths += [ROOT / name for name in wheel_checks.LICENCES]
    names = [
        path.relative_to(ROOT).as_posix() for path in paths if path.is_file() and path.suffix not in {".pyc", ".so"}
    ]
    files = {**dict.fromkeys(names, b""), "PKG-INFO": METADATA.encode(), **changes}
    path = folder / "rmsprop-0.1.0.tar.gz"
    with tarfile.open(path, "w:gz") as sdist:
        for name, content in files.items():
            if content is not None:
                member = tarfile.TarInfo(f"rmsprop-0.1.0/{name}")
                member.size = len(content)
                sdist.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({}, []),
        ({"cpp/src/kernels.cpp": None}, ["cpp/src/kernels.cpp is missing"]),
        ({"python/rmsprop/_core.so": b""}, ["python/rmsprop/_core.so does not belong in it"]),
        ({".git/config": b""}, [".git/config does not belong in it"]),
        ({"tests/big": os.urandom(2_000_001)}, None),
    ],
    ids=["right", "a source missing", "a binary", "history", "large"],
)
def test_what_is_wrong_with_a_source_distribution_is_found(changes, problems, tmp_path):
    found = wheel_checks.problems_of_sdist(write_sdist(tmp_path, changes))
    if problems is None:
        assert len(found) == 1
        assert "wanted at most 2,000,000" in found[0]
    else:
        assert found == problems


def test_the_command_fails_for_a_wrong_file_and_says_which(tmp_path):
    right = write_wheel(tmp_path, MACOS, right_files(MACOS))
    wrong = write_wheel(tmp_path, LINUX, right_files(MACOS))
    command = [sys.executable, ROOT / "ci" / "wheel_checks.py"]
    assert subprocess.run([*command, right], capture_output=True, timeout=60, check=False).returncode == 0
    result = subprocess.run([*command, right, wrong], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stdout.splitlines() == [f"{LINUX}: {file} is missing" for file in sorted(wheel_checks.LIBGOMP)]


# ---- Settings --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings():
    tomllib = pytest.importorskip("tomllib", reason="Python before 3.11 cannot read TOML")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_there_are_wheels_and_tests_for_the_pythons_that_the_metadata_names(settings):
    named = re.findall(r"Python :: (3\.\d+)", " ".join(settings["project"]["classifiers"]))
    built = re.findall(r"cp3(\d+)-", settings["tool"]["cibuildwheel"]["build"])
    assert [f"3.{minor}" for minor in built] == named
    assert settings["project"]["requires-python"] == f">={named[0]}"
    workflow = ROOT / ".github" / "workflows" / "ci.yml"
    if workflow.exists():  # it is not in a source distribution
        (tested,) = re.findall(r'python: \[(.*"3\.10".*)\]', workflow.read_text(encoding="utf-8"))
        assert re.findall(r'"([\d.]+)"', tested) == named


def test_actions_are_pinned_by_their_major_version():
    folder = ROOT / ".github" / "workflows"
    if not folder.is_dir():
        pytest.skip("workflows are not in a source distribution")
    for path in (folder / "ci.yml", folder / "wheels.yml"):
        used = re.findall(r"uses: (\S+)", path.read_text(encoding="utf-8"))
        assert used, path
        assert [action for action in used if not re.fullmatch(r"actions/[\w-]+@v\d+", action)] == []


def test_the_portable_tests_exist():
    lines = (ROOT / "ci" / "portable-tests.txt").read_text(encoding="utf-8").split()
    assert len(lines) > 10
    assert [line for line in lines if not (ROOT / line.partition("::")[0]).is_file()] == []


@pytest.mark.parametrize("wanted", ["3.999", "/no/such/python"])
def test_an_interpreter_that_is_not_there_is_named(wanted):
    result = subprocess.run(
        [sys.executable, ROOT / "ci" / "wheels", "--python", wanted],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr == f"ci/wheels: --python {wanted}: found neither under pyenv nor in PATH\n"
