"""State dicts and checkpoints. Private: use the methods of the optimizers, and `rmsprop.convert`."""
