"""The optimizers: their arguments and what these mean."""

from __future__ import annotations

from torch import Tensor

from rmsprop._core import rules
from rmsprop._optimizer.types import MasterWeights, Nonfinite, StateDType
from rmsprop.torch.base import Optimizer, ParamsT


class RMSprop(Optimizer):
    r"""RMSprop for PyTorch: drop-in for `torch.optim.RMSprop`.

    Formula, for each element, with square_avg = 0 at first:
        square_avg = alpha * square_avg + (1 - alpha) * grad**2
        param = param - lr * grad / (sqrt(square_avg) + eps)

    Warning: these are PyTorch's defaults, which differ from those of `rmsprop.RMSprop`: alpha is 0.99, lr is 1e-2, and
    eps is outside of the root. `eps_in_sqrt`, `lr_in_momentum` and `initial_accumulator_value` give those of other
    frameworks.

    Args:
        params: iterable of tensors, of `(name, tensor)` pairs, or of group dicts, as for every PyTorch optimizer.
        lr: learning rate, a number or a tensor with one element.
        alpha: smoothing constant, from 0 to 1.
        eps: added to the root; under it with `eps_in_sqrt`.
        weight_decay: L2 penalty: `grad = grad + weight_decay * param`.
        momentum: above 0, a buffer `b = momentum * b + grad / d` collects the steps; d is the divisor above.
        centered: divide by the root of the variance, `square_avg - grad_avg**2`.
        capturable: for CUDA graphs; True raises a ValueError.
        foreach: accepted, without effect: all tensors are stepped in one call in any case.
        maximize: ascend instead of descend.
        differentiable: True raises a ValueError: the step is not recorded by autograd.
        eps_in_sqrt: True for `sqrt(square_avg + eps)` (textbook, TensorFlow, Keras, optax).
        nesterov: step along `momentum * b + grad / d` instead; needs momentum.
        lr_in_momentum: True for `b = momentum * b + lr * grad / d` and `param = param - b` (TensorFlow, Keras, optax).
        decoupled_weight_decay: `param = param - lr * weight_decay * param` before the step instead of the L2 penalty.
        bias_correction: divide both averages by `1 - alpha**t` at step t.
        initial_accumulator_value: the initial square_avg; 1 in TensorFlow 1.
        clip_value: clip each element of the gradient to [-clip_value, clip_value]; None disables this.
        clip_norm: scale gradients as `torch.nn.utils.clip_grad_norm_` would, without writing them; None disables this.
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
        TypeError: `params` has the wrong type, a tensor has an unsupported dtype, or a hyperparameter is not a number.
        ValueError: a hyperparameter is NaN, infinite or out of range, or parameters share memory.
        RuntimeError: a parameter is sparse, quantized, or not in the memory of the CPU.

    Examples:
        >>> import torch
        >>> from rmsprop.torch import RMSprop
        >>> model = torch.nn.Linear(3, 1)
        >>> opt = RMSprop(model.parameters(), lr=0.01, momentum=0.9, eps_in_sqrt=True)
        >>> for _ in range(3):
        ...     opt.zero_grad()
        ...     model(torch.ones(8, 3)).square().mean().backward()
        ...     opt.step()
        >>> sorted(opt.state[model.weight])
        ['momentum_buffer', 'square_avg', 'step']

    Source: T. Tieleman and G. Hinton, lecture 6e of Neural Networks for Machine Learning, Coursera, 2012.
    """

    rule = rules["rmsprop"]

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        eps_in_sqrt: bool = False,
        nesterov: bool = False,
        lr_in_momentum: bool = False,
        decoupled_weight_decay: bool = False,
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
    r"""Adagrad for PyTorch: drop-in for `torch.optim.Adagrad`.

    Formula, for each element, with sum = initial_accumulator_value at first:
        sum = sum + grad**2
        param = param - lr / (1 + (t - 1) * lr_decay) * grad / (sqrt(sum) + eps)

    Warning: these are PyTorch's defaults, which differ from those of `rmsprop.Adagrad`: eps is 1e-10 and outside of the
    root. Sparse gradients, which PyTorch's class takes, raise a RuntimeError here.

    Args:
        params: iterable of tensors, of `(name, tensor)` pairs, or of group dicts, as for every PyTorch optimizer.
        lr: learning rate, a number or a tensor with one element.
        lr_decay: decay of the learning rate with the step count t.
        weight_decay: L2 penalty: `grad = grad + weight_decay * param`.
        initial_accumulator_value: the initial sum.
        eps: added to the root; under it with `eps_in_sqrt`.
        foreach: accepted, without effect: all tensors are stepped in one call in any case.
        maximize: ascend instead of descend.
        differentiable: True raises a ValueError: the step is not recorded by autograd.
        fused: accepted, without effect.
        eps_in_sqrt: True for `sqrt(sum + eps)` (textbook, Keras, optax).
        decoupled_weight_decay: `param = param - lr * weight_decay * param` before the step instead of the L2 penalty.
        clip_value: clip each element of the gradient to [-clip_value, clip_value]; None disables this.
        clip_norm: scale gradients as `torch.nn.utils.clip_grad_norm_` would, without writing them; None disables this.
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
        TypeError: `params` has the wrong type, a tensor has an unsupported dtype, or a hyperparameter is not a number.
        ValueError: a hyperparameter is NaN, infinite or out of range, or parameters share memory.
        RuntimeError: a parameter is sparse, quantized, or not in the memory of the CPU.

    Examples:
        >>> import torch
        >>> from rmsprop.torch import Adagrad
        >>> weight = torch.ones(2, requires_grad=True)
        >>> opt = Adagrad([weight], lr=0.1)
        >>> (weight * torch.tensor([1.0, -2.0])).sum().backward()
        >>> opt.step()
        >>> weight.detach()
        tensor([0.9000, 1.1000])

    Source: J. Duchi, E. Hazan and Y. Singer, Journal of Machine Learning Research 12, 2011.
    """

    rule = rules["adagrad"]
    has_state_from_the_start = True  # as in PyTorch, whose class cannot step a parameter without state

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        eps_in_sqrt: bool = False,
        decoupled_weight_decay: bool = False,
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
