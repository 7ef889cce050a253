"""The optimizers: they own the state and the hyperparameters, and hand both to the engine at each step."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rmsprop._core import Naming, Stepper
from rmsprop._optimizer.allocation import empty_state
from rmsprop._optimizer.options import StepOptions
from rmsprop._optimizer.state import State, StateColumns

Array = NDArray[Any]
LearningRate = float | Callable[[int], float]
Progress = Callable[[int, int], None]
Params = Array | Sequence[Array] | Mapping[str, Array] | Sequence[dict[str, Any]]
Grads = Array | Sequence[Array | None] | Mapping[str, Array | None]


class Optimizer(StepOptions):
    """What RMSprop and Adagrad have in common. Not for use on its own."""

    rule: ClassVar[str]
    state_names: ClassVar[tuple[str, ...]]

    param_groups: list[dict[str, Any]]
    """A dict for each group: `params`, a list of arrays, and every hyperparameter, to be changed at any time."""

    def __init__(self, params: Params, defaults: dict[str, Any], nonfinite: str, num_threads: int | None) -> None:
        self.defaults = defaults
        self.param_groups = []
        self._is_single = isinstance(params, np.ndarray)
        self._keys: list[Any] = []
        self._columns = StateColumns.empty(self.state_names)
        self._stepper = Stepper(self.rule, Naming.optimizer)
        self.nonfinite = nonfinite
        self.num_threads = num_threads
        groups = _groups_from(params)
        if not groups:
            raise ValueError("params: got nothing to optimize, wanted at least one array")
        for group in groups:
            self.add_param_group(group)

    # ---- Steps -------------------------------------------------------------------------------------------------------

    def step(self, grads: Grads, *, grad_scale: float = 1.0) -> None:
        """Update all parameters and their state in place, once.

        The call completes, or it raises before it has written one byte.

        Args:
            grads: shaped like `params`: one array, a sequence with an array for each parameter (in the order of the
                groups, if there are several), or a dict by name. Shapes and dtypes are those of the parameters; the
                layout in memory may differ. None in the place of an array leaves that parameter, its state and its
                step count as they are. Gradients are never written.
            grad_scale: number that every gradient is multiplied with first, such as 1 / the number of batches summed.

        Raises:
            TypeError: a gradient is not a NumPy array, or of another dtype than its parameter.
            ValueError: shapes or names do not match, memory is shared, a hyperparameter is out of range, or, if
                `nonfinite` is "raise", a gradient is not finite.
            RuntimeError: another thread is in a step of this optimizer.

        Example:
            >>> import numpy as np, rmsprop
            >>> weights = {"w": np.ones(2), "b": np.zeros(1)}
            >>> opt = rmsprop.RMSprop(weights, lr=0.1)
            >>> opt.step({"w": np.array([1.0, -1.0]), "b": None})
            >>> weights["w"].round(4)
            array([0.6838, 1.3162])
        """
        self._stepper.step(self.param_groups, grads, self._columns.for_engine, grad_scale, self._columns_for_engine)

    # ---- State and groups --------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The arrays and step counts of each parameter, by its index, or by name if `params` was a dict."""
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

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add a group of parameters with hyperparameters of its own.

        Args:
            group: `params` (an array, a sequence, or a dict by name like the parameters before), any hyperparameters
                that differ from the defaults, and, if wanted, a `name`.

        Raises:
            TypeError: a parameter is not an array of a supported dtype.
            ValueError: a hyperparameter is unknown or out of range, or a parameter shares memory with another one.
        """
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f"param_groups: got {type(group).__name__}, wanted a dict with 'params'")
        with self._stepper.hold("add_param_group"):
            params, keys = _params_and_keys(group["params"], first_index=len(self._keys))
            self._check_keys(keys)
            unknown = sorted(map(str, group.keys() - self.defaults.keys() - {"params", "name"}))
            if unknown:
                known = ", ".join(self.defaults)
                raise ValueError(
                    f"param_groups: unknown hyperparameter {', '.join(unknown)}; this optimizer has {known}"
                )
            groups = [*self.param_groups, {**self.defaults, **group, "params": params}]
            all_keys = [*self._keys, *keys]
            columns = self._columns.extended(len(params), None if self._is_single else all_keys)
            self._check(groups, columns)
            for key, param in zip(keys, params, strict=True):
                if not isinstance(param, np.ndarray):  # a function would take it: an array of another library
                    raise TypeError(
                        f"params[{key!r}]: got {type(param).__name__}, wanted a numpy.ndarray; "
                        "the optimizers for PyTorch's tensors are in rmsprop.torch"
                    )
            self._allocate_missing_state(groups, columns)
            self.param_groups, self._columns, self._keys = groups, columns, all_keys

    # ---- Saving and loading ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return state and hyperparameters in PyTorch's layout, the arrays as they are and not copies.

        A learning rate that is a schedule is in it as it is, so the dict restores exactly what was there; `nonfinite`,
        `num_threads` and `skipped_steps` are not in it. `rmsprop.convert` has the same for PyTorch, Keras and optax.

        Returns:
            `{"state": {0: {"step": 3, "square_avg": array, ...}, ...}, "param_groups": [{"lr": 0.01, ..., "params": [0,
            ...]}, ...]}`: parameters are numbered in the order of the groups. If they have names, each group has them
            as `param_names`, as in PyTorch.

        Example:
            >>> import copy, numpy as np, rmsprop
            >>> opt = rmsprop.RMSprop(np.ones(2))
            >>> before = copy.deepcopy(opt.state_dict())
            >>> opt.step(np.ones(2))
            >>> opt.load_state_dict(before)
            >>> opt.state[0]
            {'step': 0, 'square_avg': array([0., 0.])}
        """
        from rmsprop._saving import state_dicts

        return state_dicts.state_dict(self)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Replace state and hyperparameters by those of a dict that `state_dict`, or PyTorch's optimizer, returned.

        Arrays are copied; a state's dtype is kept. Either everything is loaded, or an error is raised and this
        optimizer is as it was.

        Args:
            state_dict: with as many groups, parameters in them, shapes and dtypes as here, and, if both have them, the
                same names in the same order. That of `torch.optim.RMSprop` or `torch.optim.Adagrad` can be given as it
                is; hyperparameters that PyTorch lacks become what PyTorch does, such as `eps_in_sqrt=False`.

        Raises:
            TypeError: an entry is not of the kind it should be.
            ValueError: groups, parameters, shapes or names do not match those of this optimizer.
            RuntimeError: another thread is in a step of this optimizer.

        Example:
            >>> import numpy as np, rmsprop
            >>> opt = rmsprop.RMSprop(np.ones(2), lr=0.1)
            >>> other = rmsprop.RMSprop(np.ones(2))
            >>> other.load_state_dict(opt.state_dict())
            >>> other.lr
            0.1
        """
        from rmsprop._saving import state_dicts

        state_dicts.load_state_dict(self, state_dict)

    def save(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
        """Write state, hyperparameters and step counts to one file, so that a crash leaves the old file or the new one.

        The parameters themselves are not part of it: save them as you save your model. Nor is the code of a schedule:
        to load the file, make the optimizer with its schedule first. `rmsprop inspect FILE` prints what is inside.

        Args:
            path: of the file, by custom `*.safetensors`. One that exists is replaced, once the new one is complete.
            progress: called now and then, once everything is written, with the number of bytes that were added to the
                checksum and the number in all.

        Raises:
            OSError: the file cannot be written. Unless only the last flush of the folder failed, the old one is intact.
            ValueError: a hyperparameter is out of range, so that the file could not be loaded.
            RuntimeError: another thread took a step of this optimizer meanwhile; the old file is intact.

        Example:
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
        """Load what `save` wrote. Either everything is loaded, or an error is raised and this optimizer is as it was.

        Groups, parameters, shapes, dtypes and names must be those of the optimizer that was saved. All hyperparameters
        of the groups are loaded, with one exception: where the learning rate was a schedule, this optimizer's schedule
        stays, and goes on at the step count that was saved.

        Args:
            path: of the file.
            progress: called now and then with the number of bytes read and the number in all.

        Raises:
            ValueError: the file is damaged, is not a checkpoint, or belongs to another optimizer; or the learning rate
                was a schedule, and here it is not.
            OSError: the file cannot be read.
            RuntimeError: another thread is in a step of this optimizer.
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

    def _check_keys(self, keys: list[Any]) -> None:
        if self._keys and isinstance(self._keys[0], str) != isinstance(keys[0], str):
            raise TypeError("params: either every group has a dict of named parameters, or none has")
        known = set(self._keys)
        for key in keys:
            if key in known:
                raise ValueError(f"params: {key!r} names two parameters")
            known.add(key)
        if self._is_single and self._keys:
            raise ValueError("add_param_group: this optimizer was made for one array; make it with a list instead")

    def _check(self, groups: list[dict[str, Any]], columns: StateColumns) -> None:
        """Raise what a step would raise with these groups and columns, and gradients that fit."""
        self._stepper.check(groups, columns.for_engine)

    def _allocate_missing_state(self, groups: list[dict[str, Any]], columns: StateColumns) -> None:
        _allocate(groups, columns, self._needed_state)

    def _columns_with_missing_state(self) -> StateColumns:
        """Return the columns with all that the hyperparameters need now. The stepper asks, in the middle of a step."""
        columns = self._columns.extended()
        self._allocate_missing_state(self.param_groups, columns)
        return columns

    def _columns_for_engine(self) -> Any:
        return self._columns_with_missing_state().for_engine

    def _needed_state(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Return the names of the state that a group with these hyperparameters uses."""
        return self._stepper.state_names(group)


