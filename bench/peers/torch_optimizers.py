"""PyTorch's optimizers."""

from collections.abc import Callable
from typing import Any

from peers.arrays import Arrays
from peers.contract import Contender, Options, Peer, Steps, only_plain

INSTALL = "pip install torch"
EPS_OUTSIDE = "eps is added outside of the root"
ADAGRAD = "Adagrad: sums all squares (no RMSprop of PyTorch is fused); eps is added outside of the root"

Step = Callable[[], object]


def stepping(
    arrays: Arrays, make: Callable[[list[Any]], Any], wrap: Callable[[Step], Step] = lambda step: step
) -> Steps:
    """Return a contender that calls `step` of the optimizer that `make` returns for the parameters."""
    import torch

    params = [torch.from_numpy(param).requires_grad_() for param in arrays.copies_of_params()]
    for param, grad in zip(params, arrays.grads, strict=True):
        param.grad = torch.from_numpy(grad)
    optimizer = make(params)
    return Steps(
        step=wrap(optimizer.step),
        read_params=lambda: [param.detach().numpy() for param in params],
        read_state_bytes=lambda: sum(
            value.nbytes
            for entry in optimizer.state.values()
            for value in entry.values()
            if isinstance(value, torch.Tensor) and value.ndim > 0
        ),
    )


def rmsprop_of(**choice: Any) -> Callable[[Arrays, Options], Contender]:
    def make(arrays: Arrays, options: Options) -> Contender:
        import torch

        return stepping(arrays, lambda params: torch.optim.RMSprop(params, **options, **choice))

    return make


def compiled(arrays: Arrays, options: Options) -> Contender:
    import torch

    torch.compiler.reset()  # what was compiled for the tensors of another workload is of no use
    return stepping(
        arrays,
        lambda params: torch.optim.RMSprop(params, **options),
        lambda step: torch.compile(lambda: step()),
    )


def adagrad(arrays: Arrays, options: Options, optimizer: Callable[..., Any]) -> Contender:
    only_plain(options, "Adagrad")
    return stepping(arrays, lambda params: optimizer(params, lr=options["lr"], eps=options["eps"]))


def fused_adagrad(arrays: Arrays, options: Options) -> Contender:
    import torch

    return adagrad(arrays, options, lambda params, **chosen: torch.optim.Adagrad(params, fused=True, **chosen))


def fused_adam(arrays: Arrays, options: Options) -> Contender:
    import torch

    only_plain(options, "Adam")
    return stepping(arrays, lambda params: torch.optim.Adam(params, lr=options["lr"], eps=options["eps"], fused=True))


def fused_sgd(arrays: Arrays, options: Options) -> Contender:
    import torch

    only_plain(options, "SGD")
    return stepping(arrays, lambda params: torch.optim.SGD(params, lr=options["lr"], fused=True))


def peer(name: str, make: Callable[[Arrays, Options], Contender], **about: Any) -> Peer:
    return Peer(name, "torch", make, packages=("torch",), install=INSTALL, **about)


RMSPROP = {"meaning": {"eps_in_sqrt": False}, "why": EPS_OUTSIDE}

PEERS = (
    peer("torch RMSprop", rmsprop_of(), **RMSPROP),
    peer("torch RMSprop, foreach", rmsprop_of(foreach=True), **RMSPROP),
    peer("torch RMSprop, compiled", compiled, **RMSPROP),
    peer("torch Adagrad, fused", fused_adagrad, formula="adagrad", meaning={"eps_in_sqrt": False}, why=ADAGRAD),
    peer("torch Adam, fused", fused_adam, formula="adam", why="Adam: two accumulators and bias correction"),
    peer("torch SGD, fused", fused_sgd, formula="sgd", why="gradient descent: no accumulator at all"),
)
