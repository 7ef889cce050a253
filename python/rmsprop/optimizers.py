"""The optimizers for NumPy's arrays: hyperparameters, what they mean, and their defaults."""

from __future__ import annotations

from rmsprop._core import rules
from rmsprop._optimizer.base import Optimizer
from rmsprop._optimizer.types import (
    Array,
    Grads,
    LearningRate,
    MasterWeights,
    Nonfinite,
    Param,
    Params,
    Progress,
    StateDType,
)

__all__ = [
    "Adagrad",
    "Array",
    "Grads",
    "LearningRate",
    "MasterWeights",
    "Nonfinite",
    "Optimizer",
    "Param",
    "Params",
    "Progress",
    "RMSprop",
    "StateDType",
]


class RMSprop(Optimizer):
    """RMSprop: divide each gradient by a running average of its recent magnitude.

    Formula, for each element, with square_avg = 0 at first:
        square_avg = alpha * square_avg + (1 - alpha) * grad**2
        param = param - lr * grad / sqrt(square_avg + eps)

    Adagrad sums all squares, so its steps shrink towards 0; RMSprop forgets old ones, so its steps do not.

    Warning: frameworks mean different things by "RMSprop". PyTorch adds eps outside of the root, has alpha = 0.99 and
    lr = 1e-2, and keeps lr outside of the momentum buffer; TensorFlow and Keras keep it inside. The defaults here are
    those of the textbook form; each difference is an argument.

    Args:
        params: one array, a sequence of arrays, a dict from names to arrays, these nested in one another, or a list of
            group dicts `{"params": ..., "lr": ..., ...}`. Arrays of float32, float64, complex64 or complex128, in any
            layout, aligned or not, also memory-mapped or in shared memory; they are updated in place and never copied.
        lr: learning rate, finite and >= 0, or a schedule: a callable that returns it for the number of steps taken.
        alpha: how much of the old average is kept at each step, from 0 to 1 (gamma in the textbook, rho in Keras,
            decay in optax).
        eps: finite and >= 0.
        momentum: above 0, a buffer `b = momentum * b + grad / d` collects the steps, and `param = param - lr * b`; d is
            the root above.
        nesterov: step along `momentum * b + grad / d` instead; needs momentum.
        centered: divide by the root of the variance, square_avg - grad_avg**2, where
            `grad_avg = alpha * grad_avg + (1 - alpha) * grad`. A variance below 0, which rounding can give, counts as
            0; in PyTorch it gives NaN.
        weight_decay: L2 penalty: `grad = grad + weight_decay * param`.
        decoupled_weight_decay: `param = param - lr * weight_decay * param` before the step, as in Keras, instead.
        maximize: ascend instead of descend.
        eps_in_sqrt: True for `sqrt(square_avg + eps)` (textbook, TensorFlow, Keras, optax), False for
            `sqrt(square_avg) + eps` (PyTorch).
        lr_in_momentum: True for `b = momentum * b + lr * grad / d` and `param = param - b` (TensorFlow, Keras, optax).
            It differs once lr changes.
        bias_correction: divide both averages by `1 - alpha**t` at step t, so that early averages are not too small.
        initial_accumulator_value: the initial square_avg; 1 in TensorFlow 1.
        clip_value: clip each element of the gradient to [-clip_value, clip_value]; None disables this.
        clip_norm: multiply gradients by `min(1, clip_norm / (norm + 1e-6))`, as PyTorch does, where `norm` is the root
            of the sum of the squares of all gradients of the step, in all groups; None disables this. It is applied
            before clip_value.
        nonfinite: what a step does if a gradient has a NaN or an infinity: "propagate" takes it, "skip" changes nothing
            and counts it in `skipped_steps`, "raise" raises a ValueError before anything is written.
        num_threads: maximum number of threads; None for `rmsprop.get_num_threads()`. The result does not depend on it.
        state_dtype: how state is stored: None for the type of computation, "bfloat16" for half of float32's bytes, or
            "8bit" for a quarter (not with `centered`). Both are rounded stochastically, without which an average would
            no longer forget; see the page "Fewer bits". Parameters of float32, bfloat16 or float16 only.
        master_weights: "split" makes each parameter of bfloat16 the upper half of a float32, whose rest is in the state
            `param_low`: a run has the bits of one with float32 parameters, in 4 bytes. None for no such state.
        stochastic_rounding: round parameters of bfloat16 stochastically, so that small steps count in the mean, and not
            to nearest. Without effect on parameters of 32 and 64 bits.
        ema_decay: from 0 to 1: keep the average of the weights, `ema = ema_decay * ema + (1 - ema_decay) * param` after
            each step, in the state `ema`; see `ema_weights`. None for no average.
        seed: of stochastic rounding, an int from 0 to 2**53 - 1.

    Raises:
        TypeError: a parameter is not a NumPy array of a supported dtype in the machine's byte order, or it is a masked
            array; or a hyperparameter is not a number.
        ValueError: a hyperparameter is NaN, infinite or out of range, or parameters share memory.

    Examples:
        >>> import numpy as np, rmsprop
        >>> w = np.array([1.0, 2.0])
        >>> opt = rmsprop.RMSprop(w, lr=0.1)
        >>> opt.step(2 * w)  # the gradient of sum(w**2)
        >>> w.round(4)
        array([0.6838, 1.6838])
        >>> opt.state[0]["square_avg"]
        array([0.4, 1.6])

    Source: T. Tieleman and G. Hinton, lecture 6e of Neural Networks for Machine Learning, Coursera, 2012.
    """

    rule = "rmsprop"
    state_names = rules[rule].state

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-3,
        *,
        alpha: float = 0.9,
        eps: float = 1e-8,
        momentum: float = 0.0,
        nesterov: bool = False,
        centered: bool = False,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        eps_in_sqrt: bool = True,
        lr_in_momentum: bool = False,
        bias_correction: bool = False,
        initial_accumulator_value: float = 0.0,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        nonfinite: Nonfinite = "propagate",
        num_threads: int | None = None,
        state_dtype: StateDType = None,
        master_weights: MasterWeights = None,
        stochastic_rounding: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(params, locals())


