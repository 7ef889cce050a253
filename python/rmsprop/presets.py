"""The definition of "RMSprop" and "Adagrad" in each framework, under the framework's name.

To reproduce a recipe from another framework, use its preset:

    >>> import numpy as np, rmsprop
    >>> weights = np.ones(3)
    >>> opt = rmsprop.RMSprop(weights, lr=0.1, momentum=0.9, **rmsprop.presets.tf1)
    >>> opt = rmsprop.Adagrad(weights, **rmsprop.presets.adagrad.torch)

A preset is a read-only mapping with the framework's defaults for every argument in which frameworks differ. To change
one, or the `lr` of a preset that has one, put your own value after it:

    >>> opt = rmsprop.RMSprop(weights, **rmsprop.presets.torch | {"lr": 3e-4})
    >>> opt.lr, opt.param_groups[0]["alpha"]
    (0.0003, 0.99)

It can be used in a parameter group, too: `{"params": weights, **rmsprop.presets.keras}`.

RMSprop:

| preset | lr | alpha | eps | eps_in_sqrt | initial_accumulator_value | lr_in_momentum | weight decay |
|---|---|---|---|---|---|---|---|
| `textbook` (the defaults here) | 1e-3 | 0.9 | 1e-8 | yes | 0 | no | L2 |
| `torch` | 1e-2 | 0.99 | 1e-8 | no | 0 | no | L2 |
| `keras` | 1e-3 | 0.9 | 1e-7 | yes | 0 | yes | decoupled |
| `optax` | none | 0.9 | 1e-8 | yes | 0 | yes | none |
| `tf1` | none | 0.9 | 1e-10 | yes | 1 | yes | none |
| `timm` | 1e-2 | 0.9 | 1e-10 | yes | 1 | yes | L2 |
| `paddle` | none | 0.95 | 1e-6 | yes | 0 | yes | L2 |

Adagrad:

| preset | lr | eps | eps_in_sqrt | initial_accumulator_value | weight decay |
|---|---|---|---|---|---|
| `adagrad.textbook` (the defaults here) | 1e-2 | 1e-8 | yes | 0 | L2 |
| `adagrad.torch` | 1e-2 | 1e-10 | no | 0 | L2 |
| `adagrad.keras` | 1e-3 | 1e-7 | yes | 0.1 | decoupled |
| `adagrad.optax` | none | 1e-7 | yes | 0.1 | none |
| `adagrad.tf1` | none | 0 | yes | 0.1 | none |
| `adagrad.paddle` | none | 1e-6 | no | 0 | L2 |

Where `lr` is "none", the framework has no default and requires one. The preset has no `lr` either: give one, or the
optimizer uses its own default. Where weight decay is "none", the framework's optimizer has no such argument, and
`weight_decay` here is L2, which is what `optax.add_decayed_weights` in front of the optimizer does.

A preset gives the formula and the defaults of the framework. Three differences remain: a variance below 0, which
rounding can give with `centered`, counts as 0 here, but not elsewhere; real and imaginary part of a complex number are
two elements here, as in PyTorch, and one in optax; and the last bits differ, since frameworks round at other points.
The page "Which RMSprop is this?" (docs/which-rmsprop.md) explains each difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class Preset(Mapping[str, Any]):
        """A `MappingProxyType`, in whose own types all values of `preset | {"lr": 3e-4}` would be numbers."""

        def __init__(self, values: Mapping[str, Any]) -> None: ...
        def __getitem__(self, name: str) -> Any: ...
        def __iter__(self) -> Iterator[str]: ...
        def __len__(self) -> int: ...
        def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]: ...
        def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]: ...
        def copy(self) -> dict[str, Any]: ...

else:
    Preset = MappingProxyType

__all__ = ["adagrad", "keras", "optax", "paddle", "textbook", "tf1", "timm", "torch"]

textbook = Preset(
    {
        "lr": 1e-3,
        "alpha": 0.9,
        "eps": 1e-8,
        "eps_in_sqrt": True,
        "initial_accumulator_value": 0.0,
        "lr_in_momentum": False,
        "decoupled_weight_decay": False,
    }
)
"""The textbook form (Tieleman and Hinton, 2012), and the defaults of `rmsprop.RMSprop`."""

torch = Preset(
    {
        "lr": 1e-2,
        "alpha": 0.99,
        "eps": 1e-8,
        "eps_in_sqrt": False,
        "initial_accumulator_value": 0.0,
        "lr_in_momentum": False,
        "decoupled_weight_decay": False,
    }
)
"""`torch.optim.RMSprop`. Its arguments have the same names here."""

keras = Preset(
    {
        "lr": 1e-3,
        "alpha": 0.9,
        "eps": 1e-7,
        "eps_in_sqrt": True,
        "initial_accumulator_value": 0.0,
        "lr_in_momentum": True,
        "decoupled_weight_decay": True,
    }
)
"""`keras.optimizers.RMSprop`, Keras 3, and that of TensorFlow 2.11 and later. `rho` there is `alpha` here.

