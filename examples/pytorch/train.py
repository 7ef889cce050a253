"""Train two small networks with torch.optim.RMSprop and with rmsprop.torch.RMSprop, and draw both for comparison.

    pip install '.[demo,torch]' && python examples/pytorch/train.py

One network is convolutional and learns scikit-learn's handwritten digits, the other is an LSTM and learns to write like
the help texts that come with Python, character by character. Each is trained twice, from the same first weights and on
the same minibatches in the same order; the only difference is the import of the optimizer. Prints the final loss of
each run, the largest difference between the two loss curves, and the time spent in optimizer steps, and draws them.

The two runs take turns, minibatch by minibatch, so that a noisy machine is noisy for both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from statistics import median
from tempfile import TemporaryFile
from time import perf_counter

try:
    import numpy as np
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
    from rich import box
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
    from sklearn.datasets import load_digits

    import rmsprop.torch
except ModuleNotFoundError as error:
    sys.exit(f"train.py: error: {error.name} is not installed; run: pip install '.[demo,torch]'")

from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "torch.optim": torch.optim.RMSprop,
    "rmsprop.torch": rmsprop.torch.RMSprop,
}
THEIRS, OURS = OPTIMIZERS
COLOURS = {THEIRS: "#F0C27B", OURS: "#0B3C5D"}


# The two tasks


@dataclass(frozen=True)
class Task:
    """A network, what it learns from, and how long."""

    name: str
    network: Callable[[], nn.Module]
    lr: float
    batches: Callable[[], Iterator[Batch]]
    steps: int


class DigitReader(nn.Module):
    """Images of shape (batch, 1, 8, 8) to logits of shape (batch, 10).

    Without kinks (ReLU) and batch statistics, which would amplify a rounding error until the curves differ.
    """

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1), nn.GELU(),
            nn.Conv2d(16, 32, kernel_size=3, padding=1), nn.GELU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, kernel_size=3, padding=1), nn.GELU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classes = nn.Linear(32 * 2 * 2, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.classes(self.features(images).flatten(1))


class Writer(nn.Module):
    """Characters of shape (batch, length) to logits of the next ones, of shape (batch, characters, length)."""

    def __init__(self, characters: int) -> None:
        """Make the layers."""
        super().__init__()
        self.embedding = nn.Embedding(characters, 32)
        self.memory = nn.LSTM(32, 96, num_layers=2, batch_first=True)
        self.next = nn.Linear(96, characters)

    def forward(self, text: Tensor) -> Tensor:
        """Return the logits."""
        return self.next(self.memory(self.embedding(text))[0]).transpose(1, 2)


def digits_task(epochs: int, seed: int, dtype: torch.dtype = torch.float32) -> Task:
    """Return the task of reading digits; every epoch visits each image once, in a new random order."""
    data = load_digits()
    images = torch.from_numpy(data.images / 16).to(dtype).unsqueeze(1)
    labels = torch.from_numpy(data.target)
    size = 64

    def batches() -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            for chosen in torch.randperm(len(images), generator=generator).split(size):
                yield images[chosen], labels[chosen]

    steps = epochs * -(-len(images) // size)
    return Task("Digits, convolutional network", lambda: DigitReader().to(dtype), 1e-3, batches, steps)


def text_task(steps: int, seed: int, dtype: torch.dtype = torch.float32) -> Task:
    """Return the task of continuing the help texts of Python from random places in them."""
    text = "\n".join(topics[name] for name in sorted(topics))
    alphabet, codes = np.unique(list(text), return_inverse=True)
    characters = torch.from_numpy(codes)
    size, length = 32, 48

    def batches() -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            starts = torch.randint(len(characters) - length, (size, 1), generator=generator)
            places = starts + torch.arange(length)
            yield characters[places], characters[places + 1]

    return Task("Characters, LSTM", lambda: Writer(len(alphabet)).to(dtype), 2e-3, batches, steps)


# Training


@dataclass
class Run:
    """One network and its optimizer, and what was recorded: the loss before each step, and the time of each."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def train_on(self, batch: Batch) -> None:
        """Take one step."""
        inputs, wanted = batch
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.network(inputs), wanted)
        loss.backward()
        begin = perf_counter()
        self.optimizer.step()
        self.seconds.append(perf_counter() - begin)
        self.losses.append(loss.item())

    @property
    def step_seconds(self) -> float:
        """The median time of a step; the first, which makes the state and loads modules, does not matter to it."""
        return median(self.seconds)


