"""RMSprop and Adagrad for PyTorch: change one import, and the optimizer step on the CPU is several times faster.

    from rmsprop.torch import RMSprop, Adagrad

Both are `torch.optim.Optimizer` subclasses and drop-in for `torch.optim.RMSprop` and `torch.optim.Adagrad`: the same
arguments in the same order, the same defaults, the same state under the same keys, state dicts that can be loaded
either way. The hyperparameters of `rmsprop.RMSprop` and `rmsprop.Adagrad` that PyTorch does not have come by keyword.

Parameters are dense tensors in the memory of the CPU, of float32, float64, complex64, complex128, bfloat16 or float16,
in any layout, aligned or not. They are updated where they lie; nothing is copied. 16-bit parameters are computed, and
their state is kept, in float32.

What differs from PyTorch:
- a step is all or nothing: if it raises, no parameter and no state has changed;
- the last bits: PyTorch rounds in other places, and 16-bit parameters after every operation;
- with `centered`, a variance that rounding made negative counts as 0, where PyTorch gives NaN;
- step counts are float64, which is exact, where PyTorch's float32 stands still at 2**24;
- `load_state_dict` copies, where PyTorch shares the tensors, and keeps float32 state of 16-bit parameters;
- sparse gradients are an error, as is any tensor that is masked, nested, quantized or not in the memory of the CPU;
- loading the state of another kind of optimizer is an error, not a fresh start;
- a parameter that is twice in a group is an error, where PyTorch warns and steps it twice.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, overload

try:
    import torch
except ImportError as error:
    raise ImportError("rmsprop.torch needs PyTorch 2.4 or later: https://pytorch.org/get-started/locally") from error

import numpy as np
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from rmsprop._core import Naming, Stepper
from rmsprop._optimizer.options import StepOptions
from rmsprop._optimizer.types import Nonfinite

__all__ = ["Adagrad", "RMSprop", "step_in_backward"]

ParamsT = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
Entries = dict[Tensor, dict[str, Tensor]]

_PACKED = (torch.bfloat16, torch.float16)
_DOUBLE = (torch.float64, torch.complex128)


class _AsIs:
    """Carries a tensor through PyTorch's `load_state_dict`, which would cast it to its parameter's dtype."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Optimizer(StepOptions, torch.optim.Optimizer):
    """What RMSprop and Adagrad have in common. Not for use on its own."""

    rule: ClassVar[str]
    accumulator: ClassVar[str]

    # torch.amp.GradScaler then leaves the gradients as they are, and sets these two attributes for the time of a step.
    _step_supports_amp_scaling = True
    found_inf: Tensor
    grad_scale: Any

    def __init__(
        self, params: ParamsT, defaults: dict[str, Any], nonfinite: Nonfinite, num_threads: int | None
    ) -> None:
        _refuse_what_only_gpus_need(defaults)
        self._set_up(nonfinite, num_threads)
        super().__init__(params, defaults)

    # ---- Steps -------------------------------------------------------------------------------------------------------

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale = 1.0
        if "found_inf" in self.__dict__:
            if float(self.found_inf) > 0:
                return loss
            if self.grad_scale is not None:
                scale = 1.0 / float(self.grad_scale)
        self._stepper.step_tensors(
            self.param_groups,
            self.state,
            scale,
            self._entries_with_missing_state,
            torch.autograd.graph.increment_version,
        )
        return loss

    # PyTorch's own: runs hooks and labels the step for the profiler.
    _step_with_hooks = torch.optim.Optimizer.profile_hook_step(_step)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Any]) -> Any: ...

    def step(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D417 - documented as the overloads above have it
        """Update all parameters that have a gradient, and their state, in place, once.

        The call completes, or it raises before it has written one byte. Gradients are never written.

        Args:
            closure: evaluates the model anew and returns the loss, which `step` returns.

        Raises:
            TypeError: a gradient or a state has another dtype than it should.
            ValueError: shapes do not match, memory is shared, a hyperparameter is out of range, or, if `nonfinite` is
                "raise", a gradient is not finite.
            RuntimeError: a tensor is sparse, quantized, or not in the memory of the CPU; or another thread is in a step
                of this optimizer.

        Example:
            >>> import torch
            >>> from rmsprop.torch import RMSprop
            >>> layer = torch.nn.Linear(2, 1)
            >>> opt = RMSprop(layer.parameters())
            >>> layer(torch.ones(1, 2)).sum().backward()
            >>> opt.step()
        """
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
            or torch._C._autograd._profiler_enabled()
        ):
            return self._step_with_hooks(*args, **kwargs)
        return self._step(*args, **kwargs)

    step.hooked = True  # type: ignore[attr-defined]  # so that PyTorch does not wrap it once more, which takes longer
    step.__wrapped__ = _step  # type: ignore[attr-defined]  # the signature
    step._torchdynamo_disable = True  # type: ignore[attr-defined]

    # ---- State and groups --------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with hyperparameters of its own; see `torch.optim.Optimizer.add_param_group`.

        Raises:
            TypeError: `params` is no iterable of tensors, or a tensor is of a dtype without a step.
            ValueError: a hyperparameter is out of range, or parameters share memory.
            RuntimeError: a parameter is sparse, quantized, or not in the memory of the CPU.
        """
        if isinstance(param_group, dict):  # else PyTorch says so
            _refuse_what_only_gpus_need(param_group)
        super().add_param_group(param_group)
        try:
            self._check()
        except BaseException:
            self.param_groups.pop()
            raise

    def share_memory(self) -> None:
        """Put the state into shared memory, for processes that step the same shared parameters (A3C, Hogwild).

        State that is not there yet is made first. Call it before the processes start, and share the parameters too:
        `module.share_memory()`. Steps of several processes then mix, as they do in Hogwild training: no update is
        complete for all, but each element is always one that some process wrote.
        """
        self.state.update(self._entries([p for group in self.param_groups for p in group["params"]]))
        for entry in self.state.values():
            for tensor in entry.values():
                tensor.share_memory_()

    @torch._disable_dynamo
    def state_dict(self) -> dict[str, Any]:
        """Return state and hyperparameters in PyTorch's layout, the tensors as they are and not copies.

        State that a hyperparameter needs which was changed after the last step is in it too, as the next step would
        make it. See `torch.optim.Optimizer.state_dict`.
        """
        saved: dict[str, Any] = super().state_dict()
        params = [param for group in self.param_groups for param in group["params"]]
        entries = self._entries(param for param in params if self.state.get(param))
        for number, param in enumerate(params):
            if number in saved["state"] and param in entries:
                saved["state"][number] = {**entries[param], **saved["state"][number]}
        return saved

    @torch._disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict`, or that of PyTorch's own class, returned.

        State is copied. That of 16-bit parameters stays, or becomes, float32. Either everything is loaded, or an error
        is raised and this optimizer is as it was. Entries under names that are not this optimizer's are kept, as in
        PyTorch.

        Raises:
            KeyError, TypeError: `state_dict` is not laid out like a state dict, or a state is not a tensor of real or
                complex numbers like its parameter.
            ValueError: groups, shapes or hyperparameters do not match those of this optimizer, or state is missing, as
                in that of another kind of optimizer.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: got {type(state_dict).__name__}, wanted a dict, as state_dict() returns it")
        if missing := {"state", "param_groups"} - state_dict.keys():
            raise KeyError(f"state_dict: no {' and no '.join(sorted(missing))}")
        last_hook = self.register_load_state_dict_pre_hook(_keep_dtypes)
        try:
            super().load_state_dict(state_dict)
        finally:
            last_hook.remove()

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "nonfinite": self.nonfinite,
            "num_threads": self.num_threads,
            "skipped_steps": self.skipped_steps,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over state and groups from a pickle, or from `load_state_dict`; all of them, or, if it raises, none."""
        state = dict(state)
        is_whole_optimizer = "nonfinite" in state  # as in a pickle or a copy; what it is without, its next step makes
        if is_whole_optimizer:
            self._set_up(state.pop("nonfinite"), state.pop("num_threads"))
            self.skipped_steps = state.pop("skipped_steps")
        defaults = state.get("defaults") or self.defaults
        for group in state["param_groups"]:
            for name, value in defaults.items():
                group.setdefault(name, value)
            _refuse_what_only_gpus_need(group)
        for param, entry in state["state"].items():
            if isinstance(param, Tensor):
                _unpack_entry(param, entry)
        if not is_whole_optimizer:
            self._check_complete(state["param_groups"], state["state"])
        self._stepper.check_tensors(state["param_groups"], state["state"])
        super().__setstate__(state)
        self._complete_state()

    def _set_up(self, nonfinite: Nonfinite, num_threads: int | None) -> None:
        self._stepper = Stepper(self.rule, Naming.torch)
        self.nonfinite = nonfinite
        self.num_threads = num_threads

    def _check(self) -> None:
        """Raise what a step would raise with gradients that fit. Parameters without a shape yet are left for later."""
        groups = [{**group, "params": _with_shape(group["params"])} for group in self.param_groups]
        self._stepper.check_tensors(groups, self.state)

    def _check_complete(self, groups: list[dict[str, Any]], state: dict[Any, Any]) -> None:
        """Raise an error if state of another optimizer was loaded, or only a part of the state."""
        if unknown := [key for key in state if isinstance(key, int)]:  # parameters that were found are no numbers now
            count = sum(len(group["params"]) for group in groups)
            raise ValueError(f"state_dict: got state of parameter {unknown[0]}, but there are {count}")
        numbered = enumerate((param, group) for group in groups for param in group["params"])
        for number, (param, group) in numbered:
            entry = state.get(param) or {}
            for name in ("step", *self._state_names(group)):
                if entry and name not in entry:
                    raise ValueError(
                        f"state_dict: no {name!r} for parameter {number}, and these hyperparameters need it"
                    )

    def _complete_state(self) -> None:
        """Make the state that PyTorch's class has from the beginning."""

    def _state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Return the names of the state that a group with these hyperparameters uses."""
        raise NotImplementedError

    def _entries(self, params: Iterable[Tensor]) -> Entries:
        """Return the state of these parameters with all that the hyperparameters need now; what is missing is made."""
        groups = {id(param): group for group in self.param_groups for param in group["params"]}
        entries = {}
        for param in params:
            group = groups[id(param)]
            entry = dict(self.state.get(param, {}))
            if "step" not in entry:
                entry["step"] = torch.zeros((), dtype=torch.float64)
            for name in self._state_names(group):
                if name not in entry:
                    value = group["initial_accumulator_value"] if name == self.accumulator else 0.0
                    entry[name] = _full_like(param, value)
            entries[param] = entry
        return entries

    def _entries_with_missing_state(self) -> Entries:
        """Return the state of all parameters with a gradient. The stepper asks, in the middle of a step."""
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        return self._entries(params)


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
        foreach: accepted and of no effect: all tensors are stepped in one call in any case.
        maximize: ascend instead of descend.
        differentiable: True raises a ValueError: the step is not recorded by autograd.
        eps_in_sqrt: True for `sqrt(square_avg + eps)` (textbook, TensorFlow, Keras, optax).
        nesterov: step along `momentum * b + grad / d` instead; needs momentum.
        lr_in_momentum: True for `b = momentum * b + lr * grad / d` and `param = param - b` (TensorFlow, Keras, optax).
        decoupled_weight_decay: `param = param - lr * weight_decay * param` before the step instead of the L2 penalty.
        bias_correction: divide both averages by `1 - alpha**t` at step t.
        initial_accumulator_value: what square_avg starts from; TensorFlow 1 has 1.
        clip_value: clip each element of the gradient to [-clip_value, clip_value]; None does not.
        clip_norm: scale gradients as `torch.nn.utils.clip_grad_norm_` would, without writing them; None does not.
        nonfinite: what becomes of a step if a gradient has a NaN or an infinity: "propagate" takes it, "skip" leaves
            all as it is and counts it in `skipped_steps`, "raise" raises a ValueError before anything is written.
        num_threads: at most so many threads; None for `rmsprop.get_num_threads()`. The result does not depend on it.

    Raises:
        TypeError: `params` is not what it should be, a tensor is of a dtype without a step, or a hyperparameter is not
            a number.
        ValueError: a hyperparameter is NaN, infinite or out of range, or parameters share memory.
        RuntimeError: a parameter is sparse, quantized, or not in the memory of the CPU.

    Example:
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

    rule = "rmsprop"
    accumulator = "square_avg"

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
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "eps_in_sqrt": eps_in_sqrt,
            "nesterov": nesterov,
            "lr_in_momentum": lr_in_momentum,
            "decoupled_weight_decay": decoupled_weight_decay,
            "bias_correction": bias_correction,
            "initial_accumulator_value": initial_accumulator_value,
            "clip_value": clip_value,
            "clip_norm": clip_norm,
        }
        super().__init__(params, defaults, nonfinite, num_threads)

    def _state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        momentum = ("momentum_buffer",) if group["momentum"] else ()
        centered = ("grad_avg",) if group["centered"] else ()
        return ("square_avg", *momentum, *centered)


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
        lr_decay: how fast the learning rate falls with the step count t.
        weight_decay: L2 penalty: `grad = grad + weight_decay * param`.
        initial_accumulator_value: what the sum starts from.
        eps: added to the root; under it with `eps_in_sqrt`.
        foreach: accepted and of no effect: all tensors are stepped in one call in any case.
        maximize: ascend instead of descend.
        differentiable: True raises a ValueError: the step is not recorded by autograd.
        fused: accepted and of no effect.
        eps_in_sqrt: True for `sqrt(sum + eps)` (textbook, Keras, optax).
        decoupled_weight_decay: `param = param - lr * weight_decay * param` before the step instead of the L2 penalty.
        clip_value: clip each element of the gradient to [-clip_value, clip_value]; None does not.
        clip_norm: scale gradients as `torch.nn.utils.clip_grad_norm_` would, without writing them; None does not.
        nonfinite: what becomes of a step if a gradient has a NaN or an infinity: "propagate" takes it, "skip" leaves
            all as it is and counts it in `skipped_steps`, "raise" raises a ValueError before anything is written.
        num_threads: at most so many threads; None for `rmsprop.get_num_threads()`. The result does not depend on it.

    Raises:
        TypeError: `params` is not what it should be, a tensor is of a dtype without a step, or a hyperparameter is not
            a number.
        ValueError: a hyperparameter is NaN, infinite or out of range, or parameters share memory.
        RuntimeError: a parameter is sparse, quantized, or not in the memory of the CPU.

    Example:
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

    rule = "adagrad"
    accumulator = "sum"

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
    ) -> None:
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
            "eps_in_sqrt": eps_in_sqrt,
            "decoupled_weight_decay": decoupled_weight_decay,
            "clip_value": clip_value,
            "clip_norm": clip_norm,
        }
        super().__init__(params, defaults, nonfinite, num_threads)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; see `torch.optim.Optimizer.add_param_group`."""
        super().add_param_group(param_group)
        self._complete_state()

    def _complete_state(self) -> None:
        # As in PyTorch, whose class cannot step a parameter without.
        params = [p for group in self.param_groups for p in _with_shape(group["params"])]
        self.state.update(self._entries([p for p in params if not self.state.get(p)]))

    def _state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("sum",)


