"""Draw docs/which-rmsprop.png: how far one recipe drifts under each framework's meaning of "RMSprop".

    pip install '.[demo]' && python docs/which_rmsprop.py

The network, the images and the minibatches are those of `python -m rmsprop demo`. Every run has the same first weights
and the same recipe; only the preset, or one argument of it, differs. Takes some ten seconds, and draws the same picture
every time on one machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from threadpoolctl import threadpool_limits

import rmsprop
from rmsprop import presets, schedules
from rmsprop._commands import demo

PICTURE = Path(__file__).parent / "which-rmsprop.png"
SETTINGS = demo.Settings(epochs=20, batch_size=32, hidden_units=32, seed=0)
DATA = demo.load_data()
STEPS = demo.step_count(len(DATA.train_labels), SETTINGS)
CUT = STEPS // 2
RECIPE = {
    "lr": schedules.step_decay(1e-3, step_size=CUT, gamma=0.1),
    "alpha": 0.9,
    "momentum": 0.9,
    "weight_decay": 3e-4,
}
EARLY = 10

# Colours that stay apart for colour-blind readers (Okabe and Ito). Textbook and optax are one line for a long time.
FRAMEWORKS = {
    "PyTorch": (presets.torch, "#000000", "solid"),
    "TensorFlow 1, timm": (presets.tf1, "#009E73", "solid"),
    "Keras": (presets.keras, "#D55E00", "solid"),
    "Paddle": (presets.paddle, "#CC79A7", "solid"),
    "textbook": (presets.textbook, "#0072B2", "solid"),
    "optax": (presets.optax, "#56B4E9", (0, (3, 2))),
}
DIFFERENCES: dict[str, dict[str, Any]] = {
    "decoupled weight decay\n(Keras)": {"decoupled_weight_decay": True},
    "average starts at 1\n(TensorFlow 1, timm)": {"initial_accumulator_value": 1.0},
    "eps = 1e-6 inside of the root\n(Paddle)": {"eps": 1e-6, "eps_in_sqrt": True},
    "eps inside of the root\n(all but PyTorch)": {"eps_in_sqrt": True},
    "lr inside of the momentum\n(all but PyTorch and textbook)": {"lr_in_momentum": True},
}

Floats = NDArray[np.floating[Any]]


def all_weights(parameters: demo.Parameters) -> Floats:
    """Return every weight of the network in one array of float64."""
    return np.concatenate([array.ravel() for array in parameters.values()]).astype(np.float64)


def train(preset: Mapping[str, Any], progress: Progress, name: str) -> tuple[Floats, float]:
    """Train the demo's network with the recipe.

    Returns:
        All weights after each step, an array (steps, weights), and the accuracy on the test images at the end.
    """
    parameters = demo.initial_parameters(SETTINGS)
    optimizer = rmsprop.RMSprop(parameters, **{**preset, **RECIPE})
    batches = demo.minibatches(len(DATA.train_labels), SETTINGS)
    weights = []
    for batch in progress.track(batches, total=STEPS, description=name):
        optimizer.step(demo.backward(parameters, DATA.train_images[batch], DATA.train_labels[batch]))
        weights.append(all_weights(parameters))
    return np.array(weights), demo.accuracy(parameters, DATA.test_images, DATA.test_labels)


def drift(run: Floats, from_run: Floats) -> Floats:
    """Return how far apart two runs are after each step, as a share of the way that the second one has come."""
    start = all_weights(demo.initial_parameters(SETTINGS))
    distances: Floats = np.linalg.norm(run - from_run, axis=1) / np.linalg.norm(from_run - start, axis=1)
    return distances


def draw_frameworks(axes: Axes, drifts: Mapping[str, Floats]) -> None:
    """Draw a line for each framework, with its name and its last value at the end."""
    steps = np.arange(1, STEPS + 1)
    heights = spread([drifts[name][-1] for name in drifts], gap=0.055)
    for (name, drift), height in zip(drifts.items(), heights, strict=True):
        _, colour, style = FRAMEWORKS[name]
        axes.plot(steps, drift, color=colour, linestyle=style, linewidth=2.2)
        axes.annotate(
            f"{name}  {drift[-1]:.0%}",
            (STEPS, height),
            xytext=(8, 0),
            textcoords="offset points",
            color=colour,
            fontsize=11.5,
            va="center",
            annotation_clip=False,
        )
    axes.axvline(CUT, color="#888888", linewidth=1, linestyle=":")
    draw_notes(axes)
    axes.set_xscale("log")
    axes.set_xlim(1, STEPS)
    axes.set_xticks([1, 3, 10, 30, 100, 300, STEPS])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(-0.02, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("optimizer steps")


def draw_notes(axes: Axes) -> None:
    """Say beside the lines why they are where they are."""
    notes = (
        ("learning\nrate ÷ 10", (CUT, 0.995), "#555555", "right"),
        (
            "average starts at 1, not 0:\nfirst steps are a hundred\ntimes shorter",
            (1.1, 0.88),
            "#009E73",
            "left",
        ),
        ("eps counts most while\nthe average is small", (1.1, 0.3), "#0072B2", "left"),
    )
    for text, place, colour, side in notes:
        axes.annotate(
            text,
            place,
            xytext=(-5 if side == "right" else 0, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            color=colour,
            fontsize=10.5,
        )


def spread(heights: list[float], gap: float) -> list[float]:
    """Move heights that are closer than `gap` apart, so that words at these heights do not overlap."""
    order = np.argsort(heights)
    spread_out = list(heights)
    for below, above in pairwise(order):
        spread_out[above] = max(spread_out[above], spread_out[below] + gap)
    return spread_out


def draw_differences(axes: Axes, drifts: Mapping[str, Floats]) -> None:
    """Draw two bars for each difference: soon after the start, and at the end."""
    rows = np.arange(len(drifts))
    for offset, step, colour in ((-0.19, EARLY, "#B9B9B9"), (0.19, STEPS, "#4D4D4D")):
        values = [drift[step - 1] for drift in drifts.values()]
        bars = axes.barh(rows + offset, values, height=0.36, color=colour, label=f"after {step} steps")
        axes.bar_label(bars, [f"{value:.0%}" if value > 0.0005 else "0" for value in values], padding=4, fontsize=11)
    axes.set_yticks(rows, list(drifts), fontsize=11)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(loc="lower right", frameon=False, fontsize=11)


def draw(frameworks: Mapping[str, Floats], differences: Mapping[str, Floats]) -> Figure:
    """Draw both panels."""
    figure = Figure(figsize=(13, 5.8), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    draw_frameworks(left, frameworks)
    draw_differences(right, differences)
    titles = (
        ("One recipe, another result in each framework", "how far the weights are from those that PyTorch gives"),
        ("One difference at a time", "everything else as in PyTorch"),
    )
    for axes, (title, subtitle) in zip((left, right), titles, strict=True):
        axes.set_title(title, loc="left", fontsize=14, fontweight="bold", pad=26)
        axes.text(0, 1.03, subtitle, transform=axes.transAxes, fontsize=11, color="#555555")
        axes.grid(True, axis="both" if axes is left else "x", color="#E5E5E5", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(
        "Same network, images, first weights, lr, alpha, momentum and weight decay.   "
        "100% is as far as PyTorch itself has come from the first weights.",
        fontsize=11,
        color="#555555",
    )
    return figure


def main() -> None:
    """Train, print what the picture shows, and write it."""
    runs: dict[str, Mapping[str, Any]] = {name: preset for name, (preset, _, _) in FRAMEWORKS.items()}
    runs |= {name.replace("\n", " "): presets.torch | change for name, change in DIFFERENCES.items()}
    # One BLAS thread, so that the number of processors changes no sum.
    with threadpool_limits(limits=1, user_api="blas"), Progress(console=Console(stderr=True)) as progress:
        results = {name: train(preset, progress, name) for name, preset in runs.items()}
    drifts = {name: drift(weights, results["PyTorch"][0]) for name, (weights, _) in results.items()}
    for name, values in drifts.items():
        print(f"{name:58} drift {values[EARLY - 1]:6.1%} {values[-1]:6.1%}   test accuracy {results[name][1]:.1%}")
    differences = {name: drifts[name.replace("\n", " ")] for name in DIFFERENCES}
    draw({name: drifts[name] for name in FRAMEWORKS}, differences).savefig(
        PICTURE, metadata={"Software": None}, pil_kwargs={"optimize": True}
    )
    print(f"Picture: {PICTURE.name}")


if __name__ == "__main__":
    main()
