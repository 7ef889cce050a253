"""DeepSpeed's Adagrad for CPUs, which it compiles the first time it is used."""

from peers.arrays import Arrays
from peers.contract import Contender, Options, Peer
from peers.torch_optimizers import adagrad


def make(arrays: Arrays, options: Options) -> Contender:
    from deepspeed.ops.adagrad import DeepSpeedCPUAdagrad

    return adagrad(arrays, options, DeepSpeedCPUAdagrad)


PEERS = (
    Peer(
        "DeepSpeed CPUAdagrad",
        "deepspeed",
        make,
        packages=("deepspeed", "torch"),
        install="pip install torch setuptools ninja && pip install --no-build-isolation deepspeed",
        formula="adagrad",
        meaning={"eps_in_sqrt": False},
        why="Adagrad: sums all squares (DeepSpeed has no RMSprop); eps is added outside of the root",
        writes_grads=True,  # the last elements of a tensor, those that fill no vector register
    ),
)
