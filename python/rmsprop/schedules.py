"""Learning rates that change during training: small pure functions from the number of steps taken to a learning rate.

Give one to an optimizer as `lr`. At each step the optimizer calls it with the number of steps taken so far, so the
first call gets 0:

    >>> import numpy as np, rmsprop
    >>> w = np.array([1.0, 2.0])
    >>> opt = rmsprop.RMSprop(w, lr=rmsprop.schedules.exponential(0.1, gamma=0.5))
    >>> opt.step(2 * w)  # with lr = 0.1
    >>> opt.step(2 * w)  # with lr = 0.05
    >>> opt.lr(opt.state[0]["step"])  # what the next step will use
    0.025

A schedule has no state: there is nothing to call after a step and nothing to save. Its value is a closed form of the
step count, so a resumed run continues with the same bits. It uses only IEEE-754 additions, multiplications and
divisions, so the bits are the same on every machine. Schedules can be pickled, copied, compared and printed. Any other
callable from an int to a number works as well.

Warning: the unit is the optimizer step, not the epoch. PyTorch's schedulers count calls of *their own* `step`, which
most programs make once per epoch. Multiply such counts by the number of steps per epoch.

| here | PyTorch | the learning rate |
|---|---|---|
| `constant` | `ConstantLR(factor=1)` | stays |
| `step_decay` | `StepLR` | drops by a factor at regular intervals |
| `exponential` | `ExponentialLR` | drops by a factor at every step |
| `cosine` | `CosineAnnealingLR` | falls along half a cosine wave |
| `linear_warmup` | `LinearLR` | rises along a line |
| `one_cycle` | `OneCycleLR` | rises, then falls below where it began |
| `sequential` | `SequentialLR` | follows one schedule after the other |

Arguments have PyTorch's names and defaults, and the values are PyTorch's, except where a docstring says otherwise.
"""

from __future__ import annotations

import math
import numbers
import operator
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any

import numpy as np

from rmsprop.reference import power

__all__ = ["constant", "cosine", "exponential", "linear_warmup", "one_cycle", "sequential", "step_decay"]


def number_at_least_zero(name: str, value: Any) -> float:
    """Check and return a finite number that is not negative."""
    number = float_from(name, value)
    if not (math.isfinite(number) and number >= 0.0):
        raise ValueError(f"{name}: got {value!r}, wanted a finite number >= 0")
    return number


def number_above_zero(name: str, value: Any) -> float:
    """Check and return a finite number above 0."""
    number = float_from(name, value)
    if not (math.isfinite(number) and number > 0.0):
        raise ValueError(f"{name}: got {value!r}, wanted a finite number > 0")
    return number


def number_from_zero_to_one(name: str, value: Any) -> float:
    """Check and return a number from 0 to 1."""
    number = float_from(name, value)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{name}: got {value!r}, wanted a number from 0 to 1")
    return number


def float_from(name: str, value: Any) -> float:
    """Check and return a number, which may still be NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: got {type(value).__name__}, wanted a number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: got {value!r}, wanted a number that a float can hold") from None


def count(name: str, value: Any, least: int = 1) -> int:
    """Check and return a number of steps."""
    try:
        # NumPy before 2.3 takes its truth values for indices, and warns.
        number = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name}: got {type(value).__name__}, wanted an int")
    if number < least:
        raise ValueError(f"{name}: got {value!r}, wanted an int >= {least}")
    return number


def increasing_counts(name: str, value: Any) -> tuple[int, ...]:
    """Check and return numbers of steps, each larger than the one before."""
    counts = tuple(count(f"{name}[{i}]", item) for i, item in enumerate(sequence(name, value, "ints")))
    for i in range(1, len(counts)):
        if counts[i] <= counts[i - 1]:
            raise ValueError(f"{name}[{i}]: got {counts[i]} after {counts[i - 1]}, wanted increasing numbers")
    return counts


def callables(name: str, value: Any) -> tuple[Callable[[int], float], ...]:
    """Check and return at least one function."""
    items = sequence(name, value, "schedules")
    if not items:
        raise ValueError(f"{name}: got none, wanted at least one schedule")
    for i, item in enumerate(items):
        if not callable(item):
            raise TypeError(f"{name}[{i}]: got {type(item).__name__}, wanted a callable such as constant(lr)")
    return items


def sequence(name: str, value: Any, items: str) -> tuple[Any, ...]:
    """Check a list or tuple, and return it as a tuple, which cannot change later."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise TypeError(f"{name}: got {type(value).__name__}, wanted a sequence of {items}")
    return tuple(value)