def _refuse_what_only_gpus_need(group: Mapping[str, Any]) -> None:
    if group.get("capturable"):
        raise ValueError("capturable: got True, wanted False: it is for CUDA graphs, and this step runs on the CPU")
    if group.get("differentiable"):
        raise ValueError(
            "differentiable: got True, wanted False: autograd cannot see through this step; "
            "torch.optim has one that it can"
        )
    lr = group.get("lr")
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"lr: got a tensor of shape {tuple(lr.shape)}, wanted a number or a tensor with one element")


def _with_shape(params: list[Tensor]) -> list[Tensor]:
    """Leave out those of lazy modules that have seen no input yet."""
    return [param for param in params if not isinstance(param, torch.nn.parameter.UninitializedTensorMixin)]


def _state_dtype(param: Tensor) -> torch.dtype:
    return torch.float32 if param.dtype in _PACKED else param.dtype


def _full_like(param: Tensor, value: float) -> Tensor:
    """Return state of a parameter's shape, laid out in memory like it, without its class."""
    plain = param.detach().as_subclass(Tensor)
    state = torch.empty_like(plain, dtype=_state_dtype(param), memory_format=torch.preserve_format)
    # Not by PyTorch: it would use its threads, and wait for ever for them in a forked child. Nor by `state.numpy()`, of
    # which it takes note, and refuses to resize the memory later. Real and imaginary parts are separate elements.
    memory = (ctypes.c_byte * state.nbytes).from_address(state.data_ptr())
    np.frombuffer(memory, np.float64 if state.dtype in _DOUBLE else np.float32).fill(value)
    return state


