"""Shared by the scripts of this folder: commands that have to succeed, a line for each task, files to test."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
QUICK_TESTS = ("@ci/portable-tests.txt", "tests/saving/test_checkpoint.py")
"""Arguments of pytest for the tests that need nothing but the package, and are done in a minute."""


class Failed(Exception):
    """Something that should have worked did not."""


class Report:
    """Prints a line for everything that is done, and counts."""

    def __init__(self) -> None:
        self.failed = 0

    @contextmanager
    def line(self, subject: str, what: str) -> Iterator[list[str]]:
        """Print how a piece of work ended, with the remarks that it makes; its failure does not stop the others."""
        began = time.monotonic()
        remarks: list[str] = []
        try:
            yield remarks
            outcome = "ok"
        except Failed as error:
            self.failed += 1
            outcome = "FAILED"
            remarks.append(str(error))
        print(
            f"{subject:<10}{what:<18}{outcome:<8}{time.monotonic() - began:>5.0f} s  {'; '.join(remarks)}", flush=True
        )


def run(*command: str | Path, folder: Path | None = None, **environment: str) -> str:
    """Return what a command prints; it has to succeed."""
    # A user's Python settings would affect the clean environments.
    inherited = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    result = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env={**inherited, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        last = "\n".join(result.stdout.splitlines()[-40:])
        raise Failed(f"{' '.join(map(str, command))} ended with {result.returncode}:\n{last}")
    return result.stdout


def project_files() -> list[str]:
    """Return the names of all files of the project: those that git knows, and new ones that it does not ignore."""
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", folder=ROOT).split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


def copy_files(names: list[str], folder: Path) -> None:
    """Copy files of the project to where they are in another folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)


def without_package(names: list[str]) -> list[str]:
    """Return the files without those of the package: tests that pass beside them test what is installed."""
    return [name for name in names if not name.startswith("python/")]
