"""Steps inside the backward pass."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_module_registration_hook

from rmsprop.torch import distributed, state, unsupported
from rmsprop.torch.base import Optimizer, increment_version


def step_in_backward(module: torch.nn.Module, optimizer: Optimizer) -> Registration:
    """Step each parameter of a module as soon as its gradient is complete in the backward pass, and free the gradient.

    The gradient is still in the cache then, and the gradients of a whole model never exist at the same time: the peak
    of memory falls by almost the size of the parameters. Each step has the bits of an ordinary one. `optimizer.step()`
    then has no effect and may stay in the loop, where learning rate schedulers expect it; `zero_grad()` too.

    Each backward pass is a step, so gradients cannot be accumulated over several. Options that depend on all gradients
    are refused: `clip_norm`, and `nonfinite` other than "propagate". `torch.amp.GradScaler` cannot be used. Also
    refused is what completes gradients later: DistributedDataParallel and FSDP, even if they wrap the module
    afterwards, and a backward pass inside another, as in `torch.utils.checkpoint` with `use_reentrant=True`. That
    `fully_shard` has replaced parameters afterwards is noticed by `optimizer.step()`; a backward pass steps none then.

    A parameter that is removed from the optimizer's groups later is no longer stepped, and keeps its gradient.

    Args:
        module: its parameters that the optimizer has and that require a gradient are stepped; others are not changed.
        optimizer: `rmsprop.torch.RMSprop` or `rmsprop.torch.Adagrad`. Its groups, schedules and state stay in use.

    Returns:
        An object whose `remove()` restores ordinary steps.

    Raises:
        TypeError: `module` is not a module, or `optimizer` is not one of this package.
        ValueError: the optimizer clips by norm or checks for gradients that are not finite, it has none of the module's
            parameters, one of a lazy module has no shape yet, or gradients are reduced or sharded over processes.
        RuntimeError: from the backward pass, if it is inside another, if clipping by norm is enabled later, or if the
            optimizer is in the middle of another call; and from a wrapper for several processes that is applied later.

    Examples:
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
    if by := distributed.wrapper_in(module.modules()) or optimizer._sharded_by:
        raise ValueError(
            f"module: {by} completes gradients over processes after they have arrived, too late for a step in the "
            "backward pass; call optimizer.step() after it instead"
        )
    groups = {param: group for param, group in optimizer._pairs()}
    params = [param for param in module.parameters() if param in groups and param.requires_grad]
    if not params:
        raise ValueError("module: got one without a parameter to step that the optimizer has")
    _refuse_what_needs_all_gradients(optimizer, optimizer.param_groups, ValueError)
    optimizer._check(optimizer.param_groups, optimizer.state)
    # State allocated between gradients would keep the allocator from reusing the memory of one gradient for the next.
    optimizer.state.update(optimizer._entries((param, groups[param]) for param in state.with_shape(params)))
    return Registration(module, optimizer, params)


class Registration:
    """Hooks that step each parameter in the backward pass, until `remove`."""

    def __init__(self, module: torch.nn.Module, optimizer: Optimizer, params: list[Tensor]) -> None:
        self._module = weakref.ref(module)
        self._optimizer = optimizer
        self._ids = {id(param) for param in params}  # not the parameters, whose hooks keep this object alive
        self._places: dict[int, tuple[int, int, int]] = {}
        self._task = self._found_in_task = -1
        self._handles: list[Any] = []
        try:
            for param in params:
                self._handles.append(param.register_post_accumulate_grad_hook(_Hook(self)))
        except BaseException:
            self.remove()
            raise
        self._handles.append(optimizer.register_step_pre_hook(self._refuse_sharded))
        _watch_wrappers(self)

    def remove(self) -> None:
        """Restore ordinary steps."""
        _live.discard(self)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _begin(self) -> None:
        """Check, at the first gradient of a backward pass, what holds for the whole pass."""
        if (task := torch._C._current_graph_task_id()) != self._task:
            _refuse_nested_pass()
            _refuse_what_needs_all_gradients(self._optimizer, self._optimizer.param_groups, RuntimeError)
            self._task = task

    def _refuse_sharded(self, *_: object) -> None:
        """Raise an error if parameters of the module have been replaced by DTensors, which calls no hook."""
        module = self._module()
        if module is not None and distributed.wrapper_in(module.modules()):
            raise RuntimeError(
                "step_in_backward: fully_shard has replaced parameters of this module, and neither the hooks nor the "
                "optimizer have the new ones; shard it first, and use torch.optim for its DTensors"
            )

    def _find(self, param: Tensor) -> tuple[dict[str, Any], Any, int] | None:
        """Return a parameter's group, its name or number, and its number; None if it is not in a group any more."""
        groups = self._optimizer.param_groups
        while True:
            group_index, index, number = self._places.get(id(param), (-1, 0, 0))
            if 0 <= group_index < len(groups):
                group = groups[group_index]
                if index < len(group["params"]) and group["params"][index] is param:
                    return group, group["param_names"][index] if "param_names" in group else number, number
            elif self._found_in_task == self._task:
                return None
            self._found_in_task = self._task
            places = ((g, i) for g, group in enumerate(groups) for i in range(len(group["params"])))
            self._places = {id(groups[g]["params"][i]): (g, i, number) for number, (g, i) in enumerate(places)}


