#!/usr/bin/env python3
"""Check wheels and source distributions of rmsprop by looking inside: contents, size, licences, metadata.

Usage: ci/wheel_checks.py FILE...

Prints a line for each thing that is wrong, and exits with 1 if there is one. Installs nothing; `ci/wheels` does that.
"""

import email
import re
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

from work import ROOT

SIZE_LIMIT = 2_000_000
"""Bytes. A wheel has about a quarter of them; one with debugging symbols, or with a second library, has more."""

PYTHON = {".py", ".pyi", ".typed"}
LICENCES = ("LICENSE", "licenses/libgomp.txt")
LIBGOMP = ("rmsprop/libgomp.so.1", "rmsprop/libgomp-licence.txt")
ITS_LICENCES = ("GNU GENERAL PUBLIC LICENSE", "GCC RUNTIME LIBRARY EXCEPTION")
NOT_IN_SDIST = re.compile(r"(\.git/|\.github/|\.ci/|build/|dist/|\.venv/)|.*(\.so|\.pyd|\.pyc|\.o|\.whl)$")


def problems_of_wheel(path: Path) -> list[str]:
    """Return what is wrong with a wheel, in words."""
    name, version, *_, platform = path.stem.split("-")
    with zipfile.ZipFile(path) as wheel:
        files = {file for file in wheel.namelist() if not file.endswith("/")}
        information = f"{name}-{version}.dist-info/"
        metadata = email.message_from_bytes(wheel.read(information + "METADATA"))
        unpacked = sum(file.file_size for file in wheel.infolist())
        licence = wheel.read(LIBGOMP[1]).decode() if LIBGOMP[1] in files else ""
    source = ROOT / "python"
    wanted = {file.relative_to(source).as_posix() for file in source.rglob("*") if file.suffix in PYTHON}
    if "linux" in platform:
        wanted |= set(LIBGOMP)
    wanted |= {f"{information}licenses/{licence}" for licence in LICENCES}
    wanted |= {information + file for file in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    modules = {file for file in files if re.fullmatch(r"rmsprop/_core\.[\w.-]+\.(so|pyd)", file)}
    allowed = wanted | modules
    if platform.startswith("win"):  # where the C++ and the OpenMP runtime are, under names of their own
        allowed |= {file for file in files if re.fullmatch(rf"{name}\.libs/(msvcp140|vcomp140)[\w.-]*\.dll", file)}
        allowed |= {information + "DELVEWHEEL"}

    problems = [f"{file} is missing" for file in sorted(wanted - files)]
    problems += [f"{file} does not belong in it" for file in sorted(files - allowed)]
    if licence:
        problems += [f"{LIBGOMP[1]} has no {text}" for text in ITS_LICENCES if text not in licence]
    if len(modules) != 1:
        problems.append(f"has {len(modules)} extension modules, wanted 1")
    if path.stat().st_size > SIZE_LIMIT:
        problems.append(f"has {path.stat().st_size:,} bytes ({unpacked:,} unpacked), wanted at most {SIZE_LIMIT:,}")
    if "linux" in platform and "manylinux" not in platform:
        problems.append(f"is for {platform}: auditwheel has not seen it")
    return problems + problems_of_metadata(metadata, name, version)


def problems_of_sdist(path: Path) -> list[str]:
    """Return what is wrong with a source distribution, in words."""
    top = path.name.removesuffix(".tar.gz")
    with tarfile.open(path) as sdist:
        members = sdist.getmembers()
        information = sdist.extractfile(f"{top}/PKG-INFO")
        metadata = email.message_from_bytes(information.read() if information else b"")
    files = {member.name.removeprefix(f"{top}/") for member in members if not member.isdir()}
    wanted = {"pyproject.toml", "CMakeLists.txt", "README.md", "CHANGELOG.md", "PKG-INFO", *LICENCES}
    wanted |= {
        file.relative_to(ROOT).as_posix()
        for folder in ("python", "cpp", "cmake", "tests")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in PYTHON | {".cpp", ".hpp", ".cmake", ".in", ".txt"}
    }
    problems = [f"{file} is missing" for file in sorted(wanted - files)]
    problems += [f"{file} does not belong in it" for file in sorted(files) if NOT_IN_SDIST.match(file)]
    problems += [f"{member.name} is a link" for member in members if member.issym() or member.islnk()]
    if path.stat().st_size > SIZE_LIMIT:
        problems.append(f"has {path.stat().st_size:,} bytes, wanted at most {SIZE_LIMIT:,}")
    return problems + problems_of_metadata(metadata, *top.split("-"))


def problems_of_metadata(metadata: Message, name: str, version: str) -> list[str]:
    """Return what is wrong with the metadata of a distribution of this name and version."""
    wanted = {
        "Name": name,
        "Version": version,
        "License-Expression": "MIT",
        "Requires-Python": ">=3.10",
        "Description-Content-Type": "text/markdown",
    }
    problems = [
        f"its metadata says {field}: {metadata[field]}, wanted {value}"
        for field, value in wanted.items()
        if metadata[field] != value
    ]
    if set(metadata.get_all("License-File", [])) != set(LICENCES):
        problems.append(f"its metadata names the licences {metadata.get_all('License-File')}, wanted {list(LICENCES)}")
    return problems


def main(paths: list[str]) -> int:
    """Check every file, and return how many have something wrong."""
    if not paths or any(path.startswith("-") for path in paths):
        print(__doc__.strip())
        return 0 if set(paths) & {"-h", "--help"} else 2
    bad = 0
    for path in map(Path, paths):
        problems = problems_of_wheel(path) if path.suffix == ".whl" else problems_of_sdist(path)
        for problem in problems:
            print(f"{path.name}: {problem}")
        bad += bool(problems)
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
