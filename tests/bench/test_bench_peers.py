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
    in_their_memory = {(large.ctypes.data - large.base.ctypes.data) // peer_arrays.CACHE_LINE for large, _ in several}
    assert len(in_their_memory) > 10, "the heap alone decides where copies lie"
    assert all(small.base is None for _, small in several)


QUICK_TO_COMPILE = [name for name, peer in peers.PEERS.items() if peer.formula and "compiled" not in name]


@pytest.mark.parametrize("rule", workloads.RULES)
@pytest.mark.parametrize("name", QUICK_TO_COMPILE)
def test_a_peer_computes_the_step_that_it_declares(name, rule):
    peer, options = peers.PEERS[name], {**workloads.COMMON, **workloads.RULES[rule]}
    try:
        found = agreement.agreement(peer, agreement.check_arrays(), options)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed, so there is no peer to judge")
    except NoSuchRuleError:
        assert peer.formula != "rmsprop"
        assert rule != "plain"
        return
    if peer.approximate:
        assert found["verdict"] == "approximation"
    else:  # with one learning rate all the time, it makes no difference whether it is in the momentum buffer
        differs = peer.formula != "rmsprop" or "eps_in_sqrt" in peer.meaning
        why = peer.why + ("; it writes into the gradients" if peer.writes_grads else "")
        assert (found["verdict"], found["why"]) == (("another formula", why) if differs else ("same step", ""))


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


# ---- The formulas that peers are compared with -----------------------------------------------------------------------


def after_three_steps(formula, param, grad):
    """Return what three steps with the same gradient come to, in closed form, with eps outside of the root."""
    lr, alpha, eps = workloads.COMMON["lr"], workloads.COMMON["alpha"], workloads.COMMON["eps"]
    size, sign = np.abs(np.float64(grad)), np.sign(grad)
    steps = {
        "sgd": [size] * 3,
        "adam": [size / (size + eps)] * 3,
        "adagrad": [size / (size * math.sqrt(count) + eps) for count in (1, 2, 3)],
        "rmsprop": [size / (size * math.sqrt(1 - alpha**count) + eps) for count in (1, 2, 3)],
    }
    return param - lr * sign * sum(steps[formula])


FORMULAS = ("rmsprop", "adagrad", "adam", "sgd")


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_formula_is_what_it_is_on_paper(formula):
    arrays = agreement.check_arrays()
    found = agreement.expected(arrays, formula, {**workloads.COMMON, "eps_in_sqrt": False})
    for result, param, grad in zip(found, arrays.params, arrays.grads, strict=True):
        np.testing.assert_allclose(result, after_three_steps(formula, param, grad), rtol=0, atol=2e-8)


def on_paper(formula, error=0.0, where=(2, 8191)):
    """Return a peer's `make`: in three steps it goes where a formula leads, with an error in one element."""

    def make(arrays, options):
        params = [after_three_steps(formula, *pair) for pair in zip(arrays.params, arrays.grads, strict=True)]
        params[where[0]].reshape(-1)[where[1]] += error * workloads.COMMON["lr"]
        steps = []

        def read():
            assert len(steps) == agreement.STEPS == 3
            return params

        return Steps(lambda: steps.append(1), read, int)

    return make


@pytest.mark.parametrize("declared", FORMULAS)
@pytest.mark.parametrize("computed", FORMULAS)
def test_a_peer_that_computes_another_formula_than_it_declares_is_wrong(declared, computed):
    found = judged(on_paper(computed), formula=declared, meaning={"eps_in_sqrt": False}, why="declared")
    assert found["verdict"] == ("another formula" if declared == computed else "wrong")
    assert (found["from_its_formula"] <= agreement.TOLERANCE) == (declared == computed)
    assert found["from_ours"] > agreement.TOLERANCE
    assert found["why"].startswith("declared" if declared == computed else "after 3 steps it is ")


@pytest.mark.parametrize("where", [(0, 3), (1, 100), (2, 8191)])
def test_an_error_in_one_element_counts_in_learning_rates(where):
    found = judged(on_paper("sgd", 0.25, where), formula="sgd")
    assert found["verdict"] == "wrong"
    assert found["from_its_formula"] == pytest.approx(0.25, abs=1e-4)
    assert "0.25 learning rates" in found["why"]


@pytest.mark.parametrize(("error", "verdict"), [(0.5e-3, "another formula"), (-2e-3, "wrong"), (2e-3, "wrong")])
def test_what_is_rounding_has_a_bound_on_both_sides(error, verdict):
    assert judged(on_paper("sgd", error), formula="sgd")["verdict"] == verdict


def test_an_approximation_may_be_far_off_for_small_gradients_only():
    grad = agreement.check_arrays().grads[2]
    small, large = int(np.argmin(np.abs(grad))), int(np.argmax(np.abs(grad)))
    about = {"formula": "sgd", "approximate": True}
    assert judged(on_paper("sgd", 3.0, (2, small)), **about)["verdict"] == "approximation"
    assert judged(on_paper("sgd", 0.4, (2, large)), **about)["verdict"] == "approximation"
    assert judged(on_paper("sgd", 0.6, (2, large)), **about)["verdict"] == "wrong"
    assert judged(on_paper("sgd", 0.4, (2, large)), formula="sgd")["verdict"] == "wrong"


def test_gradients_are_those_on_which_formulas_part():
    arrays = agreement.check_arrays()
    sizes = np.abs(np.concatenate([grad.reshape(-1) for grad in arrays.grads]))
    for low, high in ((0, 0), (5e-7, 1e-6), (5e-5, 1e-4), (5e-3, 1e-2), (0.5, 1)):
        assert np.mean((sizes >= low) & (sizes <= high)) > 0.1
    assert max(float(np.abs(param).max()) for param in arrays.params) < 0.1
    assert any((grad < 0).any() and (grad > 0).any() for grad in arrays.grads)


def test_a_bare_loop_is_no_step():
    assert judged(on_paper("sgd"), formula="")["verdict"] == "no step"
