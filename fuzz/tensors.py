"""Coverage-guided fuzzing of arrays of other libraries: tensors of PyTorch, and what says it is an array of DLPack.

Run it with `ci/fuzz tensors`. Functions and optimizers are those of `fuzz/arguments.py`, and so is the check: a step
equals the reference, or nothing was written. What they get are the same arrays as tensors of PyTorch, lazily conjugated
ones and those without memory among them, or as arrays of a library that says of them what the input chooses: what
cannot be true has to be refused, and what was lent is given back once.
"""

import gc
import sys
import warnings
from pathlib import Path

import arguments
import atheris
import numpy as np
import torch
from arguments import Naming, Stepper, a_shape, check, hyperparameters, is_used

with atheris.instrument_imports(include=["rmsprop"]):
    import rmsprop.torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import made_up_dlpack as dlpack
from made_up_dlpack import Answering, ForeignArray, LentTwice, OldLibrary

warnings.simplefilter("ignore")  # PyTorch's, on arrays that are read-only, and on layouts that are experimental

BFLOAT16 = "u2"
DTYPES = (*arguments.USUAL_DTYPES, "f4", "f8", "f2", BFLOAT16)
REFUSALS = (TypeError, ValueError, RuntimeError)


class Kind(torch.Tensor):
    """A class of tensors of its own."""


class Odd:
    """What is no array, whatever it says."""

    __dlpack__ = None


SEVEN = torch.ones(7)  # no array that the input chooses is as long
ODD_OBJECTS = (
    SEVEN.to("meta"),
    torch.eye(2).to_sparse(),
    torch.eye(2).to_sparse_csr(),
    torch.quantize_per_tensor(SEVEN, 0.1, 0, torch.qint8),
    SEVEN.long(),
    SEVEN.bool(),
    SEVEN.to(torch.float8_e4m3fn),
    SEVEN.to(torch.complex32),
    torch.ones(1).expand(7),
    SEVEN.to_mkldnn(),
    torch.nn.parameter.UninitializedParameter(),
    torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
    SEVEN.as_subclass(Kind),
    torch.empty(0, 7),
    SEVEN.detach().requires_grad_() * 2,
    np.ones(7),
    Odd,
    Odd(),
    dlpack.ForeignArray(np.ones(7)).capsule(),
)
dlpack.lent.clear()  # that one is never given back

# What cannot be true of an array: a step that believes it is wrong.
LIES = (
    *({"code": code, "bits": bits} for code, bits in ((0, 32), (1, 8), (2, 8), (2, 128), (4, 32), (5, 32), (255, 255))),
    *({"lanes": lanes} for lanes in (0, 2, 65535)),
    *({"device": device} for device in (0, 2, -1, 7, 2**31 - 1, -(2**31))),
    *({"major": major} for major in (0, 2, 2**32 - 1)),
    {"flags": dlpack.COPIED},
    *({"ndim": ndim} for ndim in (-1, -(2**31), 65, 2**31 - 1)),
    *({"shape": shape} for shape in ([-1], [2**62, 4], [-(2**63)], [2**63 - 1, 0], [-1, -1], [0, -1, 3])),
    *({"strides": strides} for strides in ([2**62] * 3, [-(2**63)] * 3, [2**60] * 3)),
    {"shape": None},
    {"data": None},
    {"byte_offset": 2**64 - 1},
    {"name": b"another"},
)
# What is unusual, and may be.
TRUTHS = ({"device": 3}, {"device": 11}, {"minor": 2**32 - 1}, {"flags": 4}, {"deleter": dlpack.no_deleter}, {})
ANSWERS = (None, 5, "array", np.ones(2), torch.ones(2), *(kind("no") for kind in (BufferError, TypeError, MemoryError)))
ODD_COUNTS = (
    torch.ones(2),
    torch.tensor(0.5),
    torch.tensor(-1.0),
    torch.tensor(float("nan")),
    torch.tensor(2**63 - 1),
    1,
)


