"""The rule of a state dict, and the state that it needs."""

from collections.abc import Collection, Mapping
from typing import Any

from rmsprop._core import Naming, Rule, Stepper, rules

__all__ = ["rule_with", "rules", "state_names"]


def state_names(rule: Rule, group: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the state that a rule needs for the hyperparameters of a group."""
    hyperparameters = {name: group[name] for name in rule.hyperparameters}
    return Stepper(rule.name, Naming.optimizer).state_names(hyperparameters)


def rule_with(hyperparameters: Collection[str], absent: Mapping[str, Collection[str]] | None = None) -> Rule | None:
    """Return the rule that has these hyperparameters, or None.

    Args:
        hyperparameters: names; there may be others among them.
        absent: for each rule the names that may be missing.
    """
    for rule in rules.values():
        if set(rule.hyperparameters) - set(absent[rule.name] if absent else ()) <= set(hyperparameters):
            return rule
    return None