@dataclass(frozen=True)
class Result:
    """Both runs of a task, by the optimizer's name."""

    task: Task
    runs: dict[str, Run]

    @property
    def largest_difference(self) -> float:
        """The largest difference between the two loss curves."""
        return float(np.abs(np.subtract(self.runs[THEIRS].losses, self.runs[OURS].losses)).max())

    @property
    def ratio(self) -> float:
        """How many times longer PyTorch's own step takes."""
        return self.runs[THEIRS].step_seconds / self.runs[OURS].step_seconds


def train(task: Task, seed: int, after_step: Callable[[], None] = lambda: None) -> Result:
    """Train the task's network with each optimizer, from the same first weights, and record what happens."""
    runs = {}
    for name, optimizer in OPTIMIZERS.items():
        torch.manual_seed(seed)
        network = task.network()
        runs[name] = Run(network, optimizer(network.parameters(), lr=task.lr))
    for batch in task.batches():
        for run in runs.values():
            run.train_on(batch)
        after_step()
    return Result(task, runs)


def train_all(tasks: list[Task], seed: int) -> list[Result]:
    """Train all tasks, with a progress bar for each on standard error."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as progress:
        bars = [progress.add_task(task.name, total=task.steps) for task in tasks]
        return [train(task, seed, partial(progress.advance, bar)) for task, bar in zip(tasks, bars, strict=True)]


# Table and picture


def results_table(results: list[Result]) -> Table:
    """Return the results as a table that fits in 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
    table.add_column("Network", no_wrap=True)
    table.add_column("Optimizer", no_wrap=True)
    for heading in ("Final\nloss", "Largest\ndifference", "Time in\nsteps", "Median\nstep", "Ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        for name, run in result.runs.items():
            theirs = name == THEIRS
            table.add_row(
                result.task.name.partition(",")[0] if theirs else "",
                f"{name}.RMSprop",
                f"{run.losses[-1]:.5f}",
                "" if theirs else f"{result.largest_difference:.1e}",
                f"{1e3 * sum(run.seconds[1:]):.0f} ms",
                f"{1e6 * run.step_seconds:.0f} µs",
                "" if theirs else f"{result.ratio:.1f}x",
                end_section=not theirs,
            )
    table.caption = "Time in steps: all but the first."
    return table


def draw(results: list[Result]) -> Figure:
    """Draw a panel with both loss curves for each task, and one with the time of a step."""
    figure = Figure(figsize=(12, 4.2), dpi=150, layout="constrained")
    *curve_panels, time_panel = figure.subplots(1, len(results) + 1, width_ratios=[1] * len(results) + [0.9])
    for axes, result in zip(curve_panels, results, strict=True):
        draw_curves(axes, result)
    draw_times(time_panel, results)
    lines_and_labels = curve_panels[0].get_legend_handles_labels()
    figure.legend(*lines_and_labels, loc="outside upper left", ncols=2, frameon=False, fontsize=12)
    return figure


def draw_curves(axes: Axes, result: Result) -> None:
    """Draw the loss of both runs: PyTorch's as a broad pale line, ours as a thin dark one on top of it."""
    width = max(1, min(10, result.task.steps // 20))
    for (name, run), line_width in zip(result.runs.items(), (6, 1.3), strict=True):
        smooth = np.convolve(run.losses, np.full(width, 1 / width), mode="valid")
        steps = np.arange(width, len(run.losses) + 1)
        label = f"{name}.RMSprop"
        axes.plot(steps, smooth, color=COLOURS[name], linewidth=line_width, solid_joinstyle="round", label=label)
    dress(axes, result.task.name, f"Training loss. Largest difference: {result.largest_difference:.0e}")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=[1, 1.5, 2, 3, 5]))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
    axes.set_xlabel("optimizer steps")
    axes.grid(True, color="#E5E5E5", linewidth=0.8)
    axes.margins(x=0.02)


def draw_times(axes: Axes, results: list[Result]) -> None:
    """Draw two bars for each task, with their values, and the ratio."""
    rows = np.arange(len(results))
    for offset, name in ((-0.19, THEIRS), (0.19, OURS)):
        times = [1e6 * result.runs[name].step_seconds for result in results]
        bars = axes.barh(rows + offset, times, height=0.36, color=COLOURS[name])
        ratios = [f"   {result.ratio:.1f} times faster" if name == OURS else "" for result in results]
        labels = [f"{time:,.0f} µs{ratio}" for time, ratio in zip(times, ratios, strict=True)]
        axes.bar_label(bars, labels, padding=5, fontsize=11, fontweight="bold" if name == OURS else "normal")
    dress(axes, "Time of one optimizer step", "Median. Shorter is better.")
    axes.set_yticks(rows, [result.task.name.replace(", ", ",\n") for result in results], fontsize=11)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * max(1e6 * result.runs[THEIRS].step_seconds for result in results))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("microseconds")