class Tensors(arguments.Memory):
    """Arrays in pieces of memory, and what each is given to a step as."""

    def __init__(self, data):
        super().__init__(data)
        self.given_as = {}
        self.lazy = {}
        self.unusable = []

    def array(self, dtype, shape):
        """Return an array that the input chooses, after it has chosen what the array is given as."""
        array = super().array(dtype, shape)
        if isinstance(array, np.ndarray) and any(array is known for known, *_ in self.arrays):
            self.given_as[id(array)] = self.dressed(array)
        return array

    def given(self, column):
        """Return what arrays are given as."""
        return column and [self.given_as.get(id(array), array) for array in column]

    def dressed(self, array):
        """Return the same memory as another library has it, or something else."""
        choice = self.data.ConsumeIntInRange(0, 15)
        if choice < 8:
            return self.tensor(array, choice)
        if choice < 10:
            return array
        if choice == 10:
            self.unusable.append(array)
            odd = self.data.ConsumeIntInRange(0, len(ODD_OBJECTS) + len(ANSWERS) - 1)
            return ODD_OBJECTS[odd] if odd < len(ODD_OBJECTS) else Answering(array, ANSWERS[odd - len(ODD_OBJECTS)])
        return self.foreign(array, choice)

    def tensor(self, array, choice):
        """Return a tensor of PyTorch."""
        try:
            tensor = torch.from_numpy(array)
        except (TypeError, ValueError):  # a dtype or strides that PyTorch does not have
            return array
        if array.dtype == BFLOAT16:
            tensor = tensor.view(torch.bfloat16)
        # A real tensor is lazily negated as the imaginary part of a conjugated one: it has gaps, or one element.
        is_real = tensor.is_floating_point() and (array.size == 1 or not array.flags.c_contiguous)
        if choice == 7 and (tensor.is_complex() or is_real):
            self.lazy[id(array)] = np.conj if tensor.is_complex() else negative
            return tensor.conj() if tensor.is_complex() else torch._neg_view(tensor)
        if choice == 6:
            return tensor.as_subclass(Kind)
        return tensor

    def foreign(self, array, choice):
        """Return an array of another library, which may lie."""
        says = dict(TRUTHS[self.data.ConsumeIntInRange(0, len(TRUTHS) - 1)])
        if choice == 15:
            says |= LIES[self.data.ConsumeIntInRange(0, len(LIES) - 1)]
            if is_lie(array, says):
                self.unusable.append(array)
            else:
                says = {}
        elif self.data.ConsumeBool():
            offset = self.data.ConsumeIntInRange(0, 64)
            says |= {"data": array.ctypes.data - offset, "byte_offset": offset}
        elif array.flags.c_contiguous:
            says |= {"strides": None}
        kind = (ForeignArray, ForeignArray, LentTwice, OldLibrary)[self.data.ConsumeIntInRange(0, 3)]
        if kind is OldLibrary and {"major", "minor", "flags"} & says.keys():
            kind = ForeignArray
        return kind(array, **says)

    def twins(self):
        """Return copies in which lazy arrays are what they mean."""
        pieces, views = super().twins()
        return pieces, {
            key: np.array(self.lazy[key](view)) if key in self.lazy else view for key, view in views.items()
        }

    def step_by_reference(self, twins, chosen, arrays):
        """Take the step, that of 16-bit parameters in float32, with zeros as the state that was made in it."""
        used = [role for role in arrays if is_used(role, chosen)]
        arrays = {role: column and list(column) for role, column in arrays.items()}
        twins = dict(twins)
        for index, (param, grad) in enumerate(zip(arrays["param"], arrays["grad"], strict=True)):
            if grad is None:
                continue
            for role in used:
                if arrays[role] is None or arrays[role][index] is None:
                    arrays[role] = arrays[role] or [None] * len(arrays["param"])
                    arrays[role][index] = zeros = np.zeros(param.shape, "f4" if is_packed(param) else param.dtype)
                    twins[id(zeros)] = zeros
                if any(arrays[role][index] is array for array in self.unusable):
                    raise AssertionError(f"a step believed a {role} that cannot be")
                if id(arrays[role][index]) in self.lazy and role != "grad":
                    raise AssertionError(f"a step wrote a {role} that is lazy")
        stepped = zip(arrays["param"], arrays["grad"], strict=True)
        packed = [param for param, grad in stepped if grad is not None and is_packed(param)]
        results = {id(array): twins[id(array)] for array in packed}
        for array in (*packed, *arrays["grad"]):
            if array is not None and is_packed(array):
                twins[id(array)] = unpacked(twins[id(array)])
        super().step_by_reference(twins, chosen, arrays)
        for array in packed:
            pack(twins[id(array)], results[id(array)], array)


