"""What a peer declares, and the interface of its contenders."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from peers.arrays import Arrays

Options = Mapping[str, Any]


class Contender(Protocol):
    """Parameters with their optimizer, ready to step."""

    def run(self, steps: int) -> None:
        """Take this many steps, and return when the last one is done."""

    def params(self) -> list[np.ndarray]:
        """Return the parameters as they are now."""

    def state_bytes(self) -> int:
        """Return the size of what the optimizer keeps from step to step."""


class NoSuchRuleError(Exception):
    """The peer has no optimizer of this kind."""


@dataclass(frozen=True)
class Peer:
    """One way to take a step."""

    name: str
    framework: str
    make: Callable[[Arrays, Options], Contender]
    """Makes a contender from arrays and the hyperparameters `lr`, `alpha`, `eps` and what the rule adds. Raises
    NoSuchRuleError for a rule that the peer lacks. Imports what it needs, so that a missing package affects only one
    peer."""

    packages: tuple[str, ...] = ()
    """The distributions whose versions matter."""

    install: str = ""
    """The command that installs them."""

    formula: str = "rmsprop"
    """Which formula its steps follow: rmsprop, adagrad, adam or sgd; empty for loops that are no step."""

    meaning: Mapping[str, Any] = field(default_factory=dict)
    """How its formula differs from ours by design, in the words of rmsprop.reference."""

    why: str = ""
    """The same in words."""

    approximate: bool = False
    """Its state is rounded so coarsely that its steps are only near the formula's."""

    writes_grads: bool = False
    """It writes into the gradients, so that it needs some of its own."""


@dataclass
class Steps:
    """A contender made of functions."""

    step: Callable[[], object]
    read_params: Callable[[], list[np.ndarray]]
    read_state_bytes: Callable[[], int]
    wait: Callable[[], object] = lambda: None

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()
        self.wait()

    def params(self) -> list[np.ndarray]:
        return self.read_params()

    def state_bytes(self) -> int:
        return self.read_state_bytes()


def only_plain(options: Options, what: str) -> None:
    if options.get("centered") or options.get("momentum"):
        raise NoSuchRuleError(f"{what} has no centered form with momentum")
