"""Fixtures and hypothesis settings that all tests share."""

import hypothesis
import pytest

import rmsprop
from rmsprop import _core

# Compiling and sharing a machine make single examples slow now and then; that is no failure.
hypothesis.settings.register_profile("rmsprop", deadline=None, derandomize=True, max_examples=150)
hypothesis.settings.load_profile("rmsprop")


@pytest.fixture(params=rmsprop.instruction_sets().available)
def instruction_set(request):
    """Each instruction set that this machine has, in use for one test."""
    before = rmsprop.instruction_sets().chosen
    _core.use_instruction_set(request.param)
    yield request.param
    _core.use_instruction_set(before)


@pytest.fixture(params=[1, 2, 3], ids="threads={}".format)
def num_threads(request):
    return request.param
