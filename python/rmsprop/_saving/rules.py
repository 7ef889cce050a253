"""What each rule is called, its hyperparameters, and the state that it keeps."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

SHARED = (
    *("lr", "eps", "eps_in_sqrt", "initial_accumulator_value", "weight_decay", "decoupled_weight_decay"),
    *("maximize", "clip_value", "clip_norm"),
)


class Rule(NamedTuple):
    """One row of the table."""

    name: str
    hyperparameters: tuple[str, ...]


rules = {
    rule.name: rule
    for rule in (
        Rule(
            "rmsprop",
            (*SHARED, "alpha", "momentum", "nesterov", "centered", "lr_in_momentum", "bias_correction"),
        ),
        Rule("adagrad", (*SHARED, "lr_decay")),
    )
}


def rule_with(hyperparameters: Collection[str], absent: Mapping[str, Collection[str]] | None = None) -> Rule | None:
    """Return the rule that has these hyperparameters, or None.

    Args:
        hyperparameters: names, others among them.
        absent: for each rule the names that may be missing.
    """
    for rule in rules.values():
        if set(rule.hyperparameters) - set(absent[rule.name] if absent else ()) <= set(hyperparameters):
            return rule
    return None


def state_names(rule: Rule, group: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the state that a rule needs for the hyperparameters of a group."""
    if rule.name == "adagrad":
        return ("sum",)
    momentum = ("momentum_buffer",) if group["momentum"] else ()
    centered = ("grad_avg",) if group["centered"] else ()
    return ("square_avg", *momentum, *centered)
