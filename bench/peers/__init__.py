"""What our step is compared with. To add a peer, write a module with PEERS and name it here."""

from peers import (
    bitsandbytes_8bit,
    deepspeed_adagrad,
    jax_optax,
    keras_tensorflow,
    machine_limit,
    numba_loop,
    numpy_expression,
    ours,
    torch_optimizers,
)
from peers.contract import Peer

OURS = "rmsprop"
LIMITS = tuple(peer.name for peer in machine_limit.PEERS)

MODULES = (
    machine_limit,
    ours,
    torch_optimizers,
    jax_optax,
    keras_tensorflow,
    numba_loop,
    deepspeed_adagrad,
    bitsandbytes_8bit,
    numpy_expression,
)
PEERS: dict[str, Peer] = {peer.name: peer for module in MODULES for peer in module.PEERS}
