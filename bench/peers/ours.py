"""This package: its NumPy API and its PyTorch adapter."""

import rmsprop
from peers import torch_optimizers
from peers.arrays import Arrays
from peers.contract import Contender, Options, Peer, Steps


def numpy_api(arrays: Arrays, options: Options) -> Contender:
    params = arrays.copies_of_params()
    single = len(params) == 1
    optimizer = rmsprop.RMSprop(params[0] if single else params, **options)
    grads = arrays.grads[0] if single else arrays.grads
    return Steps(
        step=lambda: optimizer.step(grads),
        read_params=lambda: params,
        read_state_bytes=lambda: sum(
            value.nbytes for entry in optimizer.state.values() for value in entry.values() if hasattr(value, "nbytes")
        ),
    )


def adapter_rmsprop(arrays: Arrays, options: Options) -> Contender:
    def optimizer(params):
        from rmsprop.torch import RMSprop  # after torch was found

        return RMSprop(params, **options)

    return torch_optimizers.stepping(arrays, optimizer)


def adapter_adagrad(arrays: Arrays, options: Options) -> Contender:
    def optimizer(params, **chosen):
        from rmsprop.torch import Adagrad

        return Adagrad(params, **chosen)

    return torch_optimizers.adagrad(arrays, options, optimizer)


PEERS = (
    Peer("rmsprop", "rmsprop", numpy_api, packages=("rmsprop", "numpy"), install="pip install ."),
    Peer(
        "rmsprop.torch RMSprop",
        "torch",
        adapter_rmsprop,
        packages=("rmsprop", "torch"),
        install=torch_optimizers.INSTALL,
        meaning={"eps_in_sqrt": False},
        why=torch_optimizers.EPS_OUTSIDE,
    ),
    Peer(
        "rmsprop.torch Adagrad",
        "torch",
        adapter_adagrad,
        packages=("rmsprop", "torch"),
        install=torch_optimizers.INSTALL,
        formula="adagrad",
        meaning={"eps_in_sqrt": False},
        why=torch_optimizers.ADAGRAD,
    ),
)
