"""Keras on TensorFlow, and TensorFlow's own kernel under it; both inside of tf.function, as in Model.fit."""

import os

from peers.arrays import Arrays
from peers.contract import Contender, Options, Peer, Steps

INSTALL = "pip install keras tensorflow-cpu"
MEANING = {"lr_in_momentum": True}
WHY = "the learning rate is inside of the momentum buffer"


def import_tensorflow():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    return tensorflow


def keras_rmsprop(arrays: Arrays, options: Options) -> Contender:
    os.environ["KERAS_BACKEND"] = "tensorflow"
    tf = import_tensorflow()
    import keras

    optimizer = keras.optimizers.RMSprop(
        learning_rate=options["lr"],
        rho=options["alpha"],
        epsilon=options["eps"],
        momentum=options.get("momentum", 0.0),
        centered=options.get("centered", False),
    )
    variables = [keras.Variable(param) for param in arrays.params]
    grads = [tf.constant(grad) for grad in arrays.grads]
    optimizer.build(variables)
    return Steps(
        step=tf.function(lambda: optimizer.apply(grads, variables)),
        read_params=lambda: [variable.numpy() for variable in variables],
        read_state_bytes=lambda: sum(
            4 * variable.value.numpy().size for variable in optimizer.variables if len(variable.shape)
        ),
        wait=lambda: variables[-1].value.read_value(),
    )


def apply_rms_prop(arrays: Arrays, options: Options) -> Contender:
    tf = import_tensorflow()
    centered = options.get("centered", False)
    variables = [tf.Variable(param) for param in arrays.params]
    grads = [tf.constant(grad) for grad in arrays.grads]
    names = ("mg", "ms", "mom") if centered else ("ms", "mom")
    state = [{name: tf.Variable(tf.zeros_like(grad)) for name in names} for grad in grads]
    apply = tf.raw_ops.ResourceApplyCenteredRMSProp if centered else tf.raw_ops.ResourceApplyRMSProp

    @tf.function
    def step() -> None:
        for variable, grad, entry in zip(variables, grads, state, strict=True):
            apply(
                var=variable.handle,
                **{name: accumulator.handle for name, accumulator in entry.items()},
                lr=tf.constant(options["lr"]),
                rho=tf.constant(options["alpha"]),
                momentum=tf.constant(options.get("momentum", 0.0)),
                epsilon=tf.constant(options["eps"]),
                grad=grad,
            )

    return Steps(
        step=step,
        read_params=lambda: [variable.numpy() for variable in variables],
        read_state_bytes=lambda: sum(grad.nbytes for grad in arrays.grads) * len(names),
        wait=lambda: variables[-1].read_value(),
    )


PEERS = (
    Peer(
        "Keras RMSprop",
        "tensorflow",
        keras_rmsprop,
        packages=("keras", "tensorflow", "tensorflow-cpu"),
        install=INSTALL,
        meaning=MEANING,
        why=WHY,
    ),
    Peer(
        "TensorFlow ApplyRMSProp",
        "tensorflow",
        apply_rms_prop,
        packages=("tensorflow", "tensorflow-cpu"),
        install="pip install tensorflow-cpu",
        meaning=MEANING,
        why=WHY,
    ),
)
