"""Coverage-guided fuzzing of what can be passed to a step: it equals the reference, or nothing was written.

Run it with `ci/fuzz arguments`. The bytes of an input choose a function or an optimizer, its hyperparameters, and
arrays of any dtype, shape, strides, alignment and overlap, or no arrays at all. Every array lies in memory of its own
that ends where the array does, unless it is to overlap another, so that AddressSanitizer sees what reads or writes
beyond.
"""

import math
import sys

import atheris
import numpy as np

with atheris.instrument_imports(include=["rmsprop"]):
    import rmsprop
    from rmsprop import functional
    from rmsprop._core import Naming, Stepper, rules
from rmsprop import reference

USUAL_DTYPES = ("f4", "f8", "c8", "c16")
DTYPES = (*USUAL_DTYPES, ">f4", ">f8", "f2", "i4", "i8", "u1", "?", "g", "V8", "M8[s]", "f4,f4", "S4")
NUMBERS = (0.1, 0.0, 1.0, 0.5, 0.9, 1e-8, -0.0, 2.0, 5e-324, 1e300, -1.0, math.nan, math.inf, -math.inf)
NOT_OF_A_STEP = ("lr", "initial_accumulator_value")
VALUES = (0.0, -0.0, 1.0, -1.0, 0.1, 3.0, 1e-20, 1e-39, 5e-324, 1e20, 1e38, 1e300, math.inf, -math.inf, math.nan)


class Raises:
    """An object that refuses to be a number."""

    def __float__(self):
        raise ZeroDivisionError

    __index__ = __int__ = __float__


KINDS = {"rmsprop": rmsprop.RMSprop, "adagrad": rmsprop.Adagrad}
ODD_OBJECTS = (
    None,
    1.0,
    "array",
    [1.0, 2.0],
    (),
    {},
    object(),
    np.float32(1.0),
    np.ma.masked_array([1.0, 2.0], [True, False]),
    np.array([None, 1.0]),
    memoryview(bytes(8)),
)
ODD_NUMBERS = (
    None,
    "0.1",
    True,
    1j,
    10**400,
    -(10**400),
    [],
    np.float32(0.5),
    np.array(0.5),
    np.int64(1),
    Raises(),
    2**63,
)


class Memory:
    """Arrays in pieces of memory, each with a twin: the same view of a copy of the memory, for the reference."""

    def __init__(self, data):
        self.data = data
        self.pieces = []
        self.arrays = []

    def array(self, dtype, shape):
        """Return an array that the input chooses, by default a plain one of this dtype and shape; or another object."""
        data = self.data
        choice = data.ConsumeIntInRange(0, 31) - 16
        if choice == 15:
            return ODD_OBJECTS[data.ConsumeIntInRange(0, len(ODD_OBJECTS) - 1)]
        if choice == 14:
            dtype = DTYPES[data.ConsumeIntInRange(0, len(DTYPES) - 1)]
        if choice == 13:
            shape = a_shape(data)
        strides = a_layout(data, np.dtype(dtype).itemsize, shape) if choice >= 9 else None
        offset = data.ConsumeIntInRange(0, 17) if choice in (8, 12) else 0
        piece = len(self.pieces)
        if choice == 11 and piece:
            piece = data.ConsumeIntInRange(0, piece - 1)
        try:
            array = self.view(piece, dtype, shape, strides, offset)
        except ValueError:  # it does not fit into the memory of the other
            return ODD_OBJECTS[0]
        if choice == 10:
            array.flags.writeable = False
        return array

    def view(self, piece, dtype, shape, strides, offset):
        """Return a view of a piece of memory, which is made if there is none yet."""
        itemsize = np.dtype(dtype).itemsize
        if strides is None:
            strides = np.empty(shape, f"V{itemsize}").strides
        spans = [(length - 1) * stride for length, stride in zip(shape, strides, strict=True)] if all(shape) else [0]
        lowest, highest = sum(min(span, 0) for span in spans), sum(max(span, 0) for span in spans)
        start = offset - lowest
        if piece == len(self.pieces):
            self.pieces.append(some_numbers(self.data, np.dtype(dtype), start + highest + itemsize))
        memory = self.pieces[piece]
        array = np.ndarray(shape, dtype, memory, start, strides)
        self.arrays.append((array, piece, (shape, dtype), (start, strides)))
        return array

    def twins(self):
        """Return a copy of all memory, and for each array, by its id, the same view of the copy."""
        pieces = [bytearray(piece) for piece in self.pieces]
        views = {id(array): np.ndarray(*what, pieces[piece], *where) for array, piece, what, where in self.arrays}
        return pieces, views

    def given(self, column):
        """Return what is passed for a column of arrays: the arrays themselves."""
        return column

    def step_by_reference(self, twins, chosen, arrays):
        """Take the step in plain NumPy, with the twins of the arrays."""
        step_by_reference(twins, chosen, arrays)


