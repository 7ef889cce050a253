"""The demo: one small network, trained in three ways, and how each one's step size develops.

``python -m rmsprop demo`` trains a network written in plain NumPy on scikit-learn's handwritten digits with RMSprop,
with Adagrad and with plain gradient descent: the same images, the same first weights, the same minibatches in the same
order. It prints a table and draws a picture of the loss, the accumulator β and the effective step η / √(β + ε).
Adagrad's accumulator can only grow, so its steps shrink towards 0; RMSprop's forgets old gradients, so its steps do
not, and even grow again as the gradients shrink.

The file reads in the order in which the demo runs: settings, data, network, optimizers, training, table, picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from rmsprop.optimizers import Adagrad, RMSprop

Floats: TypeAlias = NDArray[np.floating[Any]]
Integers: TypeAlias = NDArray[np.integer[Any]]
Parameters: TypeAlias = dict[str, Floats]

PIXELS = 64
CLASSES = 10
TEST_IMAGES = 453  # of 1,797: leaves 1,344 to train on, which is a whole number of minibatches of 32
EPS = 1e-8


@dataclass(frozen=True)
class Settings:
    """What a user can choose; everything else is the same in every run."""

    epochs: int
    batch_size: int
    hidden_units: int
    seed: int


# Data


@dataclass(frozen=True)
class Digits:
    """Handwritten digits: images of shape (count, 64) with values from 0 to 1, labels of shape (count,) from 0 to 9."""

    train_images: Floats
    train_labels: Integers
    test_images: Floats
    test_labels: Integers


def load_data() -> Digits:
    """Load scikit-learn's digits and split them; the split is the same for every seed, so that runs can be compared."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=TEST_IMAGES, random_state=0, stratify=labels
    )
    return Digits(train_images, train_labels, test_images, test_labels)


def minibatches(image_count: int, settings: Settings) -> Iterator[Integers]:
    """Yield the indices of one minibatch after the other; every epoch visits each image once, in a new random order."""
    random = np.random.default_rng([settings.seed, 1])
    for _ in range(settings.epochs):
        order = random.permutation(image_count)
        for start in range(0, image_count, settings.batch_size):
            yield order[start : start + settings.batch_size]


