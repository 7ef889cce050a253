"""One call at a time: what another thread asks of an optimizer in the middle of a step is refused, nothing is lost."""

import copy
import threading

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from rmsprop.torch import step_in_backward  # noqa: E402
from torch_snapshots import OURS  # noqa: E402


class Meanwhile:
    """A learning rate: when a step reads it, something is called in another thread."""

    def __init__(self, call):
        self.call = call
        self.errors = []

    def item(self):
        thread = threading.Thread(target=self.attempt)
        thread.start()
        thread.join()
        return 0.1

    def attempt(self):
        try:
            self.call()
            self.errors.append(None)
        except RuntimeError as error:
            self.errors.append(str(error))


def optimizer_of(ours):
    layer = torch.nn.Linear(3, 2)
    optimizer = ours(layer.named_parameters(), lr=0.1)
    backward(layer)
    optimizer.step()
    optimizer.zero_grad()
    return layer, optimizer


def backward(layer):
    layer(torch.ones(1, 3)).sum().backward()


CALLS = {
    "step": lambda layer, optimizer, saved: optimizer.step(),
    "load_state_dict": lambda layer, optimizer, saved: optimizer.load_state_dict(saved),
    "share_memory": lambda layer, optimizer, saved: optimizer.share_memory(),
}


@OURS
@pytest.mark.parametrize("in_backward", [False, True], ids=["step", "step in backward"])
@pytest.mark.parametrize("call", CALLS)
def test_calls_of_another_thread_in_the_middle_of_a_step_are_refused(ours, call, in_backward):
    layer, optimizer = optimizer_of(ours)
    saved = copy.deepcopy(optimizer.state_dict())
    expected, other = optimizer_of(ours)
    expected.load_state_dict(layer.state_dict())
    other.load_state_dict(saved)
    backward(expected)
    other.step()
    if in_backward:
        step_in_backward(layer, optimizer)
    optimizer.param_groups[0]["lr"] = meanwhile = Meanwhile(lambda: CALLS[call](layer, optimizer, saved))
    backward(layer)
    optimizer.step()
    assert len(meanwhile.errors) >= 1
    refused = meanwhile.errors[: len(meanwhile.errors) - in_backward]  # the last step finds nothing left to do
    assert all(error and "in the middle of" in error for error in refused), meanwhile.errors
    for mine, their in zip(layer.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, their)
        assert optimizer.state[mine]["step"].item() == 2


@OURS
def test_a_step_in_the_backward_pass_is_refused_while_another_thread_steps(ours):
    layer, optimizer = optimizer_of(ours)
    step_in_backward(layer, optimizer)
    before = copy.deepcopy(layer)
    with optimizer._stepper.hold("step"), pytest.raises(RuntimeError, match="in the middle of"):
        backward(layer)
    assert all(map(torch.equal, layer.parameters(), before.parameters()))
