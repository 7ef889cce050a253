"""The rule of a state dict, and the state that it needs."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from rmsprop._core import Naming, Rule, Stepper, rules

__all__ = ["Rule", "rule_with", "rules", "state_names"]


def state_names(rule: Rule, group: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the state that the formula of a rule needs for the hyperparameters of a group."""
    hyperparameters = {name: group[name] for name in rule.hyperparameters if name in group}
    needed = Stepper(rule.name, Naming.optimizer).state_names(hyperparameters)
    return tuple(name for name in needed if name in rule.state)


def rule_with(
    hyperparameters: Collection[str], absent: Callable[[Rule], Collection[str]] = lambda rule: ()
) -> Rule | None:
    """Return the rule that has these hyperparameters, of several the one that has the most of them, or None.

    Args:
        hyperparameters: names; there may be others among them.
        absent: returns the names of a rule's hyperparameters that may be missing.
    """
    given = set(hyperparameters)
    found = [
        rule for rule in rules.values() if set(rule.hyperparameters) - set(rule.optional) - set(absent(rule)) <= given
    ]
    return max(found, key=lambda rule: len(given.intersection(rule.hyperparameters)), default=None)
