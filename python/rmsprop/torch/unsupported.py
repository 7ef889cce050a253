"""Tensors of unsupported kinds, and what to use instead."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

PLAIN_DISPATCH = torch._C._disabled_torch_dispatch_impl


def explain(error: Exception, params: Iterable[Tensor]) -> None:
    """If a tensor was refused for its kind, raise the same error with advice."""
    text = str(error)
    if type(error) not in (RuntimeError, TypeError) or ", wanted a" not in text:
        return
    for param in params:
        for tensor in (param, getattr(param, "grad", None)):
            if tensor is not None and (way_out := _way_out(tensor)):
                raise type(error)(f"{text} ({way_out})") from None


def _way_out(tensor: Tensor) -> str | None:
    """Return what to do with a tensor of a kind that is not supported, or None."""
    kind = type(tensor)
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return "it belongs to a torch.func transform: call step() outside of vmap and grad, with what they return"
    if tensor.layout != torch.strided:
        return "sparse gradients: construct the layer with sparse=False, or call .to_dense()"
    if kind.__name__ == "DTensor":
        return "DTensors are not supported yet: use torch.optim, or optimize the local tensors, .to_local()"
    if kind.__name__ in ("FakeTensor", "FunctionalTensor"):
        return "a fake tensor has no elements: construct and step outside of FakeTensorMode"
    if kind.__torch_dispatch__ is not PLAIN_DISPATCH:
        return "its class keeps the elements elsewhere, see its __torch_dispatch__: use torch.optim for it"
    return None
