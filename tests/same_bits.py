"""The table of tests/same_bits.txt: what every step must compute on every machine, as hashes of the reference's result.

`tests/cpp/same_bits.cpp` computes the same hashes with the engine, and takes no more than this file and the table: a
line of the table says what is computed, and both programs make the same inputs from the same integers. Rewrite the
table with

    python tests/same_bits.py

and look at what changed: a hash that was there before must not.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ml_dtypes import bfloat16

from rmsprop import reference

TABLE = Path(__file__).with_name("same_bits.txt")
TITLE = """\
# Hashes of what a step computes, written by `python tests/same_bits.py` from the NumPy reference. Each line says what
# that is: two steps, the first of them the t-th, from the five kinds of inputs in the five columns; lr is 0.01 where
# the line has none.
"""

SHAPE = (7, 19)  # odd, prime, and longer than a few vectors
STEPS = 2
OPERANDS = (
    "param", "grad", "square_avg", "grad_avg", "momentum_buffer",
    "ema", "param_low", "square_avg_scale", "momentum_buffer_scale",
)  # fmt: skip
FEWER_BITS = {"state_dtype", "master_weights", "stochastic_rounding", "ema_decay"}
BLOCK = 256
KINDS = ("fresh", "ordinary", "subnormal", "extreme", "special")

# ---- Numbers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """A floating-point format: how its bits are laid out, and the NumPy types of the bits and of the computation."""

    exponent_bits: int
    mantissa_bits: int
    words: type[np.unsignedinteger]
    computed: type[np.floating]
    is_number: bool = True


FLOAT32 = Format(8, 23, np.uint32, np.float32)
FLOAT64 = Format(11, 52, np.uint64, np.float64)
BFLOAT16 = Format(8, 7, np.uint16, np.float32)
FLOAT16 = Format(5, 10, np.uint16, np.float32)

# Words that are no numbers by themselves: any bits will do, and all of them count.
CODES = Format(0, 8, np.uint8, np.float32, is_number=False)
HALVES = Format(0, 16, np.uint16, np.float32, is_number=False)

# By the dtype of a line: the formats of the parameter, of the gradient and of the state.
DTYPES = {
    "float32": (FLOAT32, FLOAT32, FLOAT32),
    "float64": (FLOAT64, FLOAT64, FLOAT64),
    "bfloat16": (BFLOAT16, BFLOAT16, FLOAT32),
    "float16": (FLOAT16, FLOAT16, FLOAT32),
}


def decoded(words, form):
    """Return the numbers of which these are the bits, in the type that is computed in, or words that are no numbers."""
    if not form.is_number:
        return words
    if form == BFLOAT16:
        return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if form == FLOAT16:
        with np.errstate(invalid="ignore"):  # on some machines a signalling NaN is reported, on others it is not
            return words.view(np.float16).astype(np.float32)
    return words.view(form.computed)


def encoded(numbers, form):
    """Return the bits of numbers, rounded to the nearest that the format has, a tie to the even one."""
    if not form.is_number:
        return numbers
    if form == BFLOAT16:
        bits = numbers.view(np.uint32)
        below, kept = bits & np.uint32(0xFFFF), bits >> np.uint32(16)
        up = (below > 0x8000) | ((below == 0x8000) & (kept % 2 == 1))
        return np.where(np.isnan(numbers), canonical_nan(form), kept + up).astype(np.uint16)
    if form == FLOAT16:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return numbers.astype(np.float16).view(np.uint16)
    return numbers.view(form.words)


def format_of(dtype, operand, options=()):
    """Return how an operand of a line is stored; `options` are those of the line."""
    state_dtype = dict(options).get("state_dtype")
    if operand == "param_low":
        return HALVES
    if operand.endswith("_scale") or (state_dtype == "8bit" and operand in ("square_avg", "momentum_buffer")):
        return CODES
    if state_dtype == "bfloat16" and operand not in ("param", "grad"):
        return BFLOAT16
    return DTYPES[dtype][min(OPERANDS.index(operand), 2)]


def mixed(words):
    """Return 64-bit integers of which every bit depends on every bit of the given ones (SplitMix64's finalizer)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def random_words(stream, size):
    """Return 64 random bits for each index; they depend on the stream and on the index alone."""
    index = np.arange(size, dtype=np.uint64)
    return mixed((np.uint64(stream) << np.uint64(32)) + index + np.uint64(1))


def special_magnitudes(form):
    """Return the bits of the numbers at the edges of a format: zero, the subnormals' ends, one, the largest, ..."""
    one = ((1 << (form.exponent_bits - 1)) - 1) << form.mantissa_bits
    tiny = 1 << form.mantissa_bits
    infinity = ((1 << form.exponent_bits) - 1) << form.mantissa_bits
    return [0, 1, tiny - 1, tiny, one, one + 1, infinity - 1, infinity, infinity + 1, canonical_nan(form)]


def canonical_nan(form):
    return ((1 << (form.exponent_bits + 1)) - 1) << (form.mantissa_bits - 1)


def inputs(form, kind, operand, step, size):
    """Return the bits of numbers of a kind for an operand, all of them made from integers."""
    number = OPERANDS.index(operand)
    if kind == "fresh" and number >= 2:
        return np.zeros(size, form.words)
    words = random_words(KINDS.index(kind) * 64 + number * 8 + step, size)
    if not form.is_number:
        return (words >> np.uint64(64 - form.mantissa_bits)).astype(form.words)
    mantissa = words & np.uint64((1 << form.mantissa_bits) - 1)
    pick = (words >> np.uint64(52)) & np.uint64(0x7FF)
    bias = (1 << (form.exponent_bits - 1)) - 1
    exponent = np.uint64(bias - 8) + pick % np.uint64(10)  # between 2^-8 and 4
    if kind == "subnormal":
        exponent = pick % np.uint64(4)
    if kind == "extreme":
        exponent = pick % np.uint64((1 << form.exponent_bits) - 1)
    magnitude = (exponent << np.uint64(form.mantissa_bits)) | mantissa
    if kind == "special":
        special = np.array(special_magnitudes(form), np.uint64)
        index = pick % np.uint64(2 * special.size)
        magnitude = np.where(index < special.size, special[index % np.uint64(special.size)], magnitude)
    sign = words >> np.uint64(63)
    if operand == "square_avg" and kind != "special":
        sign = np.zeros_like(sign)
    return ((sign << np.uint64(form.exponent_bits + form.mantissa_bits)) | magnitude).astype(form.words)


def hashed(words, form, place):
    """Return a hash of the bits of numbers, each with its index; every NaN counts as the same one."""
    if form.is_number:
        words = np.where(np.isnan(decoded(words, form)), form.words(canonical_nan(form)), words)
    words = words.astype(np.uint64)
    places = mixed((np.uint64(place + 1) << np.uint64(32)) + np.arange(words.size, dtype=np.uint64))
    return int(mixed(words ^ places).sum(dtype=np.uint64))


# ---- What is computed ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A line of the table without its hashes."""

    dtype: str
    rule: str
    options: dict[str, object]

    def __str__(self):
        values = (f"{name}={str(value).lower()}" for name, value in self.options.items())
        return " ".join([self.dtype, self.rule, *values])

    def hashes(self):
        return [self.hash_of(kind) for kind in KINDS]

    def hash_of(self, kind):
        if self.rule == "sum_of_squares":
            form = format_of(self.dtype, "grad")
            grad = decoded(inputs(form, kind, "grad", 0, self.options["n"]), form)
            with np.errstate(all="ignore"):
                total = reference.sum_of_squares([grad], self.options["grad_scale"])
            return hashed(encoded(np.array([total]), FLOAT64), FLOAT64, 0)
        arrays = self.stepped(kind)
        return sum(
            hashed(words, self.format_of(operand), OPERANDS.index(operand)) for operand, words in arrays.items()
        ) % (1 << 64)

    def format_of(self, operand):
        return format_of(self.dtype, operand, self.options.items())

    def stepped(self, kind):
        """Return the bits of the operands after the steps."""
        size = SHAPE[0] * SHAPE[1]
        sizes = {name: -(-size // BLOCK) if name.endswith("_scale") else size for name in self.operands()}
        arrays = {name: inputs(self.format_of(name), kind, name, 0, sizes[name]) for name in self.operands()}
        for step in range(STEPS):
            arrays["grad"] = inputs(self.format_of("grad"), kind, "grad", step, size)
            if self.options.keys() & FEWER_BITS:
                self.step_as_stored(arrays, step)
                continue
            numbers = {name: decoded(words, self.format_of(name)) for name, words in arrays.items()}
            self.step(numbers, step)
            arrays |= {name: encoded(numbers[name], self.format_of(name)) for name in arrays if name != "grad"}
        return arrays

    def step_as_stored(self, words, step):
        """Take a step on arrays that the reference decodes and encodes itself."""
        stored = {}
        for name, array in words.items():
            form = self.format_of(name)
            dtype = {BFLOAT16: bfloat16, FLOAT16: np.float16, HALVES: np.int16, CODES: np.uint8}
            stored[name] = array.view(dtype.get(form, form.computed))
        self.step(stored, step)

    def operands(self):
        names = ["param", "grad", "square_avg"]
        if self.options.get("centered"):
            names.append("grad_avg")
        if self.options.get("momentum"):
            names.append("momentum_buffer")
        if "ema_decay" in self.options:
            names.append("ema")
        if "master_weights" in self.options:
            names.append("param_low")
        if self.options.get("state_dtype") == "8bit":
            names += [f"{name}_scale" for name in names if name in ("square_avg", "momentum_buffer")]
        return names

    def step(self, arrays, step):
        options = {"lr": 0.01, **self.options}
        options.pop("state_dtype", None)
        options.pop("master_weights", None)
        t, clip_norm = options.pop("t", 1), options.pop("clip_norm", None)
        if clip_norm is not None:
            with np.errstate(all="ignore"):
                total = reference.sum_of_squares([arrays["grad"]], options.get("grad_scale", 1.0))
            options["clip_scale"] = reference.clip_scale(total, clip_norm)
        param, grad, accumulator, *_ = arrays.values()
        accumulator_name = "sum" if self.rule == "adagrad" else "square_avg"
        extra = {
            name.replace("square_avg", accumulator_name): array
            for name, array in arrays.items()
            if name not in ("param", "grad", "square_avg")
        }
        rule = reference.adagrad_ if self.rule == "adagrad" else reference.rmsprop_
        rule(param, grad, accumulator, step=t + step, **options, **extra)


PREPARATIONS = [
    {"grad_scale": 1 / 3},
    {"clip_norm": 1.5},
    {"grad_scale": 1 / 3, "clip_norm": 1.5},
    {"clip_value": 0.75},
    {"maximize": True},
    {"weight_decay": 0.01},
    {"weight_decay": 0.01, "decoupled_weight_decay": True},
]
SEVERAL = {"grad_scale": 1 / 3, "clip_value": 0.25, "maximize": True, "weight_decay": 0.01}
PREPARATIONS_OF_EVERY_FORMULA = [{}, SEVERAL, {**SEVERAL, "decoupled_weight_decay": True}]

# Subnormal in float32, absent, and such that almost everything overflows.
EXTREME_HYPERPARAMETERS = [{"eps": 1e-40, "lr": 1e-42}, {"eps": 0.0, "lr": 0.0}, {"eps": 1e30, "lr": 1e30}]

LATE = (1 << 32) + 5  # a step whose number no 32-bit integer and no float32 holds


def rules():
    """Yield every rule of the engine: its name, and the options that select it."""
    yield "adagrad", {}
    for centered in (False, True):
        chosen = {"centered": True} if centered else {}
        yield "rmsprop", chosen
        yield "rmsprop", {**chosen, "momentum": 0.9}
        yield "rmsprop", {**chosen, "momentum": 0.9, "nesterov": True}


def formulas():
    """Yield every rule with every switch of its formula in both positions.

    The tenth step is one at which 1 + (t - 1) * lr_decay has another last bit if it is rounded only once.
    """
    for rule, chosen in rules():
        by_step = {"lr_decay": 0.1} if rule == "adagrad" else {"bias_correction": True}
        switches = [[{}, {"eps_in_sqrt": False}], [{}, {"t": 10, **by_step}]]
        if "momentum" in chosen:
            switches.append([{}, {"lr_in_momentum": True}])
        for positions in itertools.product(*switches):
            yield rule, {name: value for part in (chosen, *positions) for name, value in part.items()}


def cases_of_formulas():
    """Yield the rule and the options of every line that is about a formula."""
    for rule, chosen in formulas():
        for preparation in PREPARATIONS_OF_EVERY_FORMULA:
            yield rule, {**chosen, **preparation}


def cases_of_rules():
    """Yield the rule and the options of every line that is about what is done around a formula."""
    for rule, chosen in rules():
        for preparation in PREPARATIONS:
            yield rule, {**chosen, **preparation}
        for numbers in EXTREME_HYPERPARAMETERS:
            yield rule, {**chosen, **numbers}
        late = {"lr_decay": 1e-9} if rule == "adagrad" else {"alpha": 0.9999999997, "bias_correction": True}
        yield rule, {**chosen, "t": LATE, **late}
        if rule == "rmsprop":
            yield rule, {**chosen, "alpha": 0.0}
            yield rule, {**chosen, "alpha": 1.0}


def cases_of_fewer_bits():
    """Yield every line that is about storage in fewer bits: a dtype, a rule, and options."""
    for state_dtype in ("bfloat16", "8bit"):
        for rule, chosen in rules():
            if state_dtype == "8bit" and chosen.get("centered"):
                continue
            yield "float32", rule, {**chosen, "state_dtype": state_dtype, "seed": 7}
        for more in ({"t": LATE}, {"ema_decay": 0.97}, {**SEVERAL, "ema_decay": 0.97}):
            yield "float32", "rmsprop", {"momentum": 0.9, "state_dtype": state_dtype, **more}
        yield "float16", "rmsprop", {"momentum": 0.9, "state_dtype": state_dtype}
    for weights in ({}, {"stochastic_rounding": True, "seed": (1 << 53) - 1}, {"master_weights": "split"}):
        for more in ({}, {"state_dtype": "8bit"}, {"state_dtype": "bfloat16", "ema_decay": 0.97}):
            if weights or more:
                yield "bfloat16", "rmsprop", {"momentum": 0.9, **weights, **more}
    for dtype in DTYPES:
        yield dtype, "adagrad", {"ema_decay": 0.97}


def cases():
    """Yield every line of the table."""
    for dtype in DTYPES:
        # Storage in 16 bits is a stage before and behind the formula, so not every formula has to be there again.
        is_stage = DTYPES[dtype][0] != DTYPES[dtype][2]
        for rule, options in rules() if is_stage else cases_of_formulas():
            yield Case(dtype, rule, options)
        for rule, options in cases_of_rules():
            yield Case(dtype, rule, options)
        for n in (1, 17, 4096, 4097, 40_003):
            for grad_scale in (1.0, 1 / 3):
                yield Case(dtype, "sum_of_squares", {"n": n, "grad_scale": grad_scale})
    # More blocks than the engine sums in one round.
    yield Case("float32", "sum_of_squares", {"n": 1024 * 4096 + 5, "grad_scale": 1.0})
    for dtype, rule, options in cases_of_fewer_bits():
        yield Case(dtype, rule, options)


def lines():
    """Return the lines of the table, as the reference has them."""
    head = [*TITLE.splitlines(), f"# dtype rule hyperparameters | {' '.join(KINDS)}"]
    return head + [f"{case} | {' '.join(f'{value:016x}' for value in case.hashes())}" for case in cases()]


if __name__ == "__main__":
    TABLE.write_text("\n".join(lines()) + "\n")