def is_lie(array, says):
    """Return whether what is said is wrong of this array too."""
    if says.get("strides"):
        return len(says["strides"]) >= array.ndim and array.size > 0 and max(array.shape, default=1) > 1
    if "shape" in says:
        return array.ndim == len(says["shape"]) if says["shape"] else array.ndim > 0
    return "data" not in says or array.size > 0


def is_packed(array):
    """Return whether it has 16-bit numbers."""
    return array.dtype in ("f2", BFLOAT16)


def negative(array):
    """Return the numbers with the other sign."""
    return array ^ 0x8000 if array.dtype == BFLOAT16 else -array


def unpacked(array):
    """Return float32."""
    return np.asarray(array.astype("u4") << 16).view("f4") if array.dtype == BFLOAT16 else array.astype("f4")


def pack(numbers, result, ours):
    """Round float32 to nearest, ties to even; give NaNs the bits of ours."""
    if result.dtype != BFLOAT16:
        with np.errstate(all="ignore"):
            result[...] = numbers
        return
    bits = np.ascontiguousarray(numbers).reshape(numbers.shape).view("u4")
    result[...] = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    nan = np.isnan(numbers)
    result[nan] = np.where(np.isnan(unpacked(ours))[nan], ours[nan], 0x7FC0)


def test_one_input(raw):
    """Take steps, and check that all is as promised."""
    run(atheris.FuzzedDataProvider(raw))
    if dlpack.lent:
        gc.collect()
    if dlpack.lent:
        raise AssertionError("what was lent was not given back")


def run(data):
    """Take one step by a function or an optimizer for arrays, or up to three by one for tensors."""
    algorithm = "rmsprop" if data.ConsumeBool() else "adagrad"
    way = WAYS[data.ConsumeIntInRange(0, len(WAYS) - 1)]
    memory = Tensors(data)
    count = data.ConsumeIntInRange(1, 3)
    dtype = DTYPES[data.ConsumeIntInRange(0, len(DTYPES) - 1)]
    shapes = [a_shape(data) for _ in range(count)]
    chosen = hyperparameters(data, algorithm)
    arrays = {role: [memory.array(dtype_of(role, dtype), shape) for shape in shapes] for role in ROLES[algorithm]}
    way(data, memory, algorithm, chosen, arrays)


ROLES = {
    "rmsprop": ("param", "grad", "square_avg", "grad_avg", "momentum_buffer"),
    "adagrad": ("param", "grad", "sum"),
}
KINDS = {"rmsprop": rmsprop.torch.RMSprop, "adagrad": rmsprop.torch.Adagrad}
DEFAULTS = {algorithm: kind([torch.ones(1)]).defaults for algorithm, kind in KINDS.items()}
ONLY_OURS = ("capturable", "foreach", "differentiable", "fused", "initial_accumulator_value")


def dtype_of(role, dtype):
    """Return the dtype of an array: state of 16-bit parameters is float32."""
    return "f4" if dtype in ("f2", BFLOAT16) and role not in ("param", "grad") else dtype