Keras rounds the learning rate to 32 bits. `tf.keras.optimizers.legacy.RMSprop` is this with momentum;
without, it has `eps_in_sqrt=False`.
"""

optax = Preset(
    {
        "alpha": 0.9,
        "eps": 1e-8,
        "eps_in_sqrt": True,
        "initial_accumulator_value": 0.0,
        "lr_in_momentum": True,
        "decoupled_weight_decay": False,
    }
)
"""`optax.rmsprop`, which has no default learning rate. `decay` there is `alpha` here.

`initial_scale` there is `initial_accumulator_value` here; `nesterov` and `bias_correction` mean the same in both.
"""

tf1 = Preset(
    {
        "alpha": 0.9,
        "eps": 1e-10,
        "eps_in_sqrt": True,
        "initial_accumulator_value": 1.0,
        "lr_in_momentum": True,
        "decoupled_weight_decay": False,
    }
)
"""`tf.compat.v1.train.RMSPropOptimizer`, which has no default learning rate. `decay` there is `alpha` here."""

timm = Preset(
    {
        "lr": 1e-2,
        "alpha": 0.9,
        "eps": 1e-10,
        "eps_in_sqrt": True,
        "initial_accumulator_value": 1.0,
        "lr_in_momentum": True,
        "decoupled_weight_decay": False,
    }
)
"""`timm.optim.RMSpropTF`: TensorFlow 1's numbers in PyTorch. `decoupled_decay` there is `decoupled_weight_decay` here.

Its `caution` and `corrected_weight_decay`, both off by default, have no counterpart here.
"""

paddle = Preset(
    {
        "alpha": 0.95,
        "eps": 1e-6,
        "eps_in_sqrt": True,
        "initial_accumulator_value": 0.0,
        "lr_in_momentum": True,
        "decoupled_weight_decay": False,
    }
)
"""`paddle.optimizer.RMSProp`, which has no default learning rate. `rho` there is `alpha` here.

Paddle rounds rho, epsilon and momentum to 32 bits, even for parameters of 64.
"""


class adagrad:
    """The presets of Adagrad: `rmsprop.Adagrad(params, **rmsprop.presets.adagrad.torch)`.

    Each has `lr_decay`, which RMSprop lacks, so that a preset of one optimizer is an error in the other.
    """

    textbook = Preset(
        {
            "lr": 1e-2,
            "lr_decay": 0.0,
            "eps": 1e-8,
            "eps_in_sqrt": True,
            "initial_accumulator_value": 0.0,
            "decoupled_weight_decay": False,
        }
    )
    """The textbook form (Duchi, Hazan and Singer, 2011), and the defaults of `rmsprop.Adagrad`."""

    torch = Preset(
        {
            "lr": 1e-2,
            "lr_decay": 0.0,
            "eps": 1e-10,
            "eps_in_sqrt": False,
            "initial_accumulator_value": 0.0,
            "decoupled_weight_decay": False,
        }
    )
    """`torch.optim.Adagrad`. Its arguments have the same names here."""

    keras = Preset(
        {
            "lr": 1e-3,
            "lr_decay": 0.0,
            "eps": 1e-7,
            "eps_in_sqrt": True,
            "initial_accumulator_value": 0.1,
            "decoupled_weight_decay": True,
        }
    )
    """`keras.optimizers.Adagrad`. It rounds the learning rate to 32 bits."""

    optax = Preset(
        {
            "lr_decay": 0.0,
            "eps": 1e-7,
            "eps_in_sqrt": True,
            "initial_accumulator_value": 0.1,
            "decoupled_weight_decay": False,
        }
    )
    """`optax.adagrad`, which has no default learning rate.

    Where the sum is 0, optax makes no step. The sum starts at 0.1 and only grows, so this never happens with the
    preset; with `initial_accumulator_value=0` and `eps=0` a gradient of 0 gives NaN here.
    """

    tf1 = Preset(
        {
            "lr_decay": 0.0,
            "eps": 0.0,
            "eps_in_sqrt": True,
            "initial_accumulator_value": 0.1,
            "decoupled_weight_decay": False,
        }
    )
    """`tf.compat.v1.train.AdagradOptimizer`, which has no default learning rate, and no eps at all."""

    paddle = Preset(
        {
            "lr_decay": 0.0,
            "eps": 1e-6,
            "eps_in_sqrt": False,
            "initial_accumulator_value": 0.0,
            "decoupled_weight_decay": False,
        }
    )
    """`paddle.optimizer.Adagrad`, which has no default learning rate."""