# What each argument must be, whichever schedule it belongs to.
CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "lr": number_at_least_zero,
    "max_lr": number_at_least_zero,
    "eta_min": number_at_least_zero,
    "gamma": number_at_least_zero,
    "div_factor": number_above_zero,
    "final_div_factor": number_above_zero,
    "start_factor": number_from_zero_to_one,
    "pct_start": number_from_zero_to_one,
    "step_size": count,
    "T_max": count,
    "total_iters": count,
    "total_steps": count,
    "schedules": callables,
    "milestones": increasing_counts,
}


@dataclass(frozen=True)
class Schedule(ABC):
    """What all schedules have in common: checked arguments, and a checked step count. Not for use on its own."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = CHECKS[field.name](field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)  # a frozen dataclass has no other way to set a field

    def __call__(self, step: int) -> float:
        """Return the learning rate for the next step, where `step` steps have been taken so far.

        Raises:
            TypeError: `step` is not an int.
            ValueError: `step` is negative.
        """
        if type(step) is not int or step < 0:
            step = count("step", step, least=0)
        return self.lr_after(step)

    @abstractmethod
    def lr_after(self, step: int) -> float:
        """Return the learning rate after `step` steps; `step` has been checked."""


# Lower-case classes, like `functools.partial`: they are used as functions with bound arguments.


@dataclass(frozen=True)
class constant(Schedule):
    """A constant learning rate: `lr(step) = lr`. For use in `sequential`; an optimizer also takes a number.

    Args:
        lr: learning rate, finite and >= 0.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is NaN, infinite or out of range.

    Examples:
        >>> schedule = constant(0.01)
        >>> schedule(0), schedule(1000)
        (0.01, 0.01)
    """

    lr: float

    def lr_after(self, step: int) -> float:
        """Return the learning rate after `step` steps."""
        return self.lr


@dataclass(frozen=True)
class step_decay(Schedule):
    """Multiply the learning rate by `gamma` every `step_size` steps.

    Formula:
        lr(step) = lr * gamma**(step // step_size)

    Args:
        lr: learning rate of the first `step_size` steps, finite and >= 0.
        step_size: number of optimizer steps between two changes, at least 1.
        gamma: factor, finite and >= 0.

    Raises:
        TypeError: an argument is not a number, or `step_size` is not an int.
        ValueError: an argument is NaN, infinite or out of range.

    Examples:
        >>> schedule = step_decay(1.0, step_size=30, gamma=0.5)
        >>> [schedule(step) for step in (0, 29, 30, 60)]
        [1.0, 1.0, 0.5, 0.25]

    Source: `torch.optim.lr_scheduler.StepLR`, whose values these are.
    """

    lr: float
    step_size: int
    gamma: float = 0.1

    def lr_after(self, step: int) -> float:
        """Return the learning rate after `step` steps."""
        return self.lr * power(self.gamma, step // self.step_size)


@dataclass(frozen=True)
class exponential(Schedule):
    """Multiply the learning rate by `gamma` at every step.

    Formula:
        lr(step) = lr * gamma**step

    A schedule that falls by a factor f in n steps has `gamma = f ** (1 / n)`.

    Args:
        lr: learning rate of the first step, finite and >= 0.
        gamma: factor per optimizer step, finite and >= 0; above 1 the learning rate grows.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is NaN, infinite or out of range.

    Examples:
        >>> schedule = exponential(1.0, gamma=0.5)
        >>> [schedule(step) for step in range(4)]
        [1.0, 0.5, 0.25, 0.125]

    Source: `torch.optim.lr_scheduler.ExponentialLR`, whose values these are.
    """

    lr: float
    gamma: float

    def lr_after(self, step: int) -> float:
        """Return the learning rate after `step` steps."""
        return self.lr * power(self.gamma, step)


@dataclass(frozen=True)
class cosine(Schedule):
    """Fall from `lr` to `eta_min` along half a cosine wave, in `T_max` steps: slowly, then fast, then slowly.

    Formula, and `eta_min` once step is `T_max` or more:
        lr(step) = eta_min + (lr - eta_min) * (1 + cos(pi * step / T_max)) / 2

    Warning: after `T_max` steps the learning rate stays at `eta_min`, as in Keras and optax. PyTorch's climbs back to
    `lr` along the other half of the wave.

    Args:
        lr: learning rate of the first step, finite and >= 0.
        T_max: number of optimizer steps until `eta_min` is reached, at least 1.
        eta_min: learning rate at the end, finite and >= 0.

    Raises:
        TypeError: an argument is not a number, or `T_max` is not an int.
        ValueError: an argument is NaN, infinite or out of range.

    Examples:
        >>> schedule = cosine(1.0, T_max=100)
        >>> [round(schedule(step), 4) for step in (0, 25, 50, 75, 100, 101)]
        [1.0, 0.8536, 0.5, 0.1464, 0.0, 0.0]

    Source: I. Loshchilov and F. Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, ICLR 2017, without the
    restarts; `torch.optim.lr_scheduler.CosineAnnealingLR`, whose values these are up to `T_max`.
    """

    lr: float
    T_max: int
    eta_min: float = 0.0

    def lr_after(self, step: int) -> float:
        """Return the learning rate after `step` steps."""
        return along_half_cosine(self.lr, self.eta_min, min(step, self.T_max) / self.T_max)


@dataclass(frozen=True)
class linear_warmup(Schedule):
    """Rise from `start_factor * lr` to `lr` along a line, in `total_iters` steps, and stay there.

    Formula, and `lr` once step is `total_iters` or more:
        lr(step) = lr * (start_factor + (1 - start_factor) * step / total_iters)

    An average that starts at 0 makes the first steps of RMSprop large and noisy; a warm-up keeps them small. Most often
    another schedule follows: see `sequential`.

    Args:
        lr: learning rate at the end, finite and >= 0.
        total_iters: number of optimizer steps until `lr` is reached, at least 1.
        start_factor: share of `lr` to begin with, from 0 to 1. With 0 the first step changes the optimizer's state but
            no parameter.

    Raises:
        TypeError: an argument is not a number, or `total_iters` is not an int.
        ValueError: an argument is NaN, infinite or out of range.

    Examples:
        >>> schedule = linear_warmup(1.0, total_iters=4, start_factor=0.5)
        >>> [schedule(step) for step in range(6)]
        [0.5, 0.625, 0.75, 0.875, 1.0, 1.0]

    Source: P. Goyal et al., Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour, 2017;
    `torch.optim.lr_scheduler.LinearLR`, whose values these are.
    """

    lr: float
    total_iters: int
    start_factor: float = 1 / 3

    def lr_after(self, step: int) -> float:
        """Return the learning rate after `step` steps."""
        if step >= self.total_iters:
            return self.lr  # the formula may differ from it by a rounding
        return self.lr * (self.start_factor + (1.0 - self.start_factor) * step / self.total_iters)


@dataclass(frozen=True)
class one_cycle(Schedule):
    """Rise to `max_lr`, then fall far below the beginning, both along half a cosine wave, in `total_steps` steps.

    Formula:
        first = max_lr / div_factor, last = first / final_div_factor, peak = pct_start * total_steps - 1
        from first to max_lr in steps 0 to peak, from max_lr to last in steps peak to total_steps - 1,
        each along start + (end - start) * (1 - cos(pi * share)) / 2; then last

    Warning: PyTorch's `OneCycleLR` also moves the momentum between 0.85 and 0.95 unless it gets
    `cycle_momentum=False`, and so enables momentum in an RMSprop that was made without it. This schedule does not
    change momentum. After `total_steps` the learning rate stays at its last value; PyTorch raises an error.

    Args:
        max_lr: learning rate at the peak, finite and >= 0.
        total_steps: number of optimizer steps in the whole cycle, at least 1.
        pct_start: share of the cycle that is spent rising, from 0 to 1.
        div_factor: `max_lr / div_factor` is the first learning rate; finite and above 0.
        final_div_factor: the first learning rate divided by this is the last one; finite and above 0.

    Raises:
        TypeError: an argument is not a number, or `total_steps` is not an int.
        ValueError: an argument is NaN, infinite or out of range.

    Examples:
        >>> schedule = one_cycle(1.0, total_steps=100)
        >>> [round(schedule(step), 6) for step in (0, 29, 64, 99)]
        [0.04, 1.0, 0.500002, 4e-06]

    Source: L. N. Smith and N. Topin, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning
    Rates, 2018; `torch.optim.lr_scheduler.OneCycleLR`, whose learning rates these are.
    """

    max_lr: float
    total_steps: int
    _: KW_ONLY
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def lr_after(self, step: int) -> float:
        """Return the learning rate after `step` steps."""
        first = self.max_lr / self.div_factor
        last = first / self.final_div_factor
        peak = self.pct_start * self.total_steps - 1.0  # may lie between two steps, or before the first one
        end = self.total_steps - 1
        step = min(step, end)
        if step <= peak and peak > 0.0:
            return along_half_cosine(first, self.max_lr, step / peak)
        if peak < end:
            return along_half_cosine(self.max_lr, last, (step - peak) / (end - peak))
        return self.max_lr  # the cycle is a single step, and that is the peak


@dataclass(frozen=True)
class sequential(Schedule):
    """Follow one schedule after the other; each counts from its own start.

    Formula, with milestones[-1] = 0 before the first and no end after the last:
        lr(step) = schedules[i](step - milestones[i - 1])  where  milestones[i - 1] <= step < milestones[i]

    Warning: this is PyTorch's `SequentialLR`. Its `ChainedScheduler` differs: it multiplies schedules.

    Args:
        schedules: at least one; any callables from a step count to a learning rate, another `sequential` included.
        milestones: the optimizer step at which each schedule but the first begins; increasing, at least 1.

    Raises:
        TypeError: a schedule is not callable, or a milestone is not an int.
        ValueError: the milestones do not increase, or there is not exactly one fewer of them than of the schedules.

    Examples:
        Five steps of warm-up, then a cosine to the end of a run of 100:

        >>> schedule = sequential([linear_warmup(1.0, 5, start_factor=0.0), cosine(1.0, 95)], milestones=[5])
        >>> [round(schedule(step), 4) for step in (0, 4, 5, 6, 99, 100)]
        [0.0, 0.8, 1.0, 0.9997, 0.0003, 0.0]

    Source: `torch.optim.lr_scheduler.SequentialLR`, whose values these are.
    """

    schedules: Sequence[Callable[[int], float]]
    milestones: Sequence[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.milestones) != len(self.schedules) - 1:
            raise ValueError(
                f"milestones: got {len(self.milestones)} for {len(self.schedules)} schedules, "
                f"wanted {len(self.schedules) - 1}: one for each schedule but the first"
            )

    def lr_after(self, step: int) -> float:
        """Return the learning rate after `step` steps."""
        index = bisect_right(self.milestones, step)
        start = self.milestones[index - 1] if index else 0
        return self.schedules[index](step - start)


def along_half_cosine(start: float, end: float, fraction: float) -> float:
    """Interpolate from `start` to `end` along half a cosine wave for `fraction` from 0 to 1, exact at both ends."""
    weight = half_cosine(fraction)
    return weight * start + (1.0 - weight) * end


def half_cosine(fraction: float) -> float:
    """Return (1 + cos(pi * fraction)) / 2, which falls from 1 to 0 as `fraction` goes from 0 to 1.

    Not by `math.cos`, whose last bit depends on the C library, but as sin(y)**2 or 1 - sin(y)**2 with y up to pi / 4,
    where nine terms of the sine's series are exact but for rounding. Nor does it lose digits near 0, as 1 + cos does.
    """
    y = math.pi / 2 * min(fraction, 1.0 - fraction)
    sine_over_y = 1.0
    for n in range(16, 0, -2):
        sine_over_y = 1.0 - sine_over_y * (y * y) / (n * (n + 1))
    square = (sine_over_y * y) * (sine_over_y * y)
    return square if fraction > 0.5 else 1.0 - square
