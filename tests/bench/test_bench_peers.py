"""What the peers are given, and how it is judged what they computed."""

import math

import numpy as np
import pytest

import peers
from harness import agreement, workloads
from peers import arrays as peer_arrays
from peers import numpy_expression
from peers.contract import NoSuchRuleError, Peer, Steps


def test_real_models_have_their_published_sizes():
    resnet50, gpt2 = workloads.WORKLOADS["resnet50"], workloads.WORKLOADS["gpt2-small"]
    assert (len(resnet50.shapes()), resnet50.elements) == (161, 25_557_032)
    assert (len(gpt2.shapes()), gpt2.elements) == (148, 124_439_808)


def test_copies_of_large_parameters_lie_anywhere_in_a_page_and_those_of_small_ones_where_the_heap_has_room():
    arrays = workloads.random_arrays([(peer_arrays.LARGE // 16, 4), (2, 3)])
    several = [arrays.copies_of_params() for _ in range(100)]
    for copies in several:
        for copy, param in zip(copies, arrays.params, strict=True):
            np.testing.assert_array_equal(copy, param, strict=True)
            assert copy.flags.writeable
            assert not np.shares_memory(copy, param)
    offsets = [large.ctypes.data % peer_arrays.PAGE for large, _ in several]
    assert not any(offset % peer_arrays.CACHE_LINE for offset in offsets)
    assert len(set(offsets)) > 10, "a hundred copies of one array lie in a few places only"
    assert all(small.base is None for _, small in several)


@pytest.mark.parametrize("rule", workloads.RULES)
@pytest.mark.parametrize("name", ["rmsprop", "NumPy expression", "rmsprop.torch RMSprop", "torch RMSprop"])
def test_a_peer_computes_the_step_that_it_declares(name, rule):
    options = {**workloads.COMMON, **workloads.RULES[rule]}
    try:
        found = agreement.agreement(peers.PEERS[name], agreement.check_arrays(), options)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed, so there is no peer to judge")
    expected = "another formula" if peers.PEERS[name].meaning else "same step"
    assert (found["verdict"], found["why"]) == (expected, peers.PEERS[name].why)


def judged(make, **about):
    peer = Peer("peer", "numpy", make, **about)
    return agreement.agreement(peer, agreement.check_arrays(), workloads.COMMON)


def changed(**options):
    return lambda arrays, given: numpy_expression.make(arrays, {**given, **options})


@pytest.mark.parametrize("options", [{"eps": 1e-6}, {"alpha": 0.99}, {"lr": 1.01e-3}], ids=str)
def test_another_step_than_declared_is_wrong(options):
    found = judged(changed(**options))
    assert found["verdict"] == "wrong"
    assert found["from_its_formula"] > agreement.TOLERANCE


def test_the_place_of_eps_is_told_apart():
    found = judged(changed(), meaning={"eps_in_sqrt": False}, why="eps outside")
    assert found["verdict"] == "wrong"


def test_a_declared_difference_is_another_formula_with_its_reason():
    found = judged(changed(alpha=0.99), meaning={"alpha": 0.99}, why="another alpha")
    assert (found["verdict"], found["why"]) == ("another formula", "another alpha")


def test_a_parameter_that_is_not_a_number_is_wrong():
    def make(arrays, options):
        params = [np.full_like(param, np.nan) for param in arrays.params]
        return Steps(lambda: None, lambda: params, int)

    found = judged(make)
    assert (found["verdict"], found["from_ours"]) == ("wrong", math.inf)


def test_a_peer_that_writes_into_gradients_is_told_on():
    def make(arrays, options):
        contender = numpy_expression.make(arrays, options)

        def step():
            contender.run(1)
            arrays.grads[1][0, 0] = 7

        return Steps(step, contender.params, contender.state_bytes)

    found = judged(make)
    assert (found["verdict"], found["why"]) == ("same step", "it writes into the gradients")


def test_rounded_state_is_an_approximation_only_where_it_is_declared():
    def make(arrays, options):
        contender = numpy_expression.make(arrays, options)
        small = [np.where(np.abs(grad) < 1e-3, np.float32(2e-3), np.float32(0)) for grad in arrays.grads]
        return Steps(
            lambda: contender.run(1),
            lambda: [param + error for param, error in zip(contender.params(), small, strict=True)],
            contender.state_bytes,
        )

    assert judged(make)["verdict"] == "wrong"
    assert judged(make, approximate=True)["verdict"] == "approximation"


def test_other_optimizers_have_no_centered_form():
    with pytest.raises(NoSuchRuleError):
        peers.contract.only_plain({"centered": True, "momentum": 0.9}, "Adam")
