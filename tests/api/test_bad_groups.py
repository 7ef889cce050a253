"""Parameters in a wrong container, and groups that are changed by hand or by a schedule, are refused by name."""

import re

import numpy as np
import pytest

import rmsprop
from bad_input import BUSY, OPTIMIZERS, Subject, not_an_array

# ---- Containers of parameters ----------------------------------------------------------------------------------------

ANY_PARAMS = "an array, a sequence of arrays, a dict of them, or a list of group dicts"
# After `params`.
BAD_PARAMS = {
    "int": (lambda a, b: 5, TypeError, f": got int, wanted {ANY_PARAMS}"),
    "None": (lambda a, b: None, TypeError, f": got NoneType, wanted {ANY_PARAMS}"),
    "str": (lambda a, b: "weights", TypeError, f": got str, wanted {ANY_PARAMS}"),
    "bytes": (lambda a, b: b"weights", TypeError, f": got bytes, wanted {ANY_PARAMS}"),
    "empty list": (lambda a, b: [], ValueError, ": got nothing to optimize, wanted at least one array"),
    "empty dict": (lambda a, b: {}, ValueError, ": got nothing to optimize, wanted at least one array"),
    "empty iterator": (lambda a, b: iter(()), ValueError, ": got nothing to optimize, wanted at least one array"),
    "None among arrays": (lambda a, b: [a, None], TypeError, f"[1]: {not_an_array('NoneType')}"),
    "list of numbers": (lambda a, b: [a, [1.0, 2.0]], TypeError, f"[1]: {not_an_array('list')}"),
    "group among arrays": (lambda a, b: [a, {"params": b}], TypeError, f"[1]: {not_an_array('dict')}"),
    "name that is no str": (lambda a, b: {"a": a, 1: b}, TypeError, ": got 1 as a name, wanted a str"),
    "empty group": (
        lambda a, b: [{"params": a}, {"params": []}],
        ValueError,
        ": got a group without arrays, wanted at least one in each group",
    ),
    "names in one group only": (
        lambda a, b: [{"params": {"a": a}}, {"params": [b]}],
        TypeError,
        ": either every group has a dict of named parameters, or none has",
    ),
    "one name in two groups": (
        lambda a, b: [{"params": {"a": a}}, {"params": {"a": b}}],
        ValueError,
        ": 'a' names two parameters",
    ),
}


