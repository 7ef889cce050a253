"""What RMSprop and Adagrad have in common: they own state and hyperparameters, and a stepper takes the steps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from rmsprop._core import Naming, Stepper, rules
from rmsprop._optimizer.allocation import allocate_missing_state
from rmsprop._optimizer.names import Names
from rmsprop._optimizer.options import StepOptions
from rmsprop._optimizer.state import State, StateColumns
from rmsprop._optimizer.types import Grads, Group, LearningRate, Params, Progress
from rmsprop._saving import state_dicts


class Optimizer(StepOptions):
    """What RMSprop and Adagrad have in common. Not for use on its own."""

    rule: ClassVar[str]
    state_names: ClassVar[tuple[str, ...]]

    param_groups: list[dict[str, Any]]
    """A dict for each group: `params`, a list of arrays, and every hyperparameter. It may be changed at any time."""

    def __init__(self, params: Params, arguments: Mapping[str, Any]) -> None:
        """Make an optimizer from the arguments of its class, all of them by name."""
        known = rules[self.rule].hyperparameters
        self.defaults = {name: value for name, value in arguments.items() if name in known}
        self.param_groups = []
        self._names = Names()
        self._keys: list[Any] = []
        self._is_nested = False
        self._is_single = isinstance(params, np.ndarray)
        self._columns = StateColumns.empty(rules[self.rule].arrays)
        self._stepper = Stepper(self.rule, Naming.optimizer)
        self._take = self._stepper.step  # looked up once: of a small step that is a twentieth
        self.nonfinite = arguments["nonfinite"]
        self.num_threads = arguments["num_threads"]
        groups = _groups_from(params)
        if not groups:
            raise ValueError("params: got nothing to optimize, wanted at least one array")
        self._add_groups(groups)

    # ---- Steps -------------------------------------------------------------------------------------------------------

    def step(self, grads: Grads, *, grad_scale: float = 1.0) -> None:
        """Update all parameters and their state in place, once.

        The call completes, or it raises before it has written one byte.

        Args:
            grads: in the same containers as `params`: one array, a sequence with an array for each parameter (in the
                order of the groups, if there are several), a dict by name, or these nested in one another (one dict
                for all groups). Shapes and dtypes are those of the parameters; the layout in memory may differ, and
                one of float32, bfloat16 and float16 may stand for another. None
                in the place of an array leaves that parameter, its state and its step count as they are; in the place
                of a container, all parameters in it. Gradients are never written.
            grad_scale: factor for every gradient, applied first, such as 1 / the number of batches summed.

        Raises:
            TypeError: a gradient is not a NumPy array, or of a dtype that is not computed as its parameter is.
            ValueError: shapes or names do not match, memory is shared, a hyperparameter is out of range, or, if
                `nonfinite` is "raise", a gradient is not finite.
            RuntimeError: the optimizer is in the middle of another call.

        Examples:
            >>> import numpy as np, rmsprop
            >>> weights = {"w": np.ones(2), "b": np.zeros(1)}
            >>> opt = rmsprop.RMSprop(weights, lr=0.1)
            >>> opt.step({"w": np.array([1.0, -1.0]), "b": None})
            >>> weights["w"].round(4)
            array([0.6838, 1.3162])
        """
        if self._is_nested:
            grads = self._names.by_name(grads)
        take = self._take
        if not take(self.param_groups, grads, self._columns.for_engine, grad_scale, None):
            # A hyperparameter was changed to one that needs more state.
            more = self._columns_with_missing_state().for_engine
            take(self.param_groups, grads, self._columns.for_engine, grad_scale, more)

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Let the parameters hold the average of the weights, in place, and give them their own values back afterwards.

        For evaluation: `with optimizer.ema_weights(): evaluate()`. Parameters of groups without `ema_decay` stay as
        they are. Values are copied, so it takes as much memory as the parameters. Steps and other calls that change the
        optimizer are refused inside.

        Raises:
            ValueError: no group has `ema_decay`, or an array cannot be used any more.
            RuntimeError: the optimizer is in the middle of another call.

        Examples:
            >>> import numpy as np, rmsprop
            >>> w = np.zeros(1)
            >>> opt = rmsprop.RMSprop(w, lr=0.1, eps=0.0, alpha=0.0, ema_decay=0.5)
            >>> opt.step(np.ones(1))
            >>> with opt.ema_weights():
            ...     print(w)
            [-0.05]
            >>> w
            array([-0.1])
        """
        with self._stepper.hold("ema_weights"):
            self._check(self.param_groups, self._columns)
            averages = self._columns.arrays[self._columns.names.index("ema")]
            params = [param for group in self.param_groups for param in group["params"]]
            decays = [group["ema_decay"] for group in self.param_groups for _ in group["params"]]
            pairs = [
                (param, ema)
                for param, ema, decay in zip(params, averages, decays, strict=True)
                if decay is not None and ema is not None
            ]
            if not pairs:
                raise ValueError("ema_weights: no group has an ema_decay, so there is no average of the weights")
            own = [np.array(param) for param, _ in pairs]
            try:
                for param, ema in pairs:
                    param[...] = ema
                yield
            finally:
                for (param, _), values in zip(pairs, own, strict=True):
                    param[...] = values

    # ---- State and groups --------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The arrays and step counts of each parameter, by its index, name or path."""
        return State(self)

    @property
    def lr(self) -> LearningRate:
        """The learning rate, if all groups have the same one."""
        rates = [group["lr"] for group in self.param_groups]
        if any(rate != rates[0] for rate in rates):
            raise ValueError(f"lr: the groups have different ones, {rates}; use param_groups[i]['lr']")
        rate: LearningRate = rates[0]
        return rate

    @lr.setter
    def lr(self, value: LearningRate) -> None:
        if len(self.param_groups) > 1:
            raise ValueError(f"lr: there are {len(self.param_groups)} groups; use param_groups[i]['lr'] = ...")
        self.param_groups[0]["lr"] = value

    def add_param_group(self, group: Group) -> None:
        """Add a group of parameters with hyperparameters of its own.

        Each call checks the parameters of all groups: many groups are added faster by the constructor.

        Args:
            group: `params` (an array, a sequence, or a dict by name like the parameters before), any hyperparameters
                that differ from the defaults, and optionally a `name`.

        Raises:
            TypeError: a parameter is not an array of a supported dtype.
            ValueError: a hyperparameter is unknown or out of range, or a parameter shares memory with another one.
            RuntimeError: the optimizer is in the middle of another call.
        """
        if self._is_single:
            raise ValueError("add_param_group: this optimizer was made for one array; make it with a list instead")
        self._add_groups([group])

    # ---- Saving and loading ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return state and hyperparameters in PyTorch's layout, with the arrays themselves, not copies.

        A learning rate that is a schedule stays one, so that loading the dict restores it; `nonfinite`, `num_threads`
        and `skipped_steps` are not included. `rmsprop.convert` converts the dict for PyTorch, Keras and optax.

        Returns:
            `{"state": {0: {"step": 3, "square_avg": array, ...}, ...}, "param_groups": [{"lr": 0.01, ..., "params": [0,
            ...]}, ...]}`: parameters are numbered in the order of the groups. If they have names, each group has them
            as `param_names`, as in PyTorch.

        Examples:
            >>> import copy, numpy as np, rmsprop
            >>> opt = rmsprop.RMSprop(np.ones(2))
            >>> before = copy.deepcopy(opt.state_dict())
            >>> opt.step(np.ones(2))
            >>> opt.load_state_dict(before)
            >>> opt.state[0]
            {'step': 0, 'square_avg': array([0., 0.])}
        """
        return state_dicts.state_dict(self)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Replace state and hyperparameters by those of a dict that `state_dict`, or PyTorch's optimizer, returned.

        Arrays are copied; a state's dtype is kept. Either everything is loaded, or an error is raised and this
        optimizer is unchanged.

        Args:
            state_dict: with as many groups, parameters in them, shapes and dtypes as here, and, if both have them, the
                same names in the same order. That of `torch.optim.RMSprop` or `torch.optim.Adagrad` can be given as it
                is; hyperparameters that PyTorch lacks get the values of its formula, such as `eps_in_sqrt=False`.

        Raises:
            TypeError: an entry has the wrong type.
            ValueError: groups, parameters, shapes or names do not match those of this optimizer.
            RuntimeError: the optimizer is in the middle of another call.

        Examples:
            >>> import numpy as np, rmsprop
            >>> opt = rmsprop.RMSprop(np.ones(2), lr=0.1)
            >>> other = rmsprop.RMSprop(np.ones(2))
            >>> other.load_state_dict(opt.state_dict())
            >>> other.lr
            0.1
        """
        state_dicts.load_state_dict(self, state_dict)

    def save(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
        """Write state, hyperparameters and step counts to one file; after a crash there is the old file or the new one.

        The parameters themselves are not part of it: save them with your model. Nor is the code of a schedule: to load
        the file, make the optimizer with its schedule first. `rmsprop inspect FILE` prints what is inside.

        Args:
            path: path to write, usually `*.safetensors`. An existing file is replaced once the new one is complete.
            progress: called now and then with the number of bytes written and the number in all.

        Raises:
            OSError: the file cannot be written. Unless only the last flush of the folder failed, the old one is intact.
            ValueError: a hyperparameter is out of range, so that the file could not be loaded.
            RuntimeError: the optimizer is in the middle of another call; the old file is intact.

        Examples:
            >>> import os, tempfile
            >>> import numpy as np, rmsprop
            >>> weights = np.ones(2)
            >>> opt = rmsprop.RMSprop(weights)
            >>> opt.step(np.array([1.0, 2.0]))
            >>> resumed = rmsprop.RMSprop(weights)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     opt.save(os.path.join(folder, "optimizer.safetensors"))
            ...     resumed.load(os.path.join(folder, "optimizer.safetensors"))
            >>> resumed.state[0]
            {'step': 1, 'square_avg': array([0.1, 0.4])}
        """
        from rmsprop._saving import checkpoint

        checkpoint.save(self, path, progress=progress)

    def load(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
        """Load what `save` wrote. Either everything is loaded, or an error is raised and this optimizer is unchanged.

        Groups, parameters, shapes, dtypes and names must be those of the optimizer that was saved. All hyperparameters
        of the groups are loaded, with one exception: where the learning rate was a schedule, this optimizer's schedule
        stays, and continues at the saved step count.

        Args:
            path: path to read.
            progress: called now and then with the number of bytes read and the number in all.

        Raises:
            ValueError: the file is damaged, is not a checkpoint, or belongs to another optimizer; or the learning rate
                was a schedule, and here it is not.
            OSError: the file cannot be read.
            RuntimeError: the optimizer is in the middle of another call.
        """
        from rmsprop._saving import checkpoint

        checkpoint.load(self, path, progress=progress)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            elements = sum(param.size for param in group["params"])
            lines.append(f"parameter group {i}: {len(group['params'])} arrays, {elements:,} elements")
            lines += [f"    {name}: {value}" for name, value in group.items() if name != "params"]
        return "\n".join([*lines, ")"])

    def _add_groups(self, more: list[Group]) -> None:
        """Add groups: all of them, or, if an error is raised, none."""
        with self._stepper.hold("add_param_group"):
            self._add_while_nobody_steps(more)

    def _add_while_nobody_steps(self, more: list[Group]) -> None:
        for group in more:
            self._check_group(group)
        names, arrays = self._names.extended([group["params"] for group in more])
        added = [{**self.defaults, **group, "params": own} for group, own in zip(more, arrays, strict=True)]
        groups = [*self.param_groups, *added]
        params = [param for own in arrays for param in own]
        columns = self._columns.extended(len(params), None if self._is_single else names.keys)
        self._check(groups, columns)
        for key, param in zip(names.keys[-len(params) :], params, strict=True):
            if not isinstance(param, np.ndarray):  # a function would take it: an array of another library
                raise TypeError(
                    f"params[{key!r}]: got {type(param).__name__}, wanted a numpy.ndarray; "
                    "the optimizers for PyTorch's tensors are in rmsprop.torch"
                )
        self._allocate_missing_state(added, columns, len(columns.steps) - len(params))
        self._replace(param_groups=groups, _columns=columns, _names=names, _keys=names.keys, _is_nested=names.is_nested)

    def _replace(self, **attributes: Any) -> None:
        """Set attributes in one operation, which no signal and no other thread can interrupt."""
        # Not by `update`: a dict that was made as a whole is one whose entries CPython finds faster, in each step.
        self.__dict__ = {**vars(self), **attributes}

    def _check_group(self, group: Any) -> None:
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f"param_groups: got {type(group).__name__}, wanted a dict with 'params'")
        unknown = sorted(map(str, group.keys() - self.defaults.keys() - {"params", "name"}))
        if unknown:
            known = ", ".join(self.defaults)
            raise ValueError(f"param_groups: unknown hyperparameter {', '.join(unknown)}; this optimizer has {known}")

    def _check(self, groups: list[dict[str, Any]], columns: StateColumns) -> None:
        """Raise what a step would raise with these groups and columns, and gradients that fit."""
        self._stepper.check(groups, columns.for_engine)

    def _allocate_missing_state(self, groups: list[dict[str, Any]], columns: StateColumns, first: int = 0) -> None:
        allocate_missing_state(groups, first, columns, rules[self.rule].accumulator, self._state_formats)

    def _columns_with_missing_state(self) -> StateColumns:
        """Return the columns with all state that the hyperparameters need now."""
        columns = self._columns.extended()
        self._allocate_missing_state(self.param_groups, columns)
        return columns

    def _state_formats(self, group: dict[str, Any]) -> dict[str, str]:
        """Return the names of the state that a group with these hyperparameters uses, each with how it is stored."""
        return self._stepper.state_formats(group)


def _groups_from(params: Any) -> list[Any]:
    """Return `params` as a list of group dicts, whichever of its forms it has."""
    if isinstance(params, np.ndarray):
        return [{"params": params}]
    if isinstance(params, (str, bytes)) or not isinstance(params, Iterable):
        raise TypeError(
            f"params: got {type(params).__name__}, wanted an array, a sequence of arrays, a dict of them, "
            "or a list of group dicts"
        )
    if isinstance(params, Mapping):
        return [{"params": params}] if params else []
    items = list(params)
    groups = [isinstance(item, Mapping) and "params" in item for item in items]
    if not any(groups):
        return [{"params": items}] if items else []
    if not all(isinstance(item, Mapping) for item in items):
        found = groups.index(True)
        raise TypeError(
            f"params[{found}]: got {type(items[found]).__name__}, "
            "wanted a numpy.ndarray, which can be used without a copy"
        )
    return items