def _keep_dtypes(_: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict whose tensors PyTorch does not recognize. A hook that runs after those of users."""
    state = {
        key: {name: _AsIs(value) if isinstance(value, Tensor) else value for name, value in entry.items()}
        if isinstance(entry, Mapping)
        else entry
        for key, entry in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def _unpack_entry(param: Tensor, entry: dict[str, Any]) -> None:
    """Put copies of a loaded state's tensors, of the right dtype, in the place of what carried them."""
    for name, value in entry.items():
        if name == "step":
            if isinstance(value, Tensor):
                continue  # from a pickle: it may be in memory that processes share
            number = value.tensor if isinstance(value, _AsIs) else value
            entry[name] = torch.as_tensor(number, dtype=torch.float64, device="cpu").clone()
        elif isinstance(value, _AsIs):
            found = value.tensor
            if found.is_complex() != param.is_complex() or not (found.is_complex() or found.is_floating_point()):
                raise TypeError(f"state_dict: {name!r} of {found.dtype} does not match its parameter's {param.dtype}")
            plain = torch.empty_like(param, dtype=_state_dtype(param), memory_format=torch.preserve_format)
            if found.shape != param.shape:
                raise ValueError(
                    f"state_dict: {name!r} of shape {tuple(found.shape)} does not match its parameter's "
                    f"{tuple(param.shape)}"
                )
            entry[name] = plain.detach().copy_(found)


class _Registration:
    """Hooks that step each parameter in the backward pass; `remove` takes them away again."""

    def __init__(self, handles: list[Any]) -> None:
        self._handles = handles

    def remove(self) -> None:
        """Go back to ordinary steps."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def step_in_backward(module: torch.nn.Module, optimizer: Optimizer) -> _Registration:
    """Step each parameter of a module as soon as its gradient is complete in the backward pass, and free the gradient.

    The gradient is still in the cache then, and the gradients of a whole model never exist at the same time: the peak
    of memory falls by almost the size of the parameters. Each step has the bits of an ordinary one. `optimizer.step()`
    finds nothing left to do and may stay in the loop, where learning rate schedulers look for it; `zero_grad()` too.

    Each backward pass is a step then, so batches cannot be summed up over several of them, and what must know all
    gradients at once is not possible: `clip_norm`, `nonfinite` other than "propagate", and `torch.amp.GradScaler`.

    Args:
        module: those of its parameters that the optimizer has and that require a gradient are stepped; others are left.
        optimizer: `rmsprop.torch.RMSprop` or `rmsprop.torch.Adagrad`. Its groups, schedules and state stay in use.

    Returns:
        An object whose `remove()` goes back to ordinary steps.

    Raises:
        TypeError: `module` is not a module, or `optimizer` is not one of this package.
        ValueError: the optimizer clips by norm or looks for gradients that are not finite, or it has none of the
            module's parameters.
        RuntimeError: from the backward pass, if clipping by norm is switched on later.

    Example:
        >>> import torch
        >>> from rmsprop.torch import RMSprop, step_in_backward
        >>> model = torch.nn.Linear(2, 1)
        >>> registration = step_in_backward(model, RMSprop(model.parameters()))
        >>> model(torch.ones(1, 2)).sum().backward()  # takes the step
        >>> model.weight.grad is None
        True
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: got {type(module).__name__}, wanted a torch.nn.Module")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer: got {type(optimizer).__name__}, wanted an optimizer of rmsprop.torch")
    indices = {param: i for i, group in enumerate(optimizer.param_groups) for param in group["params"]}
    params = [param for param in module.parameters() if param in indices and param.requires_grad]
    if not params:
        raise ValueError("module: got one without a parameter to step that the optimizer has")
    _refuse_what_needs_all_gradients(optimizer, ValueError)
    optimizer._check()
    # State that is made between gradients would keep the allocator from using the memory of one for the next.
    optimizer.state.update(optimizer._entries(_with_shape(params)))
    hooks = [_StepOfOne(optimizer, indices[param]) for param in params]
    return _Registration(
        [param.register_post_accumulate_grad_hook(hook) for param, hook in zip(params, hooks, strict=True)]
    )