class _Hook:
    """Steps one parameter, with the hyperparameters that its group has at that time."""

    def __init__(self, registration: Registration) -> None:
        self._registration = registration
        self._optimizer = optimizer = registration._optimizer
        self._stepper = optimizer._stepper.twin()  # keeps the checks of this parameter

    def __call__(self, param: Tensor) -> None:
        optimizer = self._optimizer
        self._registration._begin()
        found = self._registration._find(param)
        if found is None:
            return
        group, name, number = found
        _refuse_what_needs_all_gradients(optimizer, [group], RuntimeError)
        self._stepper.num_threads = optimizer.num_threads
        try:
            step = self._stepper.step_tensors
            groups = [{**group, "params": [param], "param_names": [name]}]
            if not step(groups, optimizer.state, 1.0, None, increment_version, number):
                missing = optimizer._entries([(param, group)])
                step(groups, optimizer.state, 1.0, missing, increment_version, number)
        except (RuntimeError, TypeError) as error:
            unsupported.explain(error, [param])
            raise
        param.grad = None


def _refuse_what_needs_all_gradients(
    optimizer: Optimizer, groups: Iterable[dict[str, Any]], error: type[Exception]
) -> None:
    if optimizer.nonfinite != "propagate":
        raise error(
            f"nonfinite: got {optimizer.nonfinite!r}, wanted 'propagate': each parameter is stepped before the other "
            "gradients are known"
        )
    if any(group["clip_norm"] is not None for group in groups):
        raise error("clip_norm: got a number, wanted None: the norm is that of all gradients (clip_value can be used)")


def _refuse_nested_pass() -> None:
    """Raise an error in a nested backward pass: it may be one of several that contribute to a gradient."""
    run = torch.autograd.graph._engine_run_backward.__code__
    passes, frame = 0, sys._getframe().f_back
    while frame is not None:
        passes += frame.f_code is run
        frame = frame.f_back
    if passes > 1:
        raise RuntimeError(
            "step_in_backward: this backward pass is inside another one, so its gradients may not be complete; with "
            "torch.utils.checkpoint, pass use_reentrant=False"
        )


# ---- Modules that are wrapped later ----------------------------------------------------------------------------------

_live: weakref.WeakSet[Registration] = weakref.WeakSet()
_watch: list[Any] = []


def _watch_wrappers(registration: Registration) -> None:
    _live.add(registration)
    if not _watch:
        _watch.append(register_module_module_registration_hook(_refuse_wrapper))


def _refuse_wrapper(wrapper: torch.nn.Module, _: str, module: torch.nn.Module | None) -> None:
    """Raise an error where a module becomes part of one that reduces or shards its gradients over processes."""
    if not _live or module is None or not (by := distributed.wrapper_in([wrapper])):
        return
    ids = {id(param) for param in module.parameters()}
    if any(not ids.isdisjoint(registration._ids) for registration in _live):
        raise RuntimeError(
            f"step_in_backward: {by} would complete the gradients of this module after they have been stepped; "
            "remove() the registration first, and call optimizer.step() after the backward pass"
        )
