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
    state: tuple[str, ...]


rules = {
    rule.name: rule
    for rule in (
        Rule(
            "rmsprop",
            (*SHARED, "alpha", "momentum", "nesterov", "centered", "lr_in_momentum", "bias_correction"),
            ("square_avg", "grad_avg", "momentum_buffer"),
        ),
        Rule("adagrad", (*SHARED, "lr_decay"), ("sum",)),
    )
}


def state_names(rule: Rule, group: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the state that a rule needs for the hyperparameters of a group."""
    needed = {"grad_avg": group.get("centered"), "momentum_buffer": group.get("momentum")}
    return tuple(name for name in rule.state if needed.get(name, True))


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
