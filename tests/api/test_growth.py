"""What an optimizer costs grows with the number of parameters and groups, not with its square."""

import time

import numpy as np
import pytest

import rmsprop

FEW, MANY = 250, 4000
LIMIT = 64
"""How many times as long MANY may take as FEW: 16 times as many take 16 times as long, or 256 if it is the square."""


def groups(count):
    return [{"params": [np.ones(4)]} for _ in range(count)]


def named_groups(count):
    return [{"params": {f"weight {i}": np.ones(4)}} for i in range(count)]


def nested(count):
    return {"layers": [{"weight": np.ones(4)} for _ in range(count)]}


def nested_groups(count):
    return [{"params": {"layers": {f"layer {i}": [np.ones(4)]}}} for i in range(count)]


FORMS = {
    "arrays": lambda count: [np.ones(4) for _ in range(count)],
    "groups": groups,
    "named groups": named_groups,
    "nested": nested,
    "nested groups": nested_groups,
}


def grads_like(params):
    """Return gradients for what these parameters are, which may be in groups."""
    if isinstance(params, np.ndarray):
        return np.ones_like(params)
    if isinstance(params, dict):
        return {name: grads_like(item) for name, item in params.items()}
    if isinstance(params[0], dict) and "params" in params[0]:
        own = [grads_like(group["params"]) for group in params]
        return merged(own) if isinstance(own[0], dict) else [grad for grads in own for grad in grads]
    return [grads_like(item) for item in params]


def merged(parts):
    result = {}
    for part in parts:
        for name, item in part.items():
            if isinstance(item, dict):
                result.setdefault(name, {}).update(item)
            else:
                result[name] = item
    return result


def seconds(work):
    """Return the least time of this thread, whatever else the machine does."""
    times = []
    for _ in range(5):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return min(times)


def assert_linear(work_for):
    few, many = seconds(work_for(FEW)), seconds(work_for(MANY))
    assert many < LIMIT * max(few, 1e-4), f"{MANY} take {many / few:.0f} times as long as {FEW}"


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_constructing_grows_with_the_number_of_parameters(form):
    def construct(count):
        params = form(count)
        return lambda: rmsprop.RMSprop(params)

    assert_linear(construct)


@pytest.mark.parametrize("lr", [0.1, lambda step: 0.1 / (1 + step)], ids=["number", "schedule"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_step_grows_with_the_number_of_parameters(form, lr):
    def step(count):
        params = form(count)
        optimizer, grads = rmsprop.RMSprop(params, lr, num_threads=1), grads_like(params)
        return lambda: optimizer.step(grads)

    assert_linear(step)


USES = {
    "state by key": lambda optimizer: [optimizer.state[key]["square_avg"] for key in optimizer.state],
    "values of the state": lambda optimizer: [len(entry) for entry in optimizer.state.values()],
    "lr": lambda optimizer: optimizer.lr,
    "repr": repr,
    "state dict": lambda optimizer: optimizer.load_state_dict(optimizer.state_dict()),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("form", [groups, named_groups])
def test_looking_at_an_optimizer_grows_with_the_number_of_parameters(form, use):
    def look(count):
        optimizer = rmsprop.RMSprop(form(count))
        return lambda: use(optimizer)

    assert_linear(look)