def dress(axes: Axes, title: str, subtitle: str) -> None:
    """Give a panel its titles and a light frame."""
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=24)
    axes.text(0, 1.035, subtitle, transform=axes.transAxes, fontsize=11, color="#555555")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


# The command


def at_least_one(text: str) -> int:
    """Read a whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return number


def seed_number(text: str) -> int:
    """Read a seed that PyTorch takes."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2**63 - 1, got {text!r}")
    return number


def picture_path(text: str) -> Path:
    """Read the path of a picture and make sure, before any work is done, that it can be written."""
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"expected a name that ends in .png, got {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r} to write {path.name!r} into")
    try:
        if path.exists():
            path.open("ab").close()  # opened for appending and closed again, a file keeps its content
        else:
            TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: {error.strerror}") from None
    return path


def parser() -> argparse.ArgumentParser:
    """Describe the options."""
    result = argparse.ArgumentParser(
        prog="train.py",
        description=__doc__,
        epilog="examples:\n  train.py --epochs 3 --steps 100\n  train.py --seed 1 --out curves.png",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--epochs", type=at_least_one, default=15, metavar="N", help="passes over the digits (default: %(default)s)")
    add(
        "--steps",
        type=at_least_one,
        default=500,
        metavar="N",
        help="optimizer steps of the LSTM (default: %(default)s)",
    )
    add(
        "--out",
        type=picture_path,
        default="pytorch.png",
        metavar="PATH",
        help="where to write the picture, a PNG (default: %(default)s)",
    )
    add(
        "--seed",
        type=seed_number,
        default=0,
        metavar="N",
        help="seed of the first weights and of the order of the data (default: %(default)s)",
    )
    return result


def main(arguments: list[str] | None = None) -> None:
    """Train, print the table, and write the picture."""
    options = parser().parse_args(arguments)
    # Networks this small gain nothing from more threads, and lose much on a busy machine.
    torch.set_num_threads(1)
    rmsprop.set_num_threads(1)
    tasks = [digits_task(options.epochs, options.seed), text_task(options.steps, options.seed)]
    results = train_all(tasks, options.seed)
    Console().print(results_table(results))
    draw(results).savefig(options.out, format="png")
    print(f"Picture: {options.out}")


if __name__ == "__main__":
    main()
