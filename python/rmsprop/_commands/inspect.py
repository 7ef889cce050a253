"""What `rmsprop inspect` prints: the content of a checkpoint, as tables."""

import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rmsprop._saving.checkpoint import Contents, Progress, Tensor, describe

Row = tuple[str, ...]


def print_checkpoint(path: str | os.PathLike[str]) -> None:
    """Print the content of a checkpoint that `Optimizer.save` wrote, once its checksum is found right.

    On a terminal, rich draws the tables and a progress bar, if it is installed.

    Args:
        path: path to read.

    Raises:
        ValueError: the file is damaged, or is not a checkpoint.
        OSError: the file cannot be read.

    Examples:
        >>> import os, tempfile
        >>> import numpy as np, rmsprop
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "optimizer.safetensors")
        ...     rmsprop.Adagrad({"weight": np.ones((3, 2))}, lr=0.5).save(path)
        ...     print_checkpoint(path)  # doctest: +ELLIPSIS
        optimizer   adagrad
        parameters  1 in 1 group, 6 elements
        ...
        parameter  group  steps  shape  dtype    state  bytes
        weight     0      0      3 x 2  float64  sum    48
    """
    with _bar() as progress:
        contents = describe(path, progress=progress)
    _print_table(_facts(contents), with_heading=False)
    print()
    _print_table(_hyperparameters(contents))
    print()
    _print_table(_parameters(contents))


def printable(text: str) -> str:
    """Return text from a file with control characters escaped, which a terminal would obey."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _facts(contents: Contents) -> list[Row]:
    groups, entries = contents.param_groups, contents.state.values()
    elements = sum(math.prod(tensors[0].shape) for entry in entries if (tensors := _tensors(entry)))
    steps = sorted({entry["step"] for entry in entries})
    return [
        ("optimizer", contents.optimizer),
        ("parameters", f"{len(entries):,} in {len(groups)} group{'s' * (len(groups) != 1)}, {elements:,} elements"),
        ("steps", " to ".join(f"{step:,}" for step in (steps[:1] + steps[1:][-1:]))),
        ("file", f"{contents.nbytes:,} bytes, its checksum is right"),
        ("format", f"{contents.format_version}, written by rmsprop {contents.written_by}"),
    ]


def _hyperparameters(contents: Contents) -> list[Row]:
    """Return a table with a line for each hyperparameter and a column for each group."""
    groups = contents.param_groups
    names = dict.fromkeys(name for group in groups for name in group)
    shown = [name for name in names if name not in {"params", "param_names", "name", "lr_is_schedule"}]
    heading = [f"group {i}" + (f" ({group['name']})" if "name" in group else "") for i, group in enumerate(groups)]
    return [("hyperparameter", *heading), *((name, *(_value(group, name) for group in groups)) for name in shown)]


def _value(group: Mapping[str, Any], name: str) -> str:
    schedule = " (by a schedule)" if name == "lr" and group.get("lr_is_schedule") else ""
    return f"{group.get(name, '')}{schedule}"


def _parameters(contents: Contents) -> list[Row]:
    """Return a table with a line for each parameter."""
    rows: list[Row] = [("parameter", "group", "steps", "shape", "dtype", "state", "bytes")]
    for i, group in enumerate(contents.param_groups):
        for number, name in zip(group["params"], group.get("param_names", group["params"]), strict=True):
            entry = contents.state[number]
            tensors = _tensors(entry)
            rows.append(
                (
                    str(name),
                    str(i),
                    f"{entry['step']:,}",
                    " x ".join(map(str, tensors[0].shape)) or "scalar" if tensors else "",
                    tensors[0].dtype.name if tensors else "",
                    ", ".join(name for name in entry if name != "step"),
                    f"{sum(tensor.nbytes for tensor in tensors):,}",
                )
            )
    return rows


def _tensors(entry: Mapping[str, Any]) -> list[Tensor]:
    return [value for value in entry.values() if isinstance(value, Tensor)]


def _print_table(rows: list[Row], with_heading: bool = True) -> None:
    rows = [tuple(map(printable, row)) for row in rows]
    if sys.stdout.isatty() and _has_rich():
        _print_with_rich(rows, with_heading)
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_with_rich(rows: list[Row], with_heading: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=with_heading)
    for cell in rows[0]:
        table.add_column(Text(cell) if with_heading else "", overflow="fold")
    for row in rows[with_heading:]:
        table.add_row(*map(Text, row))
    Console().print(table)


@contextmanager
def _bar() -> Iterator[Progress | None]:
    """Show the progress of reading, on a terminal."""
    if not (sys.stderr.isatty() and _has_rich()):
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _has_rich() -> bool:
    try:
        import rich  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True