@pytest.mark.parametrize(("make", "kind", "message"), BAD_PARAMS.values(), ids=BAD_PARAMS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_parameters_in_a_wrong_container_are_refused(optimizer, make, kind, message, refused):
    a, b = np.ones(3), np.ones(2)
    with refused(kind, f"params{message}", a, b):
        getattr(rmsprop, optimizer)(make(a, b))


@pytest.mark.parametrize("params", [5, None, 1.5])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_group_of_something_else_than_arrays_is_refused(optimizer, params, refused):
    a = np.ones(3)
    message = re.compile(rf"(param_groups\[1\]: )?params: got {type(params).__name__}, wanted .+")
    with refused(TypeError, message, a):
        getattr(rmsprop, optimizer)([{"params": a}, {"params": params}])
    with refused(TypeError, "param_groups: got dict, wanted a dict with 'params'", a):
        getattr(rmsprop, optimizer)([{"params": a}, {"lr": 0.1}])


# ---- Groups that change ----------------------------------------------------------------------------------------------

CHANGED_GROUPS = {
    "no params": lambda groups: groups[0].pop("params"),
    "tuple of params": lambda groups: groups[0].update(params=tuple(groups[0]["params"])),
    "None for params": lambda groups: groups[0].update(params=None),
    "one more parameter": lambda groups: groups[0]["params"].append(np.ones(3, np.float32)),
    "one parameter less": lambda groups: groups[0]["params"].pop(),
    "no parameters": lambda groups: groups[0]["params"].clear(),
    "None for a group": lambda groups: groups.append(None),
    "a group twice": lambda groups: groups.append(dict(groups[0])),
    "no groups": lambda groups: groups.clear(),
    "list for a group": lambda groups: groups.__setitem__(0, list(groups[0])),
}


@pytest.mark.parametrize("change", CHANGED_GROUPS.values(), ids=CHANGED_GROUPS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_groups_changed_by_hand_are_refused_by_name(optimizer, change, refused):
    subject = Subject(optimizer)
    arrays = list(subject.arrays["params"])
    state = [dict(entry) for entry in subject.optimizer.state.values()]
    change(subject.optimizer.param_groups)
    with refused((TypeError, ValueError), re.compile(r"param_groups\b.*"), arrays, state, subject.grads):
        subject.step()


@pytest.mark.parametrize("groups", [None, (), 5, {}])
def test_param_groups_replaced_by_something_else_are_refused_by_name(groups, refused):
    subject = Subject("Adagrad")
    message = re.compile(f"param_groups: got {type(groups).__name__}, wanted .+")
    with refused(TypeError, message, subject.arrays, subject.grads):
        subject.optimizer.param_groups = groups
        subject.step()


def test_schedule_cannot_add_a_group_in_the_middle_of_a_step(refused):
    param, grad = np.ones(8), np.ones(8)
    armed = False

    def schedule(step):
        if armed:
            optimizer.add_param_group({"params": [np.ones(3)]})
        return 0.1

    optimizer = rmsprop.RMSprop([param], lr=schedule)
    armed = True
    with refused(RuntimeError, BUSY.replace("step:", "add_param_group:"), optimizer, grad):
        optimizer.step([grad])
    assert len(optimizer.param_groups) == 1


SCHEDULED_CHANGES = {
    "appends a parameter": lambda groups: groups[0]["params"].append(np.ones(5)),
    "removes a parameter": lambda groups: groups[0]["params"].pop(),
    "removes all parameters": lambda groups: groups[0]["params"].clear(),
    "replaces the parameters": lambda groups: groups[0].update(params=[]),
    "replaces the parameters by None": lambda groups: groups[0].update(params=None),
    "clears its group": lambda groups: groups[0].clear(),
    "removes the last group": lambda groups: groups.pop(),
    "removes its own group": lambda groups: groups.pop(0),
    "removes all groups": lambda groups: groups.clear(),
    "adds a group": lambda groups: groups.append({**groups[0], "lr": 0.1, "params": [np.ones(5)]}),
    "doubles a group": lambda groups: groups.insert(0, groups[1]),
}


@pytest.mark.parametrize("change", SCHEDULED_CHANGES.values(), ids=SCHEDULED_CHANGES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_schedule_that_changes_what_is_optimized_fails_the_step(optimizer, change, refused):
    arrays = [np.ones(200_000) for _ in range(4)]
    grads = [np.ones(200_000) for _ in range(4)]
    armed = False

    def schedule(step):
        if armed:
            change(optimizer.param_groups)
        return 0.1

    groups = [{"params": arrays[:2], "lr": schedule}, {"params": arrays[2:]}]
    optimizer = getattr(rmsprop, optimizer)(groups)
    optimizer.step(grads)
    state = [dict(entry) for entry in optimizer.state.values()]
    armed = True
    with refused((TypeError, ValueError), re.compile(r"param_groups\b.+"), arrays, state):
        optimizer.step(grads)
    assert [entry["step"] for entry in optimizer.state.values()] == [1] * 4


@pytest.mark.parametrize("kind", [list, dict])
def test_schedule_that_removes_gradients_fails_the_step(kind, refused):
    params = {"a": np.ones(200_000), "b": np.ones(200_000)}
    grads = {"a": np.ones(200_000), "b": np.ones(200_000)}
    if kind is list:
        params, grads = list(params.values()), list(grads.values())
    armed = False

    def schedule(step):
        if armed:
            grads.clear()
        return 0.1

    optimizer = rmsprop.RMSprop(params, lr=schedule)
    armed = True
    with refused(ValueError, re.compile("grads: (got 0 gradients|nothing for parameter 'a').*"), optimizer):
        optimizer.step(grads)
