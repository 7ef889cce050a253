"""Several processes: options that depend on the gradients or parameters of all of them are refused."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

# By name, so that none of them is imported, and classes of these names in other libraries are recognized.
WRAPPERS = {"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}

CLIPPING = {
    "ZeroRedundancyOptimizer": "torch.nn.utils.clip_grad_norm_",
    "FullyShardedDataParallel": "clip_grad_norm_ of the module",
}


def sharding_constructor() -> str | None:
    """Return the class that is constructing an optimizer for a part of the parameters, one of several ranks'."""
    zero = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    code = zero and zero.ZeroRedundancyOptimizer._init_local_optimizer.__code__
    frame = sys._getframe() if code else None
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return "ZeroRedundancyOptimizer" if frame else None


def sharding_of(params: Iterable[Tensor]) -> str | None:
    """Return the class that has sharded these parameters."""
    if "torch.distributed.fsdp" not in sys.modules:
        return None
    return "FullyShardedDataParallel" if any(getattr(p, "_fsdp_flattened", False) for p in params) else None


def refuse_what_needs_other_ranks(sharded_by: str | None, nonfinite: str, groups: list[dict[str, Any]]) -> None:
    """Raise an error if options depend on all gradients, and this rank has only a part of them."""
    if sharded_by is None:
        return
    where = f"under {sharded_by}, where each rank sees only its own gradients"
    if nonfinite != "propagate":
        raise ValueError(f"nonfinite: got {nonfinite!r} {where}, wanted 'propagate': look at all of them before step()")
    if any(group["clip_norm"] is not None for group in groups):
        raise ValueError(f"clip_norm: got a number {where}; clip before step(), with {CLIPPING[sharded_by]}")


def wrapper_in(modules: Iterable[nn.Module]) -> str | None:
    """Return the name of a class among these modules that reduces or shards gradients over processes."""
    return next((kind.__name__ for m in modules for kind in type(m).__mro__ if kind.__name__ in WRAPPERS), None)