class RMSprop(Optimizer):
    """RMSprop: divide each gradient by a running average of its recent magnitude.

    Formula, for each element, with square_avg = 0 at first:
        square_avg = alpha * square_avg + (1 - alpha) * grad**2
        param = param - lr * grad / sqrt(square_avg + eps)

    Adagrad sums all squares, so its steps die out; RMSprop forgets the old ones, so its steps stay alive.

    Warning: frameworks mean different things by "RMSprop". PyTorch adds eps outside of the root, has alpha = 0.99 and
    lr = 1e-2, and keeps lr outside of the momentum buffer; TensorFlow and Keras keep it inside. The defaults here are
    those of the textbook form; each difference is an argument.

    Args:
        params: one array, a sequence of arrays, a dict from names to arrays, or a list of group dicts
            `{"params": ..., "lr": ..., ...}`. Arrays of float32, float64, complex64 or complex128, in any layout,
            aligned or not, also memory-mapped or in shared memory; they are updated in place and never copied.
        lr: learning rate, finite and >= 0, or a callable that is given the number of steps taken and returns it.
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
        bias_correction: divide both averages by `1 - alpha**t` at step t, so that early ones are not too small.
        initial_accumulator_value: what square_avg starts from; TensorFlow 1 has 1.
        clip_value: clip each element of the gradient to [-clip_value, clip_value]; None does not.
        clip_norm: multiply gradients by `min(1, clip_norm / (norm + 1e-6))`, as PyTorch does, where `norm` is the root
            of the sum of the squares of all gradients of the step, those of other groups too; None does not. It comes
            before clip_value.
        nonfinite: what becomes of a step if a gradient has a NaN or an infinity: "propagate" takes it, "skip" leaves
            all as it is and counts it in `skipped_steps`, "raise" raises a ValueError before anything is written.
        num_threads: at most so many threads; None for `rmsprop.get_num_threads()`. The result does not depend on it.

    Raises:
        TypeError: a parameter is not a NumPy array of a supported dtype in the machine's byte order, or it is a masked
            array; or a hyperparameter is not a number.
        ValueError: a hyperparameter is NaN, infinite or out of range, or parameters share memory.

    Example:
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
    state_names = ("square_avg", "grad_avg", "momentum_buffer")

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
        nonfinite: str = "propagate",
        num_threads: int | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "momentum": momentum,
            "nesterov": nesterov,
            "centered": centered,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "eps_in_sqrt": eps_in_sqrt,
            "lr_in_momentum": lr_in_momentum,
            "bias_correction": bias_correction,
            "initial_accumulator_value": initial_accumulator_value,
            "clip_value": clip_value,
            "clip_norm": clip_norm,
        }
        super().__init__(params, defaults, nonfinite, num_threads)


class Adagrad(Optimizer):
    """Adagrad: divide each gradient by the root of the sum of all its squares so far.

    Formula, for each element, with sum = initial_accumulator_value at first:
        sum = sum + grad**2
        param = param - lr / (1 + (t - 1) * lr_decay) * grad / sqrt(sum + eps)

    The sum only grows, so the steps shrink towards 0: good for rare features, too early an end for most networks. That
    is what RMSprop cures.

    Warning: PyTorch adds eps (1e-10) outside of the root; Keras and optax start the sum at 0.1.

    Args:
        params: one array, a sequence of arrays, a dict from names to arrays, or a list of group dicts
            `{"params": ..., "lr": ..., ...}`. Arrays of float32, float64, complex64 or complex128, in any layout,
            aligned or not, also memory-mapped or in shared memory; they are updated in place and never copied.
        lr: learning rate, finite and >= 0, or a callable that is given the number of steps taken and returns it.
        lr_decay: how fast the learning rate falls with the step count t, finite and >= 0.
        eps: finite and >= 0.
        eps_in_sqrt: True for `sqrt(sum + eps)` (textbook, Keras, optax), False for `sqrt(sum) + eps` (PyTorch).
        initial_accumulator_value: what the sum starts from, finite and >= 0.
        weight_decay: L2 penalty: `grad = grad + weight_decay * param`.
        decoupled_weight_decay: `param = param - lr * weight_decay * param` before the step instead.
        maximize: ascend instead of descend.
        clip_value: clip each element of the gradient to [-clip_value, clip_value]; None does not.
        clip_norm: multiply gradients by `min(1, clip_norm / (norm + 1e-6))`, as PyTorch does, where `norm` is the root
            of the sum of the squares of all gradients of the step, those of other groups too; None does not. It comes
            before clip_value.
        nonfinite: what becomes of a step if a gradient has a NaN or an infinity: "propagate" takes it, "skip" leaves
            all as it is and counts it in `skipped_steps`, "raise" raises a ValueError before anything is written.
        num_threads: at most so many threads; None for `rmsprop.get_num_threads()`. The result does not depend on it.

    Raises:
        TypeError: a parameter is not a NumPy array of a supported dtype in the machine's byte order, or it is a masked
            array; or a hyperparameter is not a number.
        ValueError: a hyperparameter is NaN, infinite or out of range, or parameters share memory.

    Example:
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
    state_names = ("sum",)

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
        nonfinite: str = "propagate",
        num_threads: int | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "eps_in_sqrt": eps_in_sqrt,
            "initial_accumulator_value": initial_accumulator_value,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "clip_value": clip_value,
            "clip_norm": clip_norm,
        }
        super().__init__(params, defaults, nonfinite, num_threads)