class _StepOfOne:
    """Steps one parameter, with the hyperparameters that its group has by then."""

    def __init__(self, optimizer: Optimizer, group_index: int) -> None:
        self._optimizer = optimizer
        self._group_index = group_index
        self._stepper = optimizer._stepper.twin()  # remembers what it has checked of this parameter

    def __call__(self, param: Tensor) -> None:
        optimizer = self._optimizer
        _refuse_what_needs_all_gradients(optimizer, RuntimeError)
        group = optimizer.param_groups[self._group_index]
        self._stepper.num_threads = optimizer.num_threads
        self._stepper.step_tensors(
            [{**group, "params": [param], "param_names": [_name_of(param, group)]}],
            optimizer.state,
            1.0,
            optimizer._entries_with_missing_state,
            torch.autograd.graph.increment_version,
        )
        param.grad = None


def _name_of(param: Tensor, group: Mapping[str, Any]) -> Any:
    index = next(i for i, other in enumerate(group["params"]) if other is param)
    return group["param_names"][index] if "param_names" in group else index


def _refuse_what_needs_all_gradients(optimizer: Optimizer, error: type[Exception]) -> None:
    if optimizer.nonfinite != "propagate":
        raise error(f"nonfinite: got {optimizer.nonfinite!r}, wanted 'propagate', which needs no look at all gradients")
    if any(group["clip_norm"] is not None for group in optimizer.param_groups):
        raise error("clip_norm: got a number, wanted None: the norm is that of all gradients (clip_value can be used)")
