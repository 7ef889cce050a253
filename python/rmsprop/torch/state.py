"""State of tensors: its dtype, its placement in memory, and how it is loaded."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmsprop._optimizer.allocation import CACHE_LINE, DISTANCES, LEAST_BYTES, PAGE
from rmsprop._optimizer.storage import CODES, SCALE, blocks_of, encoded_8bit, in_full
from rmsprop.reference import encode_bfloat16

Formats = Mapping[str, str]
"""How each state is stored that a group needs: see `rmsprop._optimizer.storage`."""

PACKED = (torch.bfloat16, torch.float16)
DOUBLE = (torch.float64, torch.complex128)

# Keys of groups that other optimizers save and that change the rule, with the value that does not change it.
KEYS_OF_OTHER_RULES: dict[str, tuple[Any, str]] = {
    "decoupled_decay": (False, "decoupled_weight_decay=True is this rule here; remove the key from the state dict"),
    "caution": (False, "cautious updates are not supported"),
    "corrected_weight_decay": (False, "that form of weight decay is not supported"),
    "amsgrad": (False, "a maximum of square_avg is not supported"),
    "dampening": (0, "dampened momentum is not supported"),
}


class Carried:
    """Carries an entry through PyTorch's `load_state_dict`, which would cast its tensors."""

    def __init__(self, entry: Any) -> None:
        self.entry = entry


