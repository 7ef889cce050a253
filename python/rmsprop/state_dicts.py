"""State dicts in PyTorch's layout."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rmsprop.optimizers import Optimizer


def state_dict(optimizer: "Optimizer") -> dict[str, Any]:
    """Return state and hyperparameters; see `Optimizer.state_dict`."""
    raise NotImplementedError


def load_state_dict(optimizer: "Optimizer", state_dict: Mapping[str, Any]) -> None:
    """Load what `state_dict` returned; see `Optimizer.load_state_dict`."""
    raise NotImplementedError
