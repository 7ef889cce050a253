"""Whatever another library says of its arrays through DLPack: it is refused, or true, and then the step is right."""

import ctypes
import gc

import numpy as np
import pytest

import made_up_dlpack as dlpack
import rmsprop
from bits import assert_same_bits
from made_up_dlpack import Answering, ForeignArray, LentTwice, Managed, OldLibrary, Versioned
from rmsprop._core import Naming, Stepper

GRAD = np.arange(6.0).reshape(2, 3)


@pytest.fixture(autouse=True)
def all_that_is_lent_is_given_back():
    dlpack.lent.clear()
    yield
    if dlpack.lent:
        gc.collect()
    assert not dlpack.lent


def stepped(grad, **options):
    """Return parameters after a step with this gradient."""
    param = np.ones((2, 3))
    rmsprop.RMSprop([param], **options).step([grad])
    return param


def assert_refused(grad, match=r"grads\[0\]"):
    param, first = np.ones((2, 3)), np.ones(2)
    optimizer = rmsprop.RMSprop([first, param])
    with pytest.raises((TypeError, ValueError), match=match.replace("0", "1")):
        optimizer.step([np.ones(2), grad])
    assert (param == 1).all()
    assert (first == 1).all()
    assert optimizer.state[1]["step"] == 0


LIES = {
    "integers": {"code": 0},
    "unsigned integers": {"code": 1},
    "bfloat16 of 64 bits": {"code": 4},
    "an unknown type": {"code": 255},
    "float128": {"bits": 128},
    "float8": {"bits": 8},
    "no lanes": {"lanes": 0},
    "two lanes": {"lanes": 2},
    "a GPU": {"device": 2},
    "no device": {"device": 0},
    "a device below zero": {"device": -1},
    "an old version": {"major": 0},
    "a new version": {"major": 2},
    "a copy": {"flags": dlpack.COPIED},
    "less than no dimensions": {"ndim": -1},
    "the least dimensions": {"ndim": -(2**31)},
    "the most dimensions": {"ndim": 2**31 - 1},
    "65 dimensions": {"ndim": 65, "shape": [2, 3] + [1] * 63, "strides": [3] + [1] * 64},
    "64 dimensions": {"ndim": 64, "shape": [2, 3] + [1] * 62, "strides": [3] + [1] * 63},
    "no shape": {"shape": None},
    "another shape": {"shape": [3, 2]},
    "a length below zero": {"shape": [2, -3]},
    "two lengths below zero": {"shape": [-2, -3]},
    "the least length": {"shape": [2, -(2**63)]},
    "more elements than there are numbers": {"shape": [2**62, 2**62]},
    "no elements, and more than there are numbers": {"shape": [2**62, 0]},
    "a stride beyond all memory": {"strides": [2**61, 1]},
    "the least stride": {"strides": [-(2**63), 1]},
    "strides that together go beyond all memory": {"strides": [2**56, 2**56]},
    "no memory": {"data": None},
    "no memory, and an offset": {"data": None, "byte_offset": 64},
    "an offset beyond all memory": {"byte_offset": 2**64 - 1},
    "another name": {"name": b"another"},
}


@pytest.mark.parametrize("lie", LIES)
def test_what_cannot_be_true_of_a_gradient_is_refused(lie):
    assert_refused(ForeignArray(GRAD, **LIES[lie]))


TRUTHS = {
    "as it is": {},
    "a later minor version": {"minor": 2**32 - 1},
    "pinned memory": {"device": 3},
    "unknown flags": {"flags": 4},
    "read-only": {"flags": dlpack.READ_ONLY},
    "no deleter": {"deleter": dlpack.no_deleter},
    "no strides": {"strides": None},
    "an offset": {"data": GRAD.ctypes.data - 40, "byte_offset": 40},
}


@pytest.mark.parametrize("truth", TRUTHS)
def test_what_is_unusual_of_a_gradient_may_be(truth):
    assert_same_bits(stepped(ForeignArray(GRAD, **TRUTHS[truth])), stepped(GRAD))


def test_the_stride_of_a_dimension_of_length_one_may_be_any_number():
    param, expected = np.ones((1, 3)), np.ones((1, 3))
    rmsprop.RMSprop([param]).step([ForeignArray(GRAD[:1], strides=[2**63 - 1, 1])])
    rmsprop.RMSprop([expected]).step([GRAD[:1]])
    assert_same_bits(param, expected)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"nonfinite": "raise"}], ids=str)
def test_a_gradient_without_elements_may_have_any_strides(options):
    param = np.ones((3, 0))
    rmsprop.RMSprop([param], **options).step([ForeignArray(np.ones((3, 0)), strides=[2**62, -(2**63)])])


def test_a_library_of_before_dlpack_1_is_understood():
    assert_same_bits(stepped(OldLibrary(GRAD.T.copy().T)), stepped(GRAD))


ANSWERS = {
    "None": None,
    "a number": 5,
    "a string": "dltensor",
    "an array": GRAD,
    "itself": ...,
    **{error.__name__: error("no") for error in (BufferError, RuntimeError, TypeError, ValueError, MemoryError)},
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_is_no_capsule_is_refused(answer):
    """None above all: a parameter with None as its gradient is left out of the step."""
    grad = Answering(GRAD, ANSWERS[answer])
    if answer == "itself":
        grad.answer = grad
    assert_refused(grad)


def test_an_interrupt_while_a_library_is_asked_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt):
        stepped(Answering(GRAD, KeyboardInterrupt()))


