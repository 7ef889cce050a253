"""Draw docs/fewer-bits.png, and print its table: does an average in fewer bits still forget?

    pip install '.[demo,bfloat16]' && python docs/fewer_bits.py

Gradients are 1 until the average has settled, and 0.1 from then on, but for one element of each block of 256, which
stays at 1. Shown is the step of the others over that of a float64 average: 1 is right, and below it the old, large
gradients are not forgotten. Takes some ten seconds, and draws the same picture every time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from rmsprop import RMSprop
from rmsprop._optimizer.storage import in_full
from rmsprop.reference import BLOCK, decode_bfloat16, encode_bfloat16

PICTURE = Path(__file__).parent / "fewer-bits.png"
ALPHAS = (0.9, 0.99, 0.999)
SIZE = 16 * BLOCK
BEFORE, AFTER = 1.0, 0.1

# Colours that stay apart for colour-blind readers (Okabe and Ito).
FORMATS: dict[str, tuple[str | None, str]] = {
    "float32": (None, "#000000"),
    "bfloat16": ("bfloat16", "#0072B2"),
    "8 bits": ("8bit", "#D55E00"),
}
NEAREST, NEAREST_COLOUR = "bfloat16, nearest", "#999999"

Floats = NDArray[np.float64]


def ratios(state_dtype: str | None, alpha: float) -> tuple[Floats, Floats]:
    """Return mean and spread of the step after the fall, over the right one, at each of 10 / (1 - alpha) steps."""
    optimizer = RMSprop(
        np.zeros(SIZE, np.float32),
        lr=0.0,
        alpha=alpha,
        initial_accumulator_value=BEFORE**2,
        state_dtype=state_dtype,  # type: ignore[arg-type]
    )
    grads = np.full(SIZE, AFTER, np.float32)
    grads[::BLOCK] = BEFORE
    exact = BEFORE**2
    means, spreads = [], []
    for _ in range(round(10 / (1 - alpha))):
        optimizer.step(grads)
        exact = alpha * exact + (1 - alpha) * AFTER**2
        average = np.delete(in_full(optimizer.state[0], "square_avg"), np.s_[::BLOCK]).astype(np.float64)
        steps = np.sqrt(exact / average)
        means.append(steps.mean())
        spreads.append(steps.std())
    return np.array(means), np.array(spreads)


def ratios_of_nearest(alpha: float) -> tuple[Floats, Floats]:
    """Return the same for an average in bfloat16 that is rounded to nearest, as no optimizer here does."""
    average, exact = np.full(1, BEFORE**2, np.float32), BEFORE**2
    means = []
    for _ in range(round(10 / (1 - alpha))):
        average = np.float32(alpha) * average + np.float32(1 - alpha) * np.float32(AFTER**2)
        average = decode_bfloat16(encode_bfloat16(average))
        exact = alpha * exact + (1 - alpha) * AFTER**2
        means.append(float(np.sqrt(exact / average[0])))
    return np.array(means), np.zeros(len(means))


def main() -> None:
    """Draw the picture and print the table."""
    curves: dict[tuple[str, float], tuple[Floats, Floats]] = {}
    for alpha in ALPHAS:
        for name, (state_dtype, _) in FORMATS.items():
            curves[name, alpha] = ratios(state_dtype, alpha)
        curves[NEAREST, alpha] = ratios_of_nearest(alpha)
    colours = {**{name: colour for name, (_, colour) in FORMATS.items()}, NEAREST: NEAREST_COLOUR}
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes: Any = figure.subplots(1, len(ALPHAS), sharey=True)
    for plot, alpha in zip(axes, ALPHAS, strict=True):
        for name, colour in colours.items():
            mean, spread = curves[name, alpha]
            steps = np.arange(1, mean.size + 1)
            plot.plot(steps, mean, color=colour, label=name)
            plot.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
        plot.set_title(f"alpha = {alpha}")
        plot.set_xlabel("steps after the gradients fell")
        plot.yaxis.set_major_formatter(PercentFormatter(1))
    axes[0].set_ylabel("step, of the right one")
    axes[0].legend()
    figure.savefig(PICTURE, dpi=100)
    print("| square_avg | " + " | ".join(f"alpha = {alpha}" for alpha in ALPHAS) + " |")
    print("|---" * (1 + len(ALPHAS)) + "|")
    for name in colours:
        last = [(curves[name, alpha][0][-1], curves[name, alpha][1][-1]) for alpha in ALPHAS]
        print(f"| {name} | " + " | ".join(f"{mean:.3f} ± {spread:.3f}" for mean, spread in last) + " |")


if __name__ == "__main__":
    main()