def step_count(image_count: int, settings: Settings) -> int:
    """Count the minibatches that `minibatches` yields."""
    return settings.epochs * -(-image_count // settings.batch_size)


# Network: 64 pixels -> hidden units (tanh) -> 10 classes (softmax). With tanh no unit dies, which would leave β = 0.


def initial_parameters(settings: Settings) -> Parameters:
    """Draw the first weights, in float32 and with variance 1 / inputs; the biases start at zero."""
    random = np.random.default_rng([settings.seed, 0])

    def weights(inputs: int, outputs: int) -> Floats:
        return random.normal(scale=sqrt(1 / inputs), size=(inputs, outputs)).astype(np.float32)

    return {
        "W1": weights(PIXELS, settings.hidden_units),
        "b1": np.zeros(settings.hidden_units, np.float32),
        "W2": weights(settings.hidden_units, CLASSES),
        "b2": np.zeros(CLASSES, np.float32),
    }


def forward(parameters: Parameters, images: Floats) -> tuple[Floats, Floats]:
    """Return the hidden layer's output and the logarithm of the probability of every class, one row per image."""
    hidden = np.tanh(images @ parameters["W1"] + parameters["b1"])
    logits = hidden @ parameters["W2"] + parameters["b2"]
    logits -= logits.max(axis=1, keepdims=True)  # softmax does not change, and exp cannot overflow
    return hidden, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def cross_entropy(parameters: Parameters, images: Floats, labels: Integers) -> float:
    """Return the mean of -log(probability of the right class)."""
    _, log_probabilities = forward(parameters, images)
    return -float(log_probabilities[np.arange(len(labels)), labels].mean())


def accuracy(parameters: Parameters, images: Floats, labels: Integers) -> float:
    """Return the share of images whose most probable class is the right one."""
    _, log_probabilities = forward(parameters, images)
    return float((log_probabilities.argmax(axis=1) == labels).mean())


def backward(parameters: Parameters, images: Floats, labels: Integers) -> Parameters:
    """Return the gradient of `cross_entropy` for every parameter, under the parameter's name."""
    hidden, log_probabilities = forward(parameters, images)
    logits_gradient = np.exp(log_probabilities)
    logits_gradient[np.arange(len(labels)), labels] -= 1  # softmax and cross-entropy together: probability - truth
    logits_gradient /= len(labels)
    hidden_gradient = (logits_gradient @ parameters["W2"].T) * (1 - hidden**2)  # tanh' = 1 - tanh²
    return {
        "W1": images.T @ hidden_gradient,
        "b1": hidden_gradient.sum(axis=0),
        "W2": hidden.T @ logits_gradient,
        "b2": logits_gradient.sum(axis=0),
    }


# Optimizers


class Optimizer(Protocol):
    """What the training loop needs of an optimizer."""

    @property
    def state(self) -> Mapping[Any, Mapping[str, Any]]:
        """The state of every parameter, under the parameter's name."""

    def step(self, grads: Parameters) -> object:
        """Change the parameters in place."""


class GradientDescent:
    """W = W - η g: one constant learning rate for every weight, and no state."""

    def __init__(self, parameters: Parameters, lr: float) -> None:
        """Keep the parameters, which `step` changes in place."""
        self.parameters = parameters
        self.lr = lr
        self.state: dict[str, dict[str, Floats]] = {}

    def step(self, grads: Parameters) -> None:
        """Take one step against the gradient."""
        for name, grad in grads.items():
            self.parameters[name] -= self.lr * grad


@dataclass(frozen=True)
class Method:
    """One line of the table and one colour in the picture."""

    name: str
    lr: float
    colour: str
    create: Callable[[Parameters, float], Optimizer]
    accumulator: str | None  # what the optimizer calls its β; None if it keeps none


# RMSprop and Adagrad have their default learning rates; 0.1 is a usual first choice for plain gradient descent.
# Nothing was tuned. The colours can be told apart by colour-blind readers (Okabe and Ito).
METHODS = (
    Method("RMSprop", 1e-3, "#0072B2", lambda params, lr: RMSprop(params, lr=lr, eps=EPS), "square_avg"),
    Method("Adagrad", 1e-2, "#D55E00", lambda params, lr: Adagrad(params, lr=lr, eps=EPS), "sum"),
    Method("Gradient descent", 1e-1, "#7F7F7F", GradientDescent, None),
)


# Training


@dataclass(frozen=True)
class History:
    """What one method did: four arrays of one shape with what was recorded on the way, and the result at the end.

    `step` says after how many steps the others were taken. `loss` is over all training images. `accumulator` is the
    median of β over all parameters, None for a method without β; `effective_step` is η / √(β + ε) at that median.
    """

    method: Method
    step: Integers
    loss: Floats
    accumulator: Floats | None
    effective_step: Floats
    test_accuracy: float
    optimizer_seconds: float

    @property
    def effective_step_ratio(self) -> float:
        """The effective step in the last tenth of the run over that in the first tenth: 1 is constant, 0 is dead."""
        tenth = max(1, len(self.step) // 10)
        return float(np.median(self.effective_step[-tenth:]) / np.median(self.effective_step[:tenth]))


def steps_to_record(total: int) -> Integers:
    """Choose evenly spaced steps, the first and the last among them: 400 fill a panel, more would only take time."""
    return np.linspace(1, total, num=min(total, 400)).round().astype(np.int64)


def median_accumulator(optimizer: Optimizer, name: str) -> float:
    """Return the median of β over all parameters of the network."""
    return float(np.median(np.concatenate([state[name].ravel() for state in optimizer.state.values()])))


def effective_step(lr: float, accumulator: Floats | None, count: int) -> Floats:
    """Return η / √(β + ε): how far a gradient of 1 moves a weight. Without β that is the learning rate itself."""
    return np.full(count, lr) if accumulator is None else lr / np.sqrt(accumulator + EPS)


def train(method: Method, digits: Digits, settings: Settings, after_step: Callable[[], None]) -> History:
    """Train one network from its first weights with one method, and record its history."""
    parameters = initial_parameters(settings)
    optimizer = method.create(parameters, method.lr)
    recorded = steps_to_record(step_count(len(digits.train_labels), settings))
    record_after = set(recorded.tolist())
    losses, medians, seconds = [], [], 0.0

    for step, batch in enumerate(minibatches(len(digits.train_labels), settings), start=1):
        grads = backward(parameters, digits.train_images[batch], digits.train_labels[batch])

        started = perf_counter()
        optimizer.step(grads)
        seconds += perf_counter() - started

        if step in record_after:
            losses.append(cross_entropy(parameters, digits.train_images, digits.train_labels))
            if method.accumulator is not None:
                medians.append(median_accumulator(optimizer, method.accumulator))
        after_step()

    accumulator = np.array(medians) if medians else None
    return History(
        method=method,
        step=recorded,
        loss=np.array(losses),
        accumulator=accumulator,
        effective_step=effective_step(method.lr, accumulator, len(recorded)),
        test_accuracy=accuracy(parameters, digits.test_images, digits.test_labels),
        optimizer_seconds=seconds,
    )


def train_all(digits: Digits, settings: Settings, progress: Progress | None = None) -> list[History]:
    """Train with every method in turn, and advance one progress bar for each."""
    progress = progress or Progress(disable=True)
    total = step_count(len(digits.train_labels), settings)
    histories = []
    # One BLAS thread: matrices this small gain nothing from more, and their number could change sums.
    with threadpool_limits(limits=1, user_api="blas"):
        for method in METHODS:
            task = progress.add_task(method.name, total=total)
            histories.append(train(method, digits, settings, partial(progress.advance, task)))
    return histories


def progress_bars() -> Progress:
    """Return progress bars on standard error, so that a redirected standard output holds the table alone."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


# Table


def results_table(histories: Sequence[History], digits: Digits) -> Table:
    """Return the results as a table that fits in 80 columns."""
    table = Table(
        title=f"Handwritten digits: {len(digits.train_labels):,} to learn from, {len(digits.test_labels):,} to test on",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("Method", vertical="bottom", no_wrap=True)
    for heading in (
        "Learning\nrate",
        "Steps",
        "Test\naccuracy",
        "Training\nloss",
        "Optimizer\ntime",
        "Effective step\nend / start",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for history in histories:
        table.add_row(
            history.method.name,
            f"{history.method.lr:g}",
            f"{history.step[-1]:,}",
            f"{history.test_accuracy:.1%}",
            f"{history.loss[-1]:.4f}",
            f"{1000 * history.optimizer_seconds:.1f} ms",
            f"{history.effective_step_ratio:.2f}",
        )
    return table


# Picture


def draw(histories: Sequence[History]) -> Figure:
    """Draw the three panels: loss, accumulator, effective step."""
    figure = Figure(figsize=(12, 4.2), dpi=150, layout="constrained")
    loss_panel, accumulator_panel, step_panel = figure.subplots(1, 3)
    for history in histories:
        draw_line(loss_panel, history, history.loss)
        if history.accumulator is not None:
            draw_line(accumulator_panel, history, history.accumulator)
        draw_line(step_panel, history, history.effective_step)

    dress_panel(loss_panel, "Training loss", "Lower is better.")
    dress_panel(accumulator_panel, "Accumulator β", "Adagrad's only grows, RMSprop's forgets.")
    dress_panel(step_panel, "Effective step  η / √(β + ε)", "Adagrad's fades away, RMSprop's stays alive.")
    label_with_plain_numbers(loss_panel)
    label_with_plain_numbers(step_panel)
    figure.supxlabel("optimizer steps     (β is the median over all weights; gradient descent keeps none)", fontsize=11)
    lines_and_labels = loss_panel.get_legend_handles_labels()
    figure.legend(*lines_and_labels, loc="outside upper center", ncols=3, frameon=False, fontsize=12)
    return figure


def draw_line(axes: Axes, history: History, values: Floats) -> None:
    """Draw what was recorded of one method, in the colour of the method."""
    label = f"{history.method.name} (η = {history.method.lr:g})"
    axes.plot(history.step, values, color=history.method.colour, linewidth=1.8, label=label)


def dress_panel(axes: Axes, title: str, subtitle: str) -> None:
    """Give one panel its titles, a logarithmic scale and a light frame."""
    axes.set_title(title, loc="left", fontsize=14, fontweight="bold", pad=24)
    axes.text(0, 1.035, subtitle, transform=axes.transAxes, fontsize=11, color="#555555")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(True, color="#E5E5E5", linewidth=0.8)
    axes.margins(x=0.02)
    axes.spines[["top", "right"]].set_visible(False)


def label_with_plain_numbers(axes: Axes) -> None:
    """Label a logarithmic scale 0.1, 0.2, 0.5, 1: easier to read than powers of ten where there are few of them."""
    axes.yaxis.set_major_locator(LogLocator(subs=[1, 2, 5]))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


# All together


def run(settings: Settings, output: Path) -> None:
    """Train, print the table on standard output, and write the picture to `output`."""
    digits = load_data()
    with progress_bars() as progress:
        histories = train_all(digits, settings, progress)
    Console().print(results_table(histories, digits))
    draw(histories).savefig(output, format="png")
    print(f"Picture: {output}")