def step_by_adapter(data, memory, algorithm, chosen, arrays):
    """Make an optimizer for PyTorch, and take steps between which gradients and state are replaced."""
    before, _ = memory.twins()
    try:
        optimizer = KINDS[algorithm](memory.given(arrays["param"]), **chosen)
    except (*REFUSALS, LookupError):  # PyTorch's own, of an empty group
        if memory.pieces != before:
            raise AssertionError("refused, but something was written") from None
        return
    for number in range(data.ConsumeIntInRange(1, 3)):
        if number > 0:
            replace_one(data, memory, arrays)
        used, count = give(data, memory, optimizer.param_groups[0]["params"], optimizer.state, arrays)
        if len(optimizer.state) < len(used["param"]):  # one tensor without elements several times
            return
        take(memory, optimizer.state, optimizer.step, {**optimizer.defaults, **chosen, "step": count + 1}, used)


def step_by_tensors(data, memory, algorithm, chosen, arrays):
    """Call the binding itself with arrays of any library as parameters, which PyTorch's checks would have stopped."""
    stepper = Stepper(algorithm, Naming.torch)
    params, state = memory.given(arrays["param"]), {}
    group = {**DEFAULTS[algorithm], **chosen, "params": params}

    def step():
        stepper.step_tensors([group], state, 1.0, None, lambda params: None)

    try:
        used, count = give(data, memory, params, state, arrays)
    except (AttributeError, TypeError):  # no array, or one that has no attributes or no hash
        return
    if len(state) < len(params):  # one object several times
        return
    take(memory, state, step, {**group, "step": count + 1}, used, (*REFUSALS, AttributeError))


def replace_one(data, memory, arrays):
    """Put another array in the place of a gradient or of state."""
    roles = [role for role in arrays if role != "param"]
    role = roles[data.ConsumeIntInRange(0, len(roles) - 1)]
    index = data.ConsumeIntInRange(0, len(arrays[role]) - 1)
    like = arrays["param"][index]
    arrays[role][index] = memory.array(dtype_of(role, like.dtype.str[1:]), like.shape)


def give(data, memory, params, state, arrays):
    """Give parameters their gradients and state.

    Return the arrays that were taken, with None for others, and how often all have been stepped.
    """
    used = {role: list(column) for role, column in arrays.items()}
    given = {role: memory.given(column) for role, column in arrays.items()}
    count = data.ConsumeIntInRange(0, 3)
    for index, param in enumerate(params):
        try:
            param.grad = given["grad"][index]
        except REFUSALS:  # PyTorch does not want it
            param.grad = used["grad"][index] = None
        entry = {role: column[index] for role, column in given.items() if role not in ("param", "grad")}
        choice = data.ConsumeIntInRange(0, 31)
        if choice == 31 and isinstance(param, torch.Tensor):
            role = next(iter(entry))
            del entry[role]
            used[role][index] = None
        entry["step"] = ODD_COUNTS[choice] if choice < len(ODD_COUNTS) else a_count(count, choice)
        state[param] = entry
    return used, count


def a_count(count, choice):
    """Return an array with a step count."""
    if choice == 30:
        return ForeignArray(np.full(1, count, "f8"))
    return torch.tensor(count, dtype=(torch.float64, torch.float32, torch.int64)[choice % 3])


def plain(count):
    """Return what holds a step count, as what Python can print and convert."""
    return count.array[0] if isinstance(count, ForeignArray) else count


def take(memory, state, step, chosen, used, refusals=REFUSALS):
    """Take a step, and check it, and that it was counted."""

    def counts():
        return [str(plain(entry["step"])) for entry in state.values()]

    chosen = {name: value for name, value in chosen.items() if name not in (*ONLY_OURS, "params")}
    before = counts()
    if check(memory, step, {**chosen, "grad_scale": 1.0}, used, counts, refusals):
        for entry, grad, count in zip(state.values(), used["grad"], before, strict=True):
            now = plain(entry["step"])
            if str(now) != count if grad is None else float(now) != chosen["step"]:
                raise AssertionError("a step was not counted, or one that was not taken")


WAYS = (
    arguments.step_by_function,
    arguments.step_by_optimizer,
    arguments.step_by_stepper,
    step_by_adapter,
    step_by_tensors,
    step_by_adapter,
    step_by_tensors,
)

if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
