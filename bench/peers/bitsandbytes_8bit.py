"""RMSprop of bitsandbytes, which keeps its state in 8 bits."""

from peers.arrays import Arrays
from peers.contract import Contender, Options, Peer
from peers.torch_optimizers import stepping


def make(arrays: Arrays, options: Options) -> Contender:
    import bitsandbytes

    return stepping(arrays, lambda params: bitsandbytes.optim.RMSprop8bit(params, **options))


PEERS = (
    Peer(
        "bitsandbytes RMSprop8bit",
        "bitsandbytes",
        make,
        packages=("bitsandbytes", "torch"),
        install="pip install torch && pip install bitsandbytes",
        meaning={"eps_in_sqrt": False},
        why="eps is added outside of the root, and the average is rounded to 8 bits",
        approximate=True,
    ),
)