def carry(_: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict whose entries are opaque to PyTorch. A hook that runs after those of users."""
    return {**state_dict, "state": {key: Carried(entry) for key, entry in state_dict["state"].items()}}


@torch.inference_mode(False)
def unpacked(param: Tensor, entry: Mapping[Any, Any], names: tuple[str, ...], formats: Formats) -> dict[Any, Any]:
    """Return a loaded entry: copies of the tensors in `names`, stored as `formats` say; all else is unchanged."""
    result = dict(entry)
    for name in ("step", *names):
        value = entry.get(name)
        if name == "step" and value is not None:
            result[name] = torch.as_tensor(value, dtype=torch.float64, device="cpu").clone()
        elif isinstance(value, Tensor) and not name.endswith(SCALE):
            check_kind(value, param, name)
            result |= copies_for(param, entry, name, formats.get(name), names)
    return result


def check_kind(value: Tensor, param: Tensor, name: str) -> None:
    """Raise an error if a loaded tensor cannot be state of `param`."""
    is_number = value.is_complex() or value.is_floating_point() or value.dtype == torch.uint8
    if name == "param_low":
        is_number = value.dtype == torch.int16
    if value.is_complex() != param.is_complex() or not is_number:
        raise TypeError(f"state_dict: {name!r} of {value.dtype} does not match its parameter's {param.dtype}")
    if value.shape != param.shape:
        raise ValueError(
            f"state_dict: {name!r} of shape {tuple(value.shape)} does not match its parameter's {tuple(param.shape)}"
        )


def check_complete(entries: Iterable[tuple[int, Any, tuple[str, ...]]]) -> None:
    """Raise an error if a loaded entry has only a part of the state, or that of another optimizer.

    Args:
        entries: of each parameter its number, its entry, and the names of the state that it needs.
    """
    for number, entry, names in entries:
        for name in ("step", *names) if isinstance(entry, Mapping) and entry else ():
            if name not in entry:
                raise ValueError(f"state_dict: no {name!r} for parameter {number}, and these hyperparameters need it")


def refuse_other_rules(groups: Iterable[Mapping[str, Any]]) -> None:
    """Raise an error if a loaded group has a hyperparameter of another optimizer that changes the step."""
    for number, group in enumerate(groups):
        for key in KEYS_OF_OTHER_RULES.keys() & group.keys():
            neutral, way_out = KEYS_OF_OTHER_RULES[key]
            if group[key] != neutral:
                raise ValueError(
                    f"state_dict: param_groups[{number}] has {key}={group[key]!r}, a hyperparameter of another "
                    f"optimizer ({way_out})"
                )


def refuse_what_only_gpus_need(group: Mapping[str, Any]) -> None:
    """Raise an error for unsupported options of `torch.optim`."""
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


def with_shape(params: Iterable[Tensor]) -> list[Tensor]:
    """Leave out parameters of lazy modules, which have no shape before their first input."""
    return [param for param in params if not isinstance(param, torch.nn.parameter.UninitializedTensorMixin)]


def state_dtype(param: Tensor, form: str) -> torch.dtype:
    """Return the dtype of a parameter's state in a format of `rmsprop._optimizer.storage`."""
    if form == "bfloat16":
        return torch.bfloat16
    if form == "lower_half":
        return torch.int16
    if form != "computed":
        return torch.uint8
    return torch.float32 if param.dtype in PACKED else param.dtype


def needs_cast(value: Any, param: Tensor, form: str) -> bool:
    """Return whether this is state of a parameter that was cast after it was made, or is to be stored otherwise now."""
    if not isinstance(value, Tensor) or form in ("scales", "lower_half"):
        return False
    is_number = value.is_complex() or value.is_floating_point() or value.dtype == torch.uint8
    return bool(
        value.dtype != state_dtype(param, form)
        and value.shape == param.shape
        and value.is_complex() == param.is_complex()
        and is_number
    )


def without_casts(param: Tensor, entry: Any, formats: Formats) -> Any:
    """Return an entry without state that the next step will cast."""
    if not isinstance(entry, dict):
        return entry
    cast = {name for name, value in entry.items() if needs_cast(value, param, formats.get(name, "computed"))}
    return {name: value for name, value in entry.items() if name not in cast | {f"{name}{SCALE}" for name in cast}}


def copies_for(
    param: Tensor, entry: Mapping[Any, Any], name: str, form: str | None, names: tuple[str, ...]
) -> dict[str, Tensor]:
    """Return a copy of a state in the layout of a parameter, with its scales if it has any.

    Args:
        param: the parameter.
        entry: its state.
        name: that of the state to copy.
        form: how to store it; None for how it is stored now.
        names: of all state that there may be.
    """
    value, scale = entry[name], name + SCALE
    form = form or _form_of(value, name)
    place = names.index(name)
    with torch.no_grad(), torch._C.DisableTorchFunction():
        is_stored_so = (value.dtype == torch.uint8) == (form in CODES)
        if is_stored_so and form not in CODES:
            return {name: _empty_like(param, place, form).copy_(value)}
        if is_stored_so:
            return {
                name: _empty_like(param, place, form).copy_(value),
                scale: torch.empty(blocks_of(param.numel()), dtype=torch.uint8).copy_(_scales_in(entry, name, param)),
            }
        plain = value.detach().as_subclass(Tensor).cpu()
        if form not in CODES:
            arrays = {name: plain.contiguous().numpy(), scale: _scales_in(entry, name, param).numpy()}
            return {name: _empty_like(param, place, form).copy_(torch.from_numpy(in_full(arrays, name)))}
        codes, scales = encoded_8bit(plain.float().contiguous().numpy(), form)
        return {name: _empty_like(param, place, form).copy_(torch.from_numpy(codes)), scale: torch.from_numpy(scales)}


def _form_of(value: Tensor, name: str) -> str:
    """Return how state is stored that the hyperparameters do not need at the moment."""
    if value.dtype == torch.int16:
        return "lower_half"
    if value.dtype != torch.uint8:
        return "computed"
    return "signed8" if name == "momentum_buffer" else "unsigned8"


def _scales_in(entry: Mapping[Any, Any], name: str, param: Tensor) -> Tensor:
    """Return the scales of 8-bit state, or raise an error that says what is wrong with them."""
    scales, wanted = entry.get(name + SCALE), blocks_of(param.numel())
    if not isinstance(scales, Tensor) or scales.dtype != torch.uint8 or tuple(scales.shape) != (wanted,):
        found = f"{scales.dtype} of shape {tuple(scales.shape)}" if isinstance(scales, Tensor) else "none"
        raise ValueError(
            f"state_dict: {name!r} of torch.uint8 needs {name + SCALE!r}, torch.uint8 of shape ({wanted},), got {found}"
        )
    plain: Tensor = scales.detach().as_subclass(Tensor).cpu().contiguous()
    return plain


def full_like(param: Tensor, value: float, place: int, form: str) -> Tensor:
    """Return new state of a parameter; `place` is the index of its name."""
    with torch._C.DisableTorchFunction():  # of modes, such as that of a default device, which make other tensors
        if form == "scales":
            state = torch.empty(blocks_of(param.numel()), dtype=torch.uint8, device="cpu")
        else:
            state = _empty_like(param, place, form)
        _fill(state, value)
    return state


@torch.inference_mode(False)
def copy_of(param: Tensor, place: int, form: str) -> Tensor:
    """Return new state that begins with the values of a parameter."""
    with torch.no_grad(), torch._C.DisableTorchFunction():
        return _empty_like(param, place, form).copy_(param.detach().as_subclass(Tensor))


def _empty_like(param: Tensor, place: int, form: str) -> Tensor:
    """Return memory for state, with the parameter's shape and layout, but not its class.

    Large tensors are in mapped memory, all at the same offset in a page, which is the worst case for a step: see
    `rmsprop._optimizer.allocation`. So state begins at another offset in a storage that is larger by a page.
    """
    plain = param.detach().as_subclass(Tensor)
    dtype = state_dtype(param, form)
    if plain.numel() * dtype.itemsize < LEAST_BYTES:
        return torch.empty_like(plain, dtype=dtype, memory_format=torch.preserve_format)
    strides = torch.empty_like(plain, dtype=dtype, device="meta", memory_format=torch.preserve_format).stride()
    room = torch.empty(plain.numel() + PAGE // dtype.itemsize, dtype=dtype, device="cpu")
    wanted = (plain.data_ptr() + DISTANCES[place]) // CACHE_LINE * CACHE_LINE
    offset = (wanted - room.data_ptr()) % PAGE // dtype.itemsize
    _fill(room[:offset], 0.0)  # it is saved with the storage, and must not be uninitialized
    _fill(room[offset + plain.numel() :], 0.0)
    return torch.empty(0, dtype=dtype, device="cpu").set_(room.untyped_storage(), offset, plain.shape, strides)


def _fill(dense: Tensor, value: float) -> None:
    # Not by PyTorch: it would use its threads, and wait forever for them in a forked child. Nor by `dense.numpy()`:
    # PyTorch would mark the storage as exported and refuse to resize it. Real and imaginary parts are elements each.
    if dense.numel() == 0:
        return
    storage = dense.untyped_storage()
    begin, end = storage.data_ptr(), storage.data_ptr() + storage.nbytes()
    if not (dense.device.type == "cpu" and begin <= dense.data_ptr() and dense.data_ptr() + dense.nbytes <= end):
        raise RuntimeError(f"state: a mode of PyTorch made {dense.device.type} memory that is not the tensor's")
    memory = (ctypes.c_byte * dense.nbytes).from_address(dense.data_ptr())
    if dense.dtype == torch.int16:
        np.frombuffer(memory, np.int16).fill(int(value))
    elif dense.dtype == torch.bfloat16:
        np.frombuffer(memory, np.uint16).fill(encode_bfloat16(np.array([value], np.float32))[0])
    elif dense.dtype == torch.uint8:
        np.frombuffer(memory, np.uint8).fill(int(value))
    else:
        np.frombuffer(memory, np.float64 if dense.dtype in DOUBLE else np.float32).fill(value)
