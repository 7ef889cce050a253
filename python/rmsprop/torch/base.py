"""What the optimizers share: steps, groups, and state dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from rmsprop._core import Naming, Rule, Stepper
from rmsprop._optimizer.options import StepOptions
from rmsprop._optimizer.storage import SCALE, initial_value
from rmsprop._optimizer.types import Nonfinite
from rmsprop.torch import distributed, state, unsupported

increment_version = torch.autograd.graph.increment_version  # looked up once, as every step calls it

ParamsT = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
Entries = dict[Tensor, dict[str, Any]]
Pair = tuple[Tensor, dict[str, Any]]  # a parameter and its group


class Optimizer(StepOptions, torch.optim.Optimizer):
    """What RMSprop and Adagrad have in common. Not for use on its own."""

    rule: ClassVar[Rule]
    has_state_from_the_start: ClassVar[bool] = False

    param_groups: list[dict[str, Any]]
    _is_constructed = True
    _is_shared = False
    _has_inference_tensors = False
    _sharded_by: str | None = None

    def __init__(self, params: ParamsT, arguments: dict[str, Any]) -> None:
        """Take the arguments of a subclass's constructor, as `locals()` has them."""
        others = ("self", "params", "nonfinite", "num_threads", "__class__")
        defaults = {name: value for name, value in arguments.items() if name not in others}
        state.refuse_what_only_gpus_need(defaults)
        self._set_up(arguments["nonfinite"], arguments["num_threads"])
        self._sharded_by = distributed.sharding_constructor()
        self._is_constructed = False
        super().__init__(params, defaults)
        del self._is_constructed
        of_groups = [{id(param) for param in group["params"]} for group in self.param_groups]
        if len(set().union(*of_groups)) < sum(map(len, of_groups)):
            raise ValueError("some parameters appear in more than one parameter group")
        self._admit(self.param_groups)

    def _set_up(self, nonfinite: Nonfinite, num_threads: int | None) -> None:
        self._stepper = Stepper(self.rule.name, Naming.torch)
        self.nonfinite = nonfinite
        self.num_threads = num_threads

    # ---- Steps -------------------------------------------------------------------------------------------------------

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._has_inference_tensors or self._sharded_by:
            self._refuse_what_changed_around_it()
        try:
            step = self._stepper.step_tensors
            if not step(self.param_groups, self.state, 1.0, None, increment_version):
                step(self.param_groups, self.state, 1.0, self._missing_entries(), increment_version)
        except (RuntimeError, TypeError) as error:
            unsupported.explain(error, (param for param, _ in self._pairs()))
            raise
        return loss

    # PyTorch's wrapper: runs hooks and labels the step for the profiler.
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
            TypeError: a gradient or a state has the wrong dtype.
            ValueError: shapes do not match, memory is shared, a hyperparameter is out of range, or, if `nonfinite` is
                "raise", a gradient is not finite.
            RuntimeError: a tensor is sparse, quantized, or not in the memory of the CPU; a parameter is an inference
                tensor, outside of inference mode; or the optimizer is in the middle of another call.

        Examples:
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

    def _refuse_what_changed_around_it(self) -> None:
        """Raise what PyTorch raises for inference tensors, and an error if options depend on other ranks."""
        params = [param for param, _ in self._pairs() if param.grad is not None]
        if not torch.is_inference_mode_enabled() and any(param.is_inference() for param in params):
            raise RuntimeError(
                "Inplace update to inference tensor outside InferenceMode is not allowed. You can make a clone to get "
                "a normal tensor before doing inplace update."
            )
        distributed.refuse_what_needs_other_ranks(self._sharded_by, self.nonfinite, self.param_groups)

    # ---- Groups ------------------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with hyperparameters of its own; see `torch.optim.Optimizer.add_param_group`.

        Raises:
            TypeError: `params` is not an iterable of tensors, or a tensor has an unsupported dtype.
            ValueError: a hyperparameter is out of range, or parameters share memory.
            RuntimeError: a parameter is sparse, quantized, or not in the memory of the CPU.
        """
        if isinstance(param_group, dict):  # else PyTorch says so
            state.refuse_what_only_gpus_need(param_group)
        if self._is_constructed:
            super().add_param_group(param_group)
            try:
                self._admit([param_group])
            except BaseException:
                self.param_groups.pop()
                raise
        else:
            # PyTorch compares each group with all before it. The constructor does that once, for all groups.
            groups, self.param_groups = self.param_groups, self.param_groups[:1]
            super().add_param_group(param_group)
            self.param_groups = groups
            groups.append(param_group)

    def _admit(self, groups: list[dict[str, Any]]) -> None:
        """Check groups that have just been added, and make the state that has to exist from the start."""
        params = [param for group in groups for param in state.with_shape(group["params"])]
        self._check(self.param_groups, self.state)
        sharded_by = self._sharded_by or distributed.sharding_of(params)
        distributed.refuse_what_needs_other_ranks(sharded_by, self.nonfinite, self.param_groups)
        self._sharded_by = sharded_by
        self._has_inference_tensors |= any(param.is_inference() for param in params)
        if self.has_state_from_the_start or self._is_shared:
            self._complete_state(groups)

    def _check(self, groups: list[dict[str, Any]], entries: dict[Any, Any]) -> None:
        """Raise what a step would raise with valid gradients, except for parameters that have no shape yet."""
        groups = [{**group, "params": state.with_shape(group["params"])} for group in groups]
        entries = {
            param: state.without_casts(param, entries[param], formats)
            for param, _, formats in self._with_formats(self._pairs(groups))
            if param in entries
        }
        try:
            self._stepper.check_tensors(groups, entries)
        except (RuntimeError, TypeError) as error:
            unsupported.explain(error, (param for param, _ in self._pairs(groups)))
            raise

    def _pairs(self, groups: list[dict[str, Any]] | None = None) -> Iterator[Pair]:
        """Return each parameter of these groups, or of all, with its group."""
        return ((param, group) for group in groups or self.param_groups for param in group["params"])

    # ---- State -------------------------------------------------------------------------------------------------------

    def _with_formats(self, pairs: Iterable[Pair]) -> Iterator[tuple[Tensor, dict[str, Any], state.Formats]]:
        """Return parameters and groups with the names of the state that is needed, each with how it is stored."""
        last: dict[str, Any] | None = None
        for param, group in pairs:
            if group is not last:
                last, formats = group, self._stepper.state_formats(group)
            yield param, group, formats

    @torch.inference_mode(False)
    @torch._disable_dynamo  # a compiler would trace this, but not the step that calls it
    def _entries(self, pairs: Iterable[Pair]) -> Entries:
        """Return the state of these parameters, with missing state that the hyperparameters need now added."""
        entries = {}
        for param, group, formats in self._with_formats(pairs):
            entry = dict(self.state.get(param) or {})
            made: dict[str, Any] = {}
            if "step" not in entry:
                made["step"] = torch.zeros((), dtype=torch.float64, device="cpu")
            for name, form in formats.items():
                if name in made:
                    continue  # the scales of what has just been cast
                if name not in entry and name == "ema":
                    made[name] = state.copy_of(param, self.rule.arrays.index(name), form)
                elif name not in entry:
                    initial = group["initial_accumulator_value"]
                    value = initial_value(form, name, self.rule.accumulator, initial)
                    made[name] = state.full_like(param, value, self.rule.arrays.index(name), form)
                elif state.needs_cast(entry[name], param, form):
                    made |= state.copies_for(param, entry, name, form, self.rule.arrays)
                    entry.pop(f"{name}{SCALE}", None)
            if self._is_shared:
                self._share(made)
            entries[param] = {**entry, **made}
        return entries

    def _complete_state(self, groups: list[dict[str, Any]]) -> None:
        """Make the state of all parameters of these groups that have a shape."""
        self.state.update(self._entries(pair for pair in self._pairs(groups) if state.with_shape(pair[:1])))

    def _missing_entries(self) -> Entries:
        """Return the state of all parameters with a gradient. Called by the stepper in the middle of a step."""
        entries: Entries = self._entries(pair for pair in self._pairs() if pair[0].grad is not None)
        return entries

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Let the parameters hold the average of the weights, in place, and give them their own values back afterwards.

        For evaluation: `with optimizer.ema_weights(): evaluate()`. Parameters without an average, as those of groups
        without `ema_decay`, stay as they are. Values are copied, so it takes as much memory as the parameters. Steps
        and other calls that change the optimizer are refused inside.

        Raises:
            ValueError: no parameter has an average.
            RuntimeError: the optimizer is in the middle of another call.

        Examples:
            >>> import torch
            >>> from rmsprop.torch import RMSprop
            >>> layer = torch.nn.Linear(2, 1)
            >>> opt = RMSprop(layer.parameters(), ema_decay=0.9)
            >>> layer(torch.ones(1, 2)).sum().backward()
            >>> opt.step()
            >>> with torch.no_grad(), opt.ema_weights():
            ...     output = layer(torch.ones(1, 2))
        """
        with self._stepper.hold("ema_weights"):
            pairs = [
                (param, self.state[param]["ema"])
                for param, group in self._pairs()
                if group.get("ema_decay") is not None and "ema" in self.state.get(param, {})
            ]
            if not pairs:
                raise ValueError("ema_weights: no parameter has an average of its weights: give a group an ema_decay")
            with torch.no_grad():
                own = [param.detach().clone() for param, _ in pairs]
            try:
                with torch.no_grad():
                    for param, ema in pairs:
                        param.copy_(ema)
                yield
            finally:
                with torch.no_grad():
                    for (param, _), values in zip(pairs, own, strict=True):
                        param.copy_(values)

    def share_memory(self) -> None:
        """Put the state into shared memory, for processes that step the same shared parameters (A3C, Hogwild).

        Missing state is made first, and state of later groups and of `load_state_dict` is shared too. Call it before
        the processes start, and share the parameters too: `module.share_memory()`. Steps of several processes then mix,
        as in Hogwild training: no update is atomic, but each element is always one that some process wrote.

        Raises:
            RuntimeError: the optimizer is in the middle of another call.
        """
        with self._stepper.hold("share_memory"):
            self._complete_state(self.param_groups)
            self._is_shared = True
            for entry in self.state.values():
                self._share(entry)

    @staticmethod
    def _share(entry: Mapping[Any, Any]) -> None:
        for value in entry.values():
            if isinstance(value, Tensor):
                value.share_memory_()

    @torch._disable_dynamo
    def state_dict(self) -> dict[str, Any]:
        """Return state and hyperparameters in PyTorch's layout, with the tensors themselves, not copies.

        State that is needed since a hyperparameter was changed is included, as the next step would make it. See
        `torch.optim.Optimizer.state_dict`.
        """
        saved: dict[str, Any] = super().state_dict()
        entries = self._entries(pair for pair in self._pairs() if self.state.get(pair[0]))
        for number, (param, _) in enumerate(self._pairs()):
            if number in saved["state"] and param in entries:
                saved["state"][number] = {**entries[param], **saved["state"][number]}
        return saved

    @torch._disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict`, or that of PyTorch's own class, returned.

        State is copied, and stored as `state_dtype` says; that of 16-bit parameters is otherwise float32. Either
        everything is loaded, or an error is raised and this optimizer is unchanged. Entries under other names than this
        optimizer's are kept as they are.

        Raises:
            KeyError, TypeError: `state_dict` does not have the layout of a state dict, or a state is not a tensor of
                real or complex numbers like its parameter.
            ValueError: groups, shapes or hyperparameters do not match those of this optimizer, state is missing, as in
                that of another kind of optimizer, or a group has a hyperparameter of another optimizer that would
                change this step.
            RuntimeError: the optimizer is in the middle of another call.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: got {type(state_dict).__name__}, wanted a dict, as state_dict() returns it")
        if missing := {"state", "param_groups"} - state_dict.keys():
            raise KeyError(
                f"state_dict: no {' and no '.join(sorted(missing))} (what torch.distributed.checkpoint has flattened, "
                "its set_optimizer_state_dict loads)"
            )
        last_hook = self.register_load_state_dict_pre_hook(state.carry)
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
            "_is_shared": self._is_shared,
            "_has_inference_tensors": self._has_inference_tensors,
            "_sharded_by": self._sharded_by,
        }

    def __setstate__(self, state_: dict[str, Any]) -> None:
        """Set state and groups from a pickle, or from `load_state_dict`: all of them, or, if it raises, none."""
        new = dict(state_)
        groups, entries = new["param_groups"], new["state"]
        is_whole = "nonfinite" in new  # from a pickle or a copy; state that it lacks is made by the next step
        if is_whole:
            self._set_up(new.pop("nonfinite"), new.pop("num_threads"))
            self.skipped_steps = new.pop("skipped_steps")
            self.defaults = new["defaults"]
        else:
            state.refuse_other_rules(groups)
        with self._stepper.hold("load_state_dict"):
            for group in groups:
                for name, value in self.defaults.items():
                    group.setdefault(name, value)
                state.refuse_what_only_gpus_need(group)
            self._unpack(groups, entries)
            if not is_whole:
                numbered = enumerate(self._with_formats(self._pairs(groups)))
                state.check_complete((number, entries.get(param), tuple(f)) for number, (param, _, f) in numbered)
            self._check(groups, entries)
            super().__setstate__(new)
            if self.has_state_from_the_start:
                self._complete_state(self.param_groups)

    def _unpack(self, groups: list[dict[str, Any]], entries: dict[Any, Any]) -> None:
        """Replace what PyTorch made of the loaded state by that state."""
        formats_of = {param: formats for param, _, formats in self._with_formats(self._pairs(groups))}
        for key, carried in entries.items():
            if not isinstance(carried, state.Carried):
                continue  # from a pickle: it may be in shared memory
            if isinstance(key, int):  # PyTorch has replaced the numbers of existing parameters
                count = sum(len(group["params"]) for group in groups)
                raise ValueError(f"state_dict: got state of parameter {key}, but there are {count}")
            is_state = isinstance(key, Tensor) and isinstance(carried.entry, Mapping)
            if is_state:
                entries[key] = state.unpacked(key, carried.entry, self.rule.arrays, formats_of.get(key, {}))
            else:
                entries[key] = carried.entry
            if is_state and self._is_shared:
                self._share(entries[key])
