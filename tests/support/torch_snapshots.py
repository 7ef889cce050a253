"""What tests of the PyTorch adapter compare: all of an optimizer's parameters and state, byte by byte."""

import pytest
import torch

import rmsprop.torch

OURS = pytest.mark.parametrize("ours", [rmsprop.torch.RMSprop, rmsprop.torch.Adagrad], ids=["RMSprop", "Adagrad"])


def bytes_of(tensor):
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


class Unchanged:
    """Asserts that parameters and state are, to the byte, what they were at the start of the block."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def __enter__(self):
        self.before = self.snapshot()

    def __exit__(self, error_type, error, traceback):
        if error is None:
            assert self.snapshot() == self.before

    def snapshot(self):
        params = [param for group in self.optimizer.param_groups for param in group["params"]]
        return [bytes_of(param) for param in params], [
            (id(param), [(name, id(value), bytes_of(value.reshape(-1))) for name, value in entry.items()])
            for param, entry in self.optimizer.state.items()
        ]


def named(ours, **options):
    """Return an optimizer with parameters "weight" and "bias" that took a step, and has gradients for another."""
    weight, bias = torch.ones(3, 4, requires_grad=True), torch.ones(4, requires_grad=True)
    optimizer = ours([("weight", weight), ("bias", bias)], lr=0.1, **options)
    for param in (weight, bias):
        param.grad = torch.ones_like(param)
    optimizer.step()
    return optimizer, weight, bias
