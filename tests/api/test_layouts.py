"""Arrays may lie in memory in any way: the bits are the reference's at each index, and nothing else is touched."""

import multiprocessing.shared_memory
import os

import numpy as np
import pytest

import rmsprop
from bits import assert_same_bits
from many_elements import MANY, WINDOWS, many_elements
from rmsprop import functional, reference

RULES = ("rmsprop_", "adagrad_")
TYPES = (np.float32, np.float64, np.complex64, np.complex128)
STATE = {"rmsprop_": ("square_avg", "grad_avg", "momentum_buffer"), "adagrad_": ("sum",)}
HYPERPARAMETERS = {
    "rmsprop_": {"lr": 0.1, "momentum": 0.9, "centered": True, "weight_decay": 0.01},
    "adagrad_": {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.01},
}

SHAPE = (2, 3, 4, 5)
SIZE = 120


# ---- Arrays in a piece of memory -------------------------------------------------------------------------------------


def dense(memory, dtype, shape, skip=0):
    """Return an array in C order that starts `skip` bytes into a piece of memory."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return memory[skip : skip + size].view(dtype).reshape(shape)


def packed_field(memory, dtype):
    """Return a field of records without padding: strided, and aligned by chance only."""
    record = np.dtype([("tag", np.uint8), ("value", dtype)])
    return memory[: SIZE * record.itemsize].view(record)["value"].reshape(SHAPE)


def real_parts(memory, dtype):
    if np.dtype(dtype).kind == "c":
        return dense(memory, dtype, (*SHAPE, 2))[..., 0]
    return dense(memory, np.result_type(dtype, np.complex64), SHAPE).real


# How an array of SHAPE can lie in a piece of memory.
LAYOUTS = {
    "C": lambda memory, dtype: dense(memory, dtype, SHAPE),
    "Fortran": lambda memory, dtype: dense(memory, dtype, SHAPE[::-1]).T,
    "channels-last": lambda memory, dtype: dense(memory, dtype, (2, 4, 5, 3)).transpose(0, 3, 1, 2),
    "axes in another order": lambda memory, dtype: dense(memory, dtype, (4, 2, 5, 3)).transpose(1, 3, 0, 2),
    "first column": lambda memory, dtype: dense(memory, dtype, (*SHAPE, 7))[..., 0],
    "last column": lambda memory, dtype: dense(memory, dtype, (*SHAPE, 7))[..., -1],
    "every second row, every third column": lambda memory, dtype: dense(memory, dtype, (2, 3, 8, 14))[..., ::2, 1::3],
    "every second of the first axis": lambda memory, dtype: dense(memory, dtype, (4, 3, 4, 5))[::2],
    "window": lambda memory, dtype: dense(memory, dtype, (4, 5, 6, 7))[1:3, 1:4, 1:5, 1:6],
    "reversed": lambda memory, dtype: dense(memory, dtype, SHAPE)[::-1, ::-1, ::-1, ::-1],
    "one axis reversed": lambda memory, dtype: dense(memory, dtype, SHAPE)[:, :, ::-1],
    "reversed and sparse": lambda memory, dtype: dense(memory, dtype, (4, 3, 4, 15))[::-2, :, ::-1, ::-3],
    "Fortran, reversed and sparse": lambda memory, dtype: dense(memory, dtype, (5, 8, 3, 2)).T[::-1, :, ::2, ::-1],
    "misaligned": lambda memory, dtype: dense(memory, dtype, SHAPE, skip=1),
    "misaligned by half": lambda memory, dtype: dense(memory, dtype, SHAPE, skip=np.dtype(dtype).itemsize // 2),
    "misaligned and strided": lambda memory, dtype: dense(memory, dtype, (*SHAPE, 3), skip=3)[..., 1],
    "packed field": packed_field,
    "real parts": real_parts,
}

# What a gradient can be besides: its elements may share memory, since it is only read.
SHARING_LAYOUTS = {
    "one element everywhere": lambda memory, dtype: np.broadcast_to(dense(memory, dtype, ()), SHAPE),
    "one row everywhere": lambda memory, dtype: np.broadcast_to(dense(memory, dtype, (5,)), SHAPE),
    "one column everywhere": lambda memory, dtype: np.broadcast_to(dense(memory, dtype, (2, 1, 4, 1)), SHAPE),
    "sliding window": lambda memory, dtype: np.lib.stride_tricks.sliding_window_view(
        dense(memory, dtype, (2, 3, 8)), 5, axis=2
    ),
}


def values(rng, dtype, shape=SHAPE):
    """Return ordinary numbers; the parts of complex ones differ."""
    numbers = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else 0)
    return np.array(numbers, dtype)


def accumulated(rng, dtype, shape=SHAPE):
    """Return numbers whose parts are all above 0."""
    numbers = values(rng, dtype, (int(np.prod(shape)),))
    numbers.view(numbers.real.dtype)[...] **= 2
    return numbers.reshape(shape)


class Problem:
    """The arrays of one step, by name, and what a step makes of them."""

    def __init__(self, rule, arrays):
        self.rule, self.arrays = rule, arrays

    @classmethod
    def random(cls, rule, dtype, shape=SHAPE):
        rng = np.random.default_rng(0)
        accumulator, *others = STATE[rule]
        arrays = {name: values(rng, dtype, shape) for name in ("param", "grad")}
        arrays[accumulator] = accumulated(rng, dtype, shape)
        return cls(rule, arrays | {name: values(rng, dtype, shape) for name in others})

    def take_step(self, module, **more):
        state = {name: self.arrays[name] for name in STATE[self.rule]}
        rule = getattr(module, self.rule)
        rule(self.arrays["param"], self.arrays["grad"], **state, step=3, **HYPERPARAMETERS[self.rule], **more)

    def after_reference(self):
        """Return what the reference makes of dense copies of the arrays."""
        copies = Problem(self.rule, {name: np.array(array, order="C") for name, array in self.arrays.items()})
        copies.take_step(reference)
        return copies.arrays

    def assert_same_bits_in(self, layouts, memory_size=16 * 1024, **more):
        """Take a step on arrays in the given layouts, by name, and look at every byte of the memory they lie in."""
        rng = np.random.default_rng(1)
        memory, laid_out = {}, {}
        for name, array in self.arrays.items():
            memory[name] = rng.integers(0, 256, memory_size, np.uint8)
            view = laid_out[name] = layouts[name](memory[name], array.dtype)
            if view.flags.writeable:
                view[...] = array
            else:  # as it lies there, but no NaN, which may come out as another NaN
                memory[name].view(array.dtype)[...] = values(rng, array.dtype, memory_size // array.itemsize)
        problem = Problem(self.rule, laid_out)
        expected = problem.after_reference()
        expected_memory = {name: piece.copy() for name, piece in memory.items()}

        problem.take_step(functional, **more)

        for name, array in expected.items():
            assert_same_bits(laid_out[name], array)
            if name != "grad":
                layouts[name](expected_memory[name], array.dtype)[...] = array
            assert np.array_equal(memory[name], expected_memory[name]), f"bytes beside {name} were written"


# ---- One layout and another ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rule", RULES)
def test_any_layout_has_the_bits_of_the_reference_and_leaves_the_gaps(rule, dtype, layout):
    problem = Problem.random(rule, dtype)
    everything = list(problem.arrays)
    for chosen in (["param"], ["grad"], STATE[rule], STATE[rule][-1:], ["param", *STATE[rule]], everything):
        problem.assert_same_bits_in({name: layout if name in chosen else LAYOUTS["C"] for name in everything})


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("rule", RULES)
def test_any_two_layouts_together_have_the_bits_of_the_reference_and_leave_the_gaps(rule, layout):
    problem = Problem.random(rule, np.float32)
    for grad_layout in LAYOUTS.values():
        problem.assert_same_bits_in({name: layout for name in problem.arrays} | {"grad": grad_layout})


@pytest.mark.parametrize("layout", SHARING_LAYOUTS.values(), ids=SHARING_LAYOUTS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rule", RULES)
def test_gradient_whose_elements_share_memory_has_the_bits_of_the_reference(rule, dtype, layout):
    problem = Problem.random(rule, dtype)
    for others in ("C", "Fortran", "every second row, every third column", "misaligned"):
        problem.assert_same_bits_in({name: LAYOUTS[others] for name in problem.arrays} | {"grad": layout})


@pytest.mark.parametrize("rule", RULES)
def test_read_only_gradient_has_the_bits_of_the_reference(rule):
    problem = Problem.random(rule, np.float32)
    expected = problem.after_reference()
    problem.arrays["grad"].flags.writeable = False
    problem.take_step(functional)
    for name, array in expected.items():
        assert_same_bits(problem.arrays[name], array)


@pytest.mark.parametrize("step", [slice(None), slice(None, None, 2), slice(None, None, -1)], ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_gradient_in_memory_that_cannot_be_written_has_the_bits_of_the_reference(rule, step, tmp_path):
    """A write into such a file ends the process, even if it writes what is there."""
    file = tmp_path / "gradient"
    np.random.default_rng(0).standard_normal(5000).astype(np.float32).tofile(file)
    grad = np.memmap(file, np.float32, "r")[step]
    problem = Problem(rule, {"param": np.ones(grad.size, np.float32), "grad": grad.view(np.ndarray)})
    problem.arrays |= {name: np.ones(grad.size, np.float32) for name in STATE[rule]}
    expected = problem.after_reference()
    problem.take_step(functional)
    for name, array in expected.items():
        assert_same_bits(problem.arrays[name], array)


@pytest.mark.parametrize("rule", RULES)
def test_gradient_transposed_against_its_parameter_has_the_bits_of_the_reference(rule):
    """As `x.T @ y` or `(y.T @ x).T` may be."""
    rng = np.random.default_rng(0)
    weights, grad, accumulator = rng.standard_normal((3, 37, 53))
    grad = grad.T.copy().T
    assert grad.flags.f_contiguous
    problem = Problem(rule, {"param": weights, "grad": grad, STATE[rule][0]: accumulator**2})
    problem.arrays |= {name: rng.standard_normal((37, 53)) for name in STATE[rule][1:]}
    expected = problem.after_reference()
    problem.take_step(functional)
    for name, array in expected.items():
        assert_same_bits(problem.arrays[name], array)


# ---- Many elements, many dimensions ----------------------------------------------------------------------------------

LARGE = (520, 410)  # 213,200 elements: enough for a share each for three threads

LARGE_LAYOUTS = {
    "column": lambda memory, dtype: dense(memory, dtype, (*LARGE, 2))[..., 1],
    "every second row and column": lambda memory, dtype: dense(memory, dtype, (1040, 820))[::2, 1::2],
    "Fortran, reversed and sparse": lambda memory, dtype: dense(memory, dtype, (820, 520)).T[::-1, ::2],
    "misaligned": lambda memory, dtype: dense(memory, dtype, LARGE, skip=1),
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((rule, dtype), id=f"{rule}-{dtype.__name__}")
        for rule in RULES
        for dtype in (np.float32, np.complex128)
    ],
)
def large_problem(request):
    problem = Problem.random(*request.param, LARGE)
    return problem, problem.after_reference()


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("layout", LARGE_LAYOUTS.values(), ids=LARGE_LAYOUTS)
def test_large_strided_arrays_have_the_bits_of_the_reference_with_any_number_of_threads(
    large_problem, layout, num_threads
):
    problem, expected = large_problem
    itemsize = problem.arrays["param"].itemsize
    memory = {name: np.full(4 * problem.arrays["param"].size * itemsize, 0x55, np.uint8) for name in problem.arrays}
    layouts = {name: layout for name in problem.arrays} | {"grad": lambda *where: dense(*where, LARGE[::-1]).T}
    arrays = {name: layouts[name](memory[name], array.dtype) for name, array in problem.arrays.items()}
    for name, array in problem.arrays.items():
        arrays[name][...] = array
    Problem(problem.rule, arrays).take_step(functional, num_threads=num_threads)
    for name, array in expected.items():
        assert_same_bits(arrays[name], array)
        arrays[name][...] = np.full((), 0x55, np.uint8).repeat(itemsize).view(array.dtype)
        assert (memory[name] == 0x55).all(), f"bytes beside {name} were written"


def most_dimensions():
    """Return how many dimensions this NumPy allows: 64, or 32 before NumPy 2."""
    return 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rule", RULES)
def test_as_many_dimensions_as_there_can_be_have_the_bits_of_the_reference(rule, dtype):
    shape = (1,) * (most_dimensions() - 3) + (4, 5, 6)

    def layout(memory, dtype):
        return dense(memory, dtype, (*shape[:-3], 4, 10, 6))[..., ::2, ::-1]

    problem = Problem.random(rule, dtype, shape)
    problem.assert_same_bits_in({name: layout for name in problem.arrays})


@pytest.mark.parametrize("rule", RULES)
def test_dimensions_in_as_many_orders_as_there_are_arrays_have_the_bits_of_the_reference(rule):
    """Thirteen dimensions of two, so that no two of them can be walked as one."""
    rng = np.random.default_rng(0)
    shape = (2,) * 13

    def shuffled():
        axes = rng.permutation(13)
        return lambda memory, dtype: dense(memory, dtype, shape).transpose(axes)

    problem = Problem.random(rule, np.float32, shape)
    problem.assert_same_bits_in({name: shuffled() for name in problem.arrays}, memory_size=4 * 2**13 + 64)


# ---- Few elements, or none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0, 2), (2, 0), ()])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rule", RULES)
def test_no_elements_and_no_dimensions_have_the_bits_of_the_reference(rule, dtype, shape):
    layouts = (
        lambda memory, dtype: dense(memory, dtype, shape),
        lambda memory, dtype: dense(memory, dtype, shape, skip=1),
        lambda memory, dtype: dense(memory, dtype, (*shape, 3))[..., 1],
    )
    problem = Problem.random(rule, dtype, shape)
    for layout in layouts:
        problem.assert_same_bits_in({name: layout for name in problem.arrays})


@pytest.mark.parametrize("optimizer", [rmsprop.RMSprop, rmsprop.Adagrad])
@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), ()])
def test_optimizer_of_an_array_without_elements_or_dimensions_counts_its_steps(optimizer, shape):
    param, grad, other = np.ones(shape), np.ones(shape), np.ones(3)
    expected, accumulator = param.copy(), np.zeros(shape)
    optimizer = optimizer([param, other], lr=0.1)
    rule = {"square_avg": reference.rmsprop_, "sum": reference.adagrad_}[optimizer.state_names[0]]
    for _ in range(2):
        optimizer.step([grad, np.ones(3)])
        rule(expected, grad, accumulator, lr=0.1)
    assert_same_bits(param, expected)
    assert_same_bits(optimizer.state[0][optimizer.state_names[0]], accumulator)
    assert optimizer.state[0]["step"] == 2


# ---- Neighbours ------------------------------------------------------------------------------------------------------

# Arrays that have no element in common, cut from one of shape (12, 8).
NEIGHBOURS = {
    "rows": list,
    "columns": lambda a: list(a.T),
    "upper and lower half": lambda a: [a[:6], a[6:]],
    "left and right block": lambda a: [a[:, :3], a[:, 3:]],
    "quarters": lambda a: [a[:6, :4], a[:6, 4:], a[6:, :4], a[6:, 4:]],
    "checkerboard": lambda a: [a[::2, ::2], a[1::2, 1::2], a[::2, 1::2], a[1::2, ::2]],
    "even and odd, backwards": lambda a: [a.reshape(-1)[::2], a.reshape(-1)[::-2]],
    "strides that differ": lambda a: [a.reshape(-1)[::4], a.reshape(-1)[2::4], a.reshape(-1)[1::2]],
    "diagonal and the rest of the first row": lambda a: [a.reshape(-1)[:72:9], a[0, 1:]],
    "frame and middle": lambda a: [a[0], a[-1], a[1:-1, 0], a[1:-1, -1], a[1:-1, 1:-1]],
    "transposed blocks": lambda a: [a[:, :3].T, a[:, 4:].T[::-1]],
    "none in the middle of others": lambda a: [a[:6], a[3:3], a[6:6], a[6:], a[:, 4:4]],
    "one element each": lambda a: [a[i, j : j + 1].reshape(()) for i in range(3) for j in range(8)],
}


@pytest.mark.parametrize("cut", NEIGHBOURS.values(), ids=NEIGHBOURS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("optimizer", [rmsprop.RMSprop, rmsprop.Adagrad])
def test_parameters_that_are_parts_of_one_array_have_the_bits_of_the_reference(optimizer, dtype, cut):
    rng = np.random.default_rng(0)
    whole, whole_grad, whole_state = (values(rng, dtype, (12, 8)) for _ in range(3))
    whole_state[...] = accumulated(rng, dtype, (12, 8))
    expected, expected_state = whole.copy(), whole_state.copy()
    optimizer = optimizer(cut(whole), lr=0.1)
    name = optimizer.state_names[0]
    for index, part in enumerate(cut(whole_state)):
        optimizer.state[index][name] = part
    rule = {"square_avg": reference.rmsprop_, "sum": reference.adagrad_}[name]
    for _ in range(2):
        optimizer.step(cut(whole_grad))
        for param, grad, state in zip(cut(expected), cut(whole_grad), cut(expected_state), strict=True):
            rule(param, grad, state, lr=0.1)
    assert_same_bits(whole, expected)
    assert_same_bits(whole_state, expected_state)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES)
def test_arrays_of_one_step_in_the_columns_of_one_matrix_have_the_bits_of_the_reference(rule, dtype):
    problem = Problem.random(rule, dtype, (101,))
    expected = problem.after_reference()
    matrix = np.zeros((101, 7), dtype)
    for column, (name, array) in enumerate(problem.arrays.items(), 1):
        matrix[:, column] = array
        problem.arrays[name] = matrix[:, column]
    problem.take_step(functional)
    for name, array in expected.items():
        assert_same_bits(problem.arrays[name], array)
    assert not matrix[:, 0].any()
    assert not matrix[:, len(expected) + 1 :].any()


@pytest.mark.parametrize("align", [False, True], ids=["packed", "padded"])
@pytest.mark.parametrize("rule", RULES)
def test_arrays_of_one_step_in_the_fields_of_records_have_the_bits_of_the_reference(rule, align):
    problem = Problem.random(rule, np.float64, (101,))
    expected = problem.after_reference()
    record = np.dtype([("tag", np.uint8), *((name, np.float64) for name in problem.arrays)], align=align)
    records = np.zeros(101, record)
    records["tag"] = 0xAA
    for name, array in problem.arrays.items():
        records[name] = array
        problem.arrays[name] = records[name]
    problem.take_step(functional)
    for name, array in expected.items():
        assert_same_bits(problem.arrays[name], array)
    assert (records["tag"] == 0xAA).all()


def test_real_and_imaginary_parts_as_two_parameters_have_the_bits_of_one_complex_one():
    rng = np.random.default_rng(0)
    numbers, grad = values(rng, np.complex64, (33,)), values(rng, np.complex64, (33,))
    whole = numbers.copy()
    parts = rmsprop.RMSprop([numbers.real, numbers.imag])
    one = rmsprop.RMSprop(whole)
    for _ in range(3):
        parts.step([grad.real, grad.imag])
        one.step(grad)
    assert_same_bits(numbers, whole)


def test_one_gradient_for_several_parameters_has_the_bits_of_the_reference():
    grad, params = np.arange(-3.0, 4.0), [np.ones(7), np.zeros(7), np.full(7, -1.0)]
    expected = [param.copy() for param in params]
    rmsprop.Adagrad(params, lr=0.1).step([grad, grad[::-1], grad])
    for param, its_grad in zip(expected, [grad, grad[::-1], grad], strict=True):
        reference.adagrad_(param, its_grad, np.zeros(7), lr=0.1)
    for param, wanted in zip(params, expected, strict=True):
        assert_same_bits(param, wanted)


# ---- Arrays of other kinds -------------------------------------------------------------------------------------------


class Liar(np.ndarray):
    """An array that does not tell the truth about itself, and cannot be computed with."""

    def refuse(self, *args, **kwargs):
        raise AssertionError("a step takes an array as it lies in memory")

    __getitem__ = __setitem__ = __len__ = __iter__ = __float__ = __array_ufunc__ = refuse
    dtype = property(lambda self: np.dtype(np.int8))
    shape = property(lambda self: (1,))
    strides = property(lambda self: (0,))
    flags = property(lambda self: None)
    __array_interface__ = property(lambda self: {})


@pytest.mark.parametrize("rule", RULES)
def test_subclass_is_taken_as_it_lies_in_memory(rule):
    problem = Problem.random(rule, np.float32)
    expected = problem.after_reference()
    arrays = problem.arrays
    problem.arrays = {name: array.view(Liar) for name, array in arrays.items()}
    problem.take_step(functional)
    for name, array in expected.items():
        assert_same_bits(arrays[name], array)


@pytest.mark.parametrize("optimizer", [rmsprop.RMSprop, rmsprop.Adagrad])
def test_state_of_a_subclass_is_a_plain_array(optimizer):
    class Named(np.ndarray):
        pass

    param = np.ones((3, 4)).T.view(Named)
    expected, grad = np.array(param), np.full((4, 3), 0.5)
    optimizer = optimizer(param, lr=0.1)
    name = optimizer.state_names[0]
    assert type(optimizer.state[0][name]) is np.ndarray
    optimizer.step(grad.view(Named))
    rule = {"square_avg": reference.rmsprop_, "sum": reference.adagrad_}[name]
    rule(expected, grad, np.zeros((4, 3)), lr=0.1)
    assert_same_bits(np.asarray(param), expected)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("shape", [(3, 4), (300, 40)])
def test_state_of_a_subclass_is_plain_and_apart_whatever_functions_of_numpy_it_overrides(shape, dtype):
    class Overriding(np.ndarray):
        def __array_function__(self, function, types, args, kwargs):
            return self  # so that what is put into new state would be put into the parameter

    param = np.ones(shape, dtype).view(Overriding)
    optimizer = rmsprop.Adagrad(param, initial_accumulator_value=0.5)
    plain = param.view(np.ndarray)
    assert (plain == 1).all()
    state = optimizer.state[0]["sum"]
    assert type(state) is np.ndarray
    assert state[0, 0] == (0.5 + 0.5j if dtype is np.complex128 else 0.5)
    optimizer.step(np.ones(shape, dtype))
    assert (plain != 1).all()


def test_dtype_with_metadata_has_the_bits_of_the_reference():
    dtype = np.dtype(np.float32, metadata={"unit": "m"})
    param, grad, square_avg = (np.full(9, value, dtype) for value in (1.0, 0.5, 0.25))
    expected = np.full(9, 1.0, np.float32)
    reference.rmsprop_(expected, np.full(9, 0.5, np.float32), np.full(9, 0.25, np.float32), lr=0.1)
    functional.rmsprop_(param, grad, square_avg, lr=0.1)
    assert_same_bits(param.view(np.float32), expected)


@pytest.mark.parametrize("offset", [0, 5])
@pytest.mark.parametrize("rule", RULES)
def test_memory_mapped_files_have_the_bits_of_the_reference(rule, offset, tmp_path):
    problem = Problem.random(rule, np.float32)
    expected = problem.after_reference()
    for name, array in problem.arrays.items():
        mapped = np.memmap(tmp_path / name, np.float32, "w+", offset, SHAPE)
        mapped[...] = array
        problem.arrays[name] = mapped
    problem.take_step(functional)
    for name, array in expected.items():
        problem.arrays[name].flush()
        content = (tmp_path / name).read_bytes()
        assert content[:offset] == bytes(offset)
        assert_same_bits(np.frombuffer(content[offset:], np.float32).reshape(SHAPE), array)


def test_state_can_be_a_memory_mapped_file(tmp_path):
    param, expected, square_avg = np.ones(50), np.ones(50), np.zeros(50)
    optimizer = rmsprop.RMSprop(param, lr=0.1)
    optimizer.state[0]["square_avg"] = np.memmap(tmp_path / "state", np.float64, "w+", shape=50)
    for step in range(3):
        optimizer.step(np.full(50, 0.5 + step))
        reference.rmsprop_(expected, np.full(50, 0.5 + step), square_avg, lr=0.1)
    optimizer.state[0]["square_avg"].flush()
    assert_same_bits(param, expected)
    assert_same_bits(np.fromfile(tmp_path / "state"), square_avg)


def test_file_mapped_for_reading_is_good_for_a_gradient_only(tmp_path):
    np.full(50, 0.5).tofile(tmp_path / "grad")
    grad = np.memmap(tmp_path / "grad", np.float64, "r")
    param, expected = np.ones(50), np.ones(50)
    rmsprop.RMSprop(param, lr=0.1).step(grad)
    reference.rmsprop_(expected, np.full(50, 0.5), np.zeros(50), lr=0.1)
    assert_same_bits(param, expected)
    with pytest.raises(ValueError, match=r"^params: got a read-only array, wanted one that can be updated in place$"):
        rmsprop.RMSprop(grad)
    assert (np.fromfile(tmp_path / "grad") == 0.5).all()


def test_shared_memory_is_updated_for_all_who_share_it():
    block = multiprocessing.shared_memory.SharedMemory(create=True, size=2 * 50 * 8)
    try:
        other = multiprocessing.shared_memory.SharedMemory(block.name)
        try:
            expected, square_avg = np.ones(50), np.zeros(50)
            take_steps_in(block, expected, square_avg)
            seen = np.ndarray((2, 50), np.float64, other.buf).copy()
            assert_same_bits(seen, np.stack([expected, square_avg]))
        finally:
            other.close()
    finally:
        block.close()
        block.unlink()


def take_steps_in(block, expected, square_avg):
    """Keep parameters and state in shared memory; nothing may hold on to it afterwards, or it cannot be closed."""
    shared = np.ndarray((2, 50), np.float64, block.buf)
    shared[...] = [expected, square_avg]
    optimizer = rmsprop.RMSprop(shared[0], lr=0.1)
    optimizer.state[0]["square_avg"] = shared[1]
    for step in range(3):
        optimizer.step(np.full(50, 0.5 + step))
        reference.rmsprop_(expected, np.full(50, 0.5 + step), square_avg, lr=0.1)


# ---- Many elements ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="pages that share their memory are made by Linux only")
def test_more_than_2_to_the_31_elements_have_the_bits_of_the_reference_up_to_the_last():
    rng = np.random.default_rng(0)
    with many_elements(1) as param, many_elements(0) as grad, many_elements(1) as total:
        expected = []
        for window in WINDOWS:
            for array, make in ((param, values), (grad, values), (total, accumulated)):
                array[window] = make(rng, np.float32, array[window].shape)
            expected.append([array[window].copy() for array in (param, grad, total)])
        functional.adagrad_(param, grad, total, lr=0.1)
        for window, (expected_param, window_grad, expected_total) in zip(WINDOWS, expected, strict=True):
            reference.adagrad_(expected_param, window_grad, expected_total, lr=0.1)
            assert_same_bits(param[window], expected_param)
            assert_same_bits(total[window], expected_total)
        assert param.size == MANY > 1 << 31