def test_a_capsule_that_was_never_exported_is_refused():
    assert_refused(ForeignArray(GRAD).capsule())


@pytest.mark.parametrize("kind", [Versioned, Managed])
def test_nobody_else_can_take_the_memory_of_a_gradient_in_the_middle_of_a_step(kind):
    """Who takes a capsule over may free its memory. So a step has to be the one that did."""
    lender = LentTwice(GRAD, kind)

    class Thief(ForeignArray):
        def __dlpack__(self, **_):
            self.stolen = is_offered(lender.only)
            return super().__dlpack__()

    thief = Thief(GRAD)
    params = [np.ones((2, 3)), np.ones((2, 3))]
    rmsprop.RMSprop(params).step([lender, thief])
    assert not thief.stolen
    for param in params:
        assert_same_bits(param, stepped(GRAD))


def is_offered(capsule):
    is_valid = ctypes.pythonapi.PyCapsule_IsValid
    is_valid.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return any(is_valid(capsule, kind.name) for kind in (Managed, Versioned))


def test_a_capsule_that_was_taken_already_is_refused():
    lender = LentTwice(GRAD)
    with pytest.raises(TypeError, match=r"grads\[1\]"):
        rmsprop.RMSprop([np.ones((2, 3)), np.ones((2, 3))]).step([lender, lender])


def test_memory_is_lent_until_the_step_ends_and_no_longer():
    lent = []

    class Later(ForeignArray):
        def __dlpack__(self, **_):
            lent.append(len(dlpack.lent))
            return super().__dlpack__()

    rmsprop.RMSprop([np.ones((2, 3)), np.ones((2, 3))]).step([ForeignArray(GRAD), Later(GRAD)])
    assert lent == [1]
    assert not dlpack.lent


@pytest.mark.parametrize("optimizer", [rmsprop.RMSprop, rmsprop.Adagrad])
@pytest.mark.parametrize("form", [lambda a: a, lambda a: [a], lambda a: {"w": a}], ids=["single", "list", "dict"])
def test_parameters_of_other_libraries_are_refused_by_name(optimizer, form):
    """Those of PyTorch have optimizers of their own, and NumPy cannot convert all of them."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for dtype in (torch.float32, torch.bfloat16):
        for tensor in (torch.ones(3, dtype=dtype), torch.ones(3, dtype=dtype, requires_grad=True)):
            with pytest.raises(TypeError, match=r"params\[(0|'w')\]: got Tensor, wanted a numpy.ndarray"):
                optimizer(form(tensor))


# ---- Where an optimizer of PyTorch would keep them -------------------------------------------------------------------


def step_of_tensors(param, grad, square_avg, step):
    """Take a step of the engine under the adapter for PyTorch, which takes arrays of any library."""
    group = rmsprop.RMSprop(np.ones(1)).param_groups[0]
    param.grad = grad
    state = {param: {"square_avg": square_avg, "step": step}}

    step = Stepper("rmsprop", Naming.torch).step_tensors
    groups = [{**group, "params": [param]}]
    if not step(groups, state, 1.0, None, len):  # state of an odd type: PyTorch's front end would make it anew
        step(groups, state, 1.0, state, len)


def test_parameters_and_state_of_any_library_are_updated_where_they_lie():
    param, square_avg, step = np.ones((2, 3)), np.zeros((2, 3)), np.zeros(1)
    step_of_tensors(*map(ForeignArray, (param, GRAD, square_avg, step)))
    assert_same_bits(param, stepped(GRAD))
    assert step == 1


def arrays_of_a_step():
    return {"param": np.ones((2, 3)), "grad": GRAD, "square_avg": np.zeros((2, 3)), "step": np.zeros((1, 1))}


LIES_ABOUT = [(role, lie) for role in ("param", "square_avg") for lie in LIES]
# A step count may be an integer, and of a single element nobody asks the strides.
LIES_ABOUT += [("step", lie) for lie in LIES if lie != "integers" and "stride" not in lie]


@pytest.mark.parametrize(("role", "lie"), LIES_ABOUT)
def test_what_cannot_be_true_of_a_parameter_or_of_state_is_refused(role, lie):
    arrays = arrays_of_a_step()
    before = {name: array.copy() for name, array in arrays.items()}
    given = {name: ForeignArray(array, **(LIES[lie] if name == role else {})) for name, array in arrays.items()}
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        step_of_tensors(**given)
    for name, array in arrays.items():
        assert_same_bits(array, before[name])


@pytest.mark.parametrize("role", ["param", "square_avg", "step"])
def test_read_only_arrays_of_other_libraries_are_not_written(role):
    arrays = arrays_of_a_step()
    arrays[role].flags.writeable = False
    with pytest.raises((TypeError, ValueError), match="read-only" if role != "step" else "step"):
        step_of_tensors(**{name: ForeignArray(array) for name, array in arrays.items()})
