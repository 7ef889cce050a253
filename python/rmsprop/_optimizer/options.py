"""Options of steps, for all optimizers."""

from rmsprop._core import Stepper
from rmsprop._optimizer.types import Nonfinite


class StepOptions:
    """The options that an optimizer's stepper keeps, checked on assignment."""

    _stepper: Stepper

    @property
    def nonfinite(self) -> Nonfinite:
        """What a step does if a gradient is not finite: "propagate", "skip" or "raise"."""
        return self._stepper.nonfinite

    @nonfinite.setter
    def nonfinite(self, value: Nonfinite) -> None:
        self._stepper.nonfinite = value

    @property
    def skipped_steps(self) -> int:
        """How many steps were skipped because of `nonfinite`."""
        return self._stepper.skipped_steps

    @skipped_steps.setter
    def skipped_steps(self, count: int) -> None:
        self._stepper.skipped_steps = count

    @property
    def num_threads(self) -> int | None:
        """Maximum number of threads for a step; None for `rmsprop.get_num_threads()`."""
        return self._stepper.num_threads

    @num_threads.setter
    def num_threads(self, value: int | None) -> None:
        self._stepper.num_threads = value