def some_numbers(data, dtype, nbytes):
    """Return memory that is full of numbers, where this is an array of them, or of bytes."""
    chance = np.random.default_rng(data.ConsumeIntInRange(0, 255))
    with np.errstate(all="ignore"):
        if dtype.kind not in "fc" or dtype.itemsize > 16 or dtype.itemsize == 2:
            return bytearray(chance.bytes(nbytes))
        real = np.empty(0, dtype).real.dtype
        count = nbytes // real.itemsize
        numbers = np.where(chance.random(count) < 0.8, chance.standard_normal(count), chance.choice(VALUES, count))
        content = numbers.astype(real).tobytes()
    return bytearray(content + bytes(nbytes - len(content)))


def a_shape(data):
    """Return up to three short dimensions."""
    return tuple(data.ConsumeIntListInRange(data.ConsumeIntInRange(0, 3), 0, 5))


def a_layout(data, itemsize, shape):
    """Return strides: of another order, with gaps, backwards, or any."""
    order = list(range(len(shape)))[:: -1 if data.ConsumeBool() else 1]
    strides = [0] * len(shape)
    stride = itemsize
    for axis in order:
        kind = data.ConsumeIntInRange(0, 7)
        if kind == 7:
            strides[axis] = data.ConsumeIntInRange(-40, 40)
        else:
            factor = 2 if kind in (4, 5) else 1
            strides[axis] = stride * factor * (-1 if kind in (3, 5) else 1)
            stride *= factor * max(shape[axis], 1)
    return tuple(strides)


def a_number(data):
    """Return a usual number most of the time."""
    choice = data.ConsumeIntInRange(0, 30)
    if choice == 30:
        return ODD_NUMBERS[data.ConsumeIntInRange(0, len(ODD_NUMBERS) - 1)]
    if choice == 29:
        return data.ConsumeFloat()
    return NUMBERS[data.ConsumeIntInRange(0, len(NUMBERS) - 1 if choice > 26 else 7)]


def a_flag(data):
    """Return a bool most of the time."""
    if data.ConsumeIntInRange(0, 60) == 60:
        return ODD_NUMBERS[data.ConsumeIntInRange(0, len(ODD_NUMBERS) - 1)]
    return data.ConsumeBool()


def hyperparameters(data, rule):
    """Return the hyperparameters of a step, some of them left to their defaults."""
    chosen = {"lr": a_number(data)}
    defaults = {name: value for name, value in rules[rule].defaults.items() if name not in NOT_OF_A_STEP}
    numbers = [name for name, value in defaults.items() if not isinstance(value, bool)]
    flags = [name for name, value in defaults.items() if isinstance(value, bool)]
    which = data.ConsumeIntInRange(0, (1 << (len(numbers) + len(flags))) - 1)
    for i, name in enumerate(numbers):
        if which >> i & 1:
            chosen[name] = a_number(data)
    for i, name in enumerate(flags, len(numbers)):
        if which >> i & 1:
            chosen[name] = a_flag(data)
    return chosen


def test_one_input(raw):
    """Take one step, and check that all is as promised."""
    data = atheris.FuzzedDataProvider(raw)
    rule = ("adagrad", "rmsprop")[data.ConsumeBool()]
    way = (step_by_function, step_by_optimizer, step_by_stepper)[data.ConsumeIntInRange(0, 2)]
    memory = Memory(data)
    count = data.ConsumeIntInRange(1, 3)
    dtype = USUAL_DTYPES[data.ConsumeIntInRange(0, 3)]
    shapes = [a_shape(data) for _ in range(count)]
    chosen = hyperparameters(data, rule)
    roles = ("param", "grad", *rules[rule].state)
    arrays = {role: [memory.array(dtype, shape) for shape in shapes] for role in roles}
    way(data, memory, rule, chosen, arrays)


def step_by_function(data, memory, rule, chosen, arrays):
    """Call `rmsprop_` or `adagrad_`, with lists or with one array each."""
    function = getattr(functional, f"{rule}_")
    if chosen.get("centered") is not True and "grad_avg" in arrays and data.ConsumeBool():
        arrays["grad_avg"] = None
    if not chosen.get("momentum") and "momentum_buffer" in arrays and data.ConsumeBool():
        arrays["momentum_buffer"] = None
    chosen["step"] = data.ConsumeIntInRange(1, 5) if data.ConsumeBool() else a_number(data)
    chosen["grad_scale"] = a_number(data)
    is_list = len(arrays["param"]) > 1 or data.ConsumeBool()
    given = {role: memory.given(column) for role, column in arrays.items()}
    if not is_list:
        given = {role: column and column[0] for role, column in given.items()}
        if isinstance(given["param"], tuple):  # an empty one: no parameters at all
            arrays = dict.fromkeys(arrays, ())
    check(memory, lambda: function(**given, **chosen), chosen, arrays, lambda: None)


