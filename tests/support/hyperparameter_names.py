"""The hyperparameters of both APIs, by the optimizer that has them."""

# What may be None, and what is wanted of it otherwise.
LIMITS = ("clip_value", "clip_norm")
NUMBERS = {
    "RMSprop": ("lr", "alpha", "eps", "momentum", "weight_decay", *LIMITS, "initial_accumulator_value"),
    "Adagrad": ("lr", "lr_decay", "eps", "weight_decay", *LIMITS, "initial_accumulator_value"),
}
FLAGS = {
    "RMSprop": (
        "nesterov",
        "centered",
        "decoupled_weight_decay",
        "maximize",
        "eps_in_sqrt",
        "lr_in_momentum",
        "bias_correction",
    ),
    "Adagrad": ("decoupled_weight_decay", "maximize", "eps_in_sqrt"),
}