class Adagrad(Optimizer):
    """Adagrad: divide each gradient by the root of the sum of all its squares so far.

    Formula, for each element, with sum = initial_accumulator_value at first:
        sum = sum + grad**2
        param = param - lr / (1 + (t - 1) * lr_decay) * grad / sqrt(sum + eps)

    The sum only grows, so the steps shrink towards 0: good for rare features, too soon for most networks. RMSprop
    avoids this.

    Warning: PyTorch adds eps (1e-10) outside of the root; Keras and optax start the sum at 0.1.

    Args:
        params: one array, a sequence of arrays, a dict from names to arrays, these nested in one another, or a list of
            group dicts `{"params": ..., "lr": ..., ...}`. Arrays of float32, float64, complex64 or complex128, in any
            layout, aligned or not, also memory-mapped or in shared memory; they are updated in place and never copied.
        lr: learning rate, finite and >= 0, or a schedule: a callable that returns it for the number of steps taken.
        lr_decay: decay of the learning rate with the step count t, finite and >= 0.
        eps: finite and >= 0.
        eps_in_sqrt: True for `sqrt(sum + eps)` (textbook, Keras, optax), False for `sqrt(sum) + eps` (PyTorch).
        initial_accumulator_value: the initial sum, finite and >= 0.
        weight_decay: L2 penalty: `grad = grad + weight_decay * param`.
        decoupled_weight_decay: `param = param - lr * weight_decay * param` before the step instead.
        maximize: ascend instead of descend.
        clip_value: clip each element of the gradient to [-clip_value, clip_value]; None disables this.
        clip_norm: multiply gradients by `min(1, clip_norm / (norm + 1e-6))`, as PyTorch does, where `norm` is the root
            of the sum of the squares of all gradients of the step, in all groups; None disables this. It is applied
            before clip_value.
        nonfinite: what a step does if a gradient has a NaN or an infinity: "propagate" takes it, "skip" changes nothing
            and counts it in `skipped_steps`, "raise" raises a ValueError before anything is written.
        num_threads: maximum number of threads; None for `rmsprop.get_num_threads()`. The result does not depend on it.
        state_dtype: how the sum is stored: None for the type of computation, "bfloat16" for half of float32's bytes, or
            "8bit" for a quarter, rounded stochastically; see `RMSprop`.
        master_weights: "split" makes each parameter of bfloat16 the upper half of a float32, whose rest is in the state
            `param_low`: a run has the bits of one with float32 parameters, in 4 bytes. None for no such state.
        stochastic_rounding: round parameters of bfloat16 stochastically, so that small steps count in the mean, and not
            to nearest. Without effect on parameters of 32 and 64 bits.
        ema_decay: from 0 to 1: keep the average of the weights, `ema = ema_decay * ema + (1 - ema_decay) * param` after
            each step, in the state `ema`; see `ema_weights`. None for no average.
        seed: of stochastic rounding, an int from 0 to 2**53 - 1.

    Raises:
        TypeError: a parameter is not a NumPy array of a supported dtype in the machine's byte order, or it is a masked
            array; or a hyperparameter is not a number.
        ValueError: a hyperparameter is NaN, infinite or out of range, or parameters share memory.

    Examples:
        >>> import numpy as np, rmsprop
        >>> w = np.array([1.0, 2.0])
        >>> opt = rmsprop.Adagrad(w, lr=0.1)
        >>> opt.step(2 * w)  # the gradient of sum(w**2)
        >>> w.round(4)
        array([0.9, 1.9])
        >>> opt.state[0]["sum"]
        array([ 4., 16.])

    Source: J. Duchi, E. Hazan and Y. Singer, Journal of Machine Learning Research 12, 2011.
    """

    rule = "adagrad"
    state_names = rules[rule].state

    def __init__(
        self,
        params: Params,
        lr: LearningRate = 1e-2,
        *,
        lr_decay: float = 0.0,
        eps: float = 1e-8,
        eps_in_sqrt: bool = True,
        initial_accumulator_value: float = 0.0,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        nonfinite: Nonfinite = "propagate",
        num_threads: int | None = None,
        state_dtype: StateDType = None,
        master_weights: MasterWeights = None,
        stochastic_rounding: bool = False,
        ema_decay: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(params, locals())