def step_by_optimizer(data, memory, rule, chosen, arrays):
    """Make an optimizer whose state is replaced by the arrays, and take a step."""
    kind = KINDS[rule]
    before, _ = memory.twins()
    try:
        optimizer = kind(list(memory.given(arrays["param"])), **chosen)
        for index, entry in enumerate(optimizer.state.values()):
            for role, column in arrays.items():
                if role in entry:
                    entry[role] = memory.given(column)[index]
    except (TypeError, ValueError):
        if memory.pieces != before:
            raise AssertionError("refused, but something was written") from None
        return
    step = data.ConsumeIntInRange(0, 3)
    for entry in optimizer.state.values():
        entry["step"] = step
    used = {role: column if role in ("param", "grad") or role in entry else None for role, column in arrays.items()}
    scale = a_number(data)

    def steps():
        return [entry["step"] for entry in optimizer.state.values()]

    chosen = {**optimizer.defaults, **chosen, "step": step + 1, "grad_scale": scale}
    chosen.pop("initial_accumulator_value")
    check(memory, lambda: optimizer.step(memory.given(arrays["grad"]), grad_scale=scale), chosen, used, steps)


def step_by_stepper(data, memory, rule, chosen, arrays):
    """Call the binding itself with whatever comes, which Python's own checks would have stopped."""
    stepper = Stepper(rule, Naming.optimizer if data.ConsumeBool() else Naming.function)
    given = {role: memory.given(column) for role, column in arrays.items()}
    columns = tuple(column for role, column in given.items() if role not in ("param", "grad"))
    steps = memory.array("i8", (len(arrays["param"]),))
    keys = (None, list(range(len(arrays["param"]))), [], ["a"] * 3, 7)[data.ConsumeIntInRange(0, 4)]
    groups = [{**chosen, "params": given["param"]}]
    if data.ConsumeBool():
        columns = columns[: data.ConsumeIntInRange(0, len(columns))]
    if data.ConsumeBool():
        groups = ([], groups * 2, [{}], None, [None], [{"params": given["param"]}], [{"params": None, **chosen}])[
            data.ConsumeIntInRange(0, 6)
        ]
    scale = a_number(data)
    before, _ = memory.twins()
    try:
        stepper.step(groups, given["grad"], (keys, columns, steps), scale, None)
    except (TypeError, ValueError):
        if memory.pieces != before:
            raise AssertionError("refused, but something was written") from None


def check(memory, step, chosen, arrays, counts, refusals=(TypeError, ValueError)):
    """Take a step and the same one by the reference, compare all memory, and return whether it was taken."""
    before, _ = memory.twins()
    counted = counts()
    expected, twins = memory.twins()
    try:
        step()
    except refusals:
        if memory.pieces != before or counts() != counted:
            raise AssertionError("refused, but something was written") from None
        return False
    memory.step_by_reference(twins, chosen, arrays)
    written = {role for role in arrays if role != "grad"}
    for array, *_ in memory.arrays:
        # Of a parameter without a gradient nothing is used, so its state may be anything.
        is_written = any(array is item for role in written for item in arrays[role] or ())
        if is_written and array.dtype.kind in "fc":
            copy_nans(array, twins[id(array)])
    if memory.pieces != expected:
        raise AssertionError("not the bits of the reference, or something else was written")
    return True


def copy_nans(array, twin):
    """Give NaNs of the reference the bits of ours: that both are NaN is all that is promised."""
    for part in ("real", "imag") if array.dtype.kind == "c" else ("real",):
        ours, theirs = getattr(array, part), getattr(twin, part)
        both = np.isnan(ours) & np.isnan(theirs)
        theirs[both] = ours[both]


def step_by_reference(twins, chosen, arrays):
    """Take the step in plain NumPy."""
    chosen = {name: value for name, value in chosen.items() if name not in ("nonfinite", "num_threads")}
    grads = [None if grad is None else twins[id(grad)] for grad in arrays["grad"]]
    clip_norm = chosen.pop("clip_norm", None)
    if clip_norm is not None:
        squares = reference.sum_of_squares([grad for grad in grads if grad is not None], float(chosen["grad_scale"]))
        chosen["clip_scale"] = reference.clip_scale(squares, float(clip_norm))
    chosen = {name: plain(value) for name, value in chosen.items()}
    (rule,) = (name for name, rule in rules.items() if rule.state == tuple(arrays)[2:])
    function = getattr(reference, f"{rule}_")
    for index, grad in enumerate(grads):
        if grad is not None:
            own = {role: column and twins.get(id(column[index])) for role, column in arrays.items() if role != "grad"}
            own = {role: array if is_used(role, chosen) else None for role, array in own.items()}
            function(grad=grad, **own, **chosen)


def is_used(role, chosen):
    """Return whether a step with these hyperparameters uses an array."""
    return {"grad_avg": chosen.get("centered"), "momentum_buffer": chosen.get("momentum")}.get(role, True)


def plain(value):
    """Return a hyperparameter as Python has it: None, a bool, an int, or a float."""
    if isinstance(value, np.integer):
        return int(value)
    return value if isinstance(value, (bool, int)) or value is None else float(value)


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