def _groups_from(params: Params) -> list[Mapping[str, Any]]:
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
    items: list[Any] = list(params)
    if items and all(isinstance(item, Mapping) for item in items):
        return items
    return [{"params": items}] if items else []


def _params_and_keys(params: Any, first_index: int) -> tuple[list[Any], list[Any]]:
    """Return the arrays of one group and what each is called."""
    if isinstance(params, Mapping):
        for name in params:
            if not isinstance(name, str):
                raise TypeError(f"params: got {name!r} as a name, wanted a str")
        arrays, keys = list(params.values()), list(params)
    elif isinstance(params, (str, bytes)) or not isinstance(params, Iterable):
        found = type(params).__name__
        raise TypeError(f"params: got {found}, wanted an array, a sequence of arrays, or a dict of them")
    else:
        arrays = [params] if isinstance(params, np.ndarray) else list(params)
        keys = list(range(first_index, first_index + len(arrays)))
    if not arrays:
        raise ValueError("params: got a group without arrays, wanted at least one in each group")
    return arrays, keys


def _allocate(
    groups: list[dict[str, Any]], columns: StateColumns, needed_state: Callable[[dict[str, Any]], tuple[str, ...]]
) -> None:
    """Allocate the state that groups need and do not have, laid out in memory like their parameters."""
    first = 0
    for group in groups:
        needed = needed_state(group)
        for index, param in enumerate(group["params"], first):
            for place, (name, column) in enumerate(zip(columns.names, columns.arrays, strict=True)):
                if name in needed and column[index] is None:
                    is_accumulator = name in ("square_avg", "sum")
                    value = group["initial_accumulator_value"] if is_accumulator else 0
                    if np.iscomplexobj(param):  # real and imaginary parts are separate elements
                        value = complex(value, value)
                    array = empty_state(param, place)
                    array.fill(value)
                    column[index] = array
        first += len(group["params"])
