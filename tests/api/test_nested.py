"""Parameters in containers within containers, as JAX and many models in NumPy have them."""

import collections
import copy
import enum
import pickle
import re

import numpy as np
import pytest

import rmsprop
from bits import assert_same_bits

OPTIMIZERS = (rmsprop.RMSprop, rmsprop.Adagrad)

Layer = collections.namedtuple("Layer", ["weight", "bias"])


class Mapping(collections.abc.Mapping):
    """A mapping that is no dict."""

    def __init__(self, items):
        self.own = dict(items)

    def __getitem__(self, name):
        return self.own[name]

    def __iter__(self):
        return iter(self.own)

    def __len__(self):
        return len(self.own)


# Containers of five arrays, and the paths to them.
FORMS = {
    "dicts": (
        lambda a, b, c, d, e: {"body": {"w": a, "b": b}, "head": {"inner": {"w": c}, "scale": d}, "e": e},
        ["body.w", "body.b", "head.inner.w", "head.scale", "e"],
    ),
    "list of dicts in a dict": (
        lambda a, b, c, d, e: {"layers": [{"w": a, "b": b}, {"w": c, "b": d}], "out": e},
        ["layers.0.w", "layers.0.b", "layers.1.w", "layers.1.b", "out"],
    ),
    "dicts in a list": (lambda a, b, c, d, e: [{"w": a, "b": b}, {"w": c}, {"w": d, "b": e}], None),
    "pairs in a list, some empty": (
        lambda a, b, c, d, e: [(a, b), (), (c, d), {}, e],
        ["0.0", "0.1", "2.0", "2.1", "4"],
    ),
    "tuples in tuples": (lambda a, b, c, d, e: ((a, (b, (c,))), d, [e]), None),
    "named tuples": (
        lambda a, b, c, d, e: {"x": Layer(a, b), "y": Layer(c, d), "z": e},
        ["x.0", "x.1", "y.0", "y.1", "z"],
    ),
    "mappings of other classes": (
        lambda a, b, c, d, e: Mapping({"m": Mapping({"a": a, "b": b}), "o": collections.OrderedDict(c=c, d=d), "e": e}),
        ["m.a", "m.b", "o.c", "o.d", "e"],
    ),
    "a dict with the name params": (
        lambda a, b, c, d, e: {"params": {"dense": {"kernel": a, "bias": b}, "out": [c, d, e]}},
        ["params.dense.kernel", "params.dense.bias", "params.out.0", "params.out.1", "params.out.2"],
    ),
}


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return [np.array(rng.standard_normal(shape)) for shape in [(5,), (2, 3), (), (4,), (1,)]]


@pytest.mark.parametrize(("form", "paths"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_nested_parameters_get_the_bits_of_a_flat_list(optimizer, form, paths):
    params, flat = arrays(), arrays()
    nested, other = optimizer(form(*params), lr=0.1), optimizer(flat, lr=0.1)
    for seed in (1, 2):
        nested.step(form(*arrays(seed)))
        other.step(arrays(seed))
    assert len(nested.state) == 5
    assert list(nested.state) == (paths or list(nested.state))
    for param, expected in zip(params, flat, strict=True):
        assert_same_bits(param, expected)
    for entry, expected in zip(nested.state.values(), other.state.values(), strict=True):
        assert entry.keys() == expected.keys()
        for name, value in expected.items():
            assert_same_bits(entry[name], value)


@pytest.mark.parametrize("kind", [list, tuple])
def test_lists_and_tuples_of_gradients_are_alike(kind):
    w, b = np.ones(2), np.ones(3)
    optimizer = rmsprop.RMSprop([(w, b)])
    optimizer.step(kind([kind([np.ones(2), np.ones(3)])]))
    assert [entry["step"] for entry in optimizer.state.values()] == [1, 1]


@pytest.mark.parametrize(
    ("skip", "steps"),
    [
        (lambda g: {**g, "out": None}, [1, 1, 1, 1, 0]),
        (lambda g: {**g, "layers": None}, [0, 0, 0, 0, 1]),
        (lambda g: {**g, "layers": [None, g["layers"][1]]}, [0, 0, 1, 1, 1]),
        (lambda g: {**g, "layers": [{"w": None, "b": g["layers"][0]["b"]}, None]}, [0, 1, 0, 0, 1]),
        (lambda g: {"layers": None, "out": None}, [0, 0, 0, 0, 0]),
    ],
)
def test_none_skips_a_parameter_or_a_whole_container(skip, steps):
    form, _ = FORMS["list of dicts in a dict"]
    params = arrays()
    optimizer = rmsprop.RMSprop(form(*params))
    optimizer.step(skip(form(*arrays(1))))
    assert [entry["step"] for entry in optimizer.state.values()] == steps
    for param, before, step in zip(params, arrays(), steps, strict=True):
        assert (param.tobytes() == before.tobytes()) == (step == 0)


def test_groups_may_share_containers_of_names():
    """As weights with decay and biases without: the gradients come in one structure all the same."""
    w, b, v = np.ones(2), np.ones(3), np.ones(4)
    optimizer = rmsprop.RMSprop(
        [{"params": {"layer": {"w": w}, "v": v}, "weight_decay": 0.1}, {"params": {"layer": {"b": b}}}], lr=0.1
    )
    optimizer.step({"v": np.full(4, 3.0), "layer": {"b": np.full(3, 2.0), "w": np.full(2, 1.0)}})
    assert list(optimizer.state) == ["layer.w", "v", "layer.b"]
    assert optimizer.state["layer.b"]["square_avg"].tolist() == pytest.approx([0.4] * 3)
    assert optimizer.state["v"]["square_avg"].tolist() == pytest.approx([0.1 * 3.1**2] * 4)


def test_one_container_may_be_in_several_places():
    """As the empty tuple is, which layers without parameters have, and of which Python has only one."""
    nothing = ()
    optimizer = rmsprop.RMSprop({"a": {"w": np.ones(2), "x": nothing}, "b": {"w": np.ones(3), "x": nothing}})
    assert list(optimizer.state) == ["a.w", "b.w"]
    optimizer.step({"a": {"w": np.ones(2), "x": nothing}, "b": {"w": None, "x": nothing}})
    assert [entry["step"] for entry in optimizer.state.values()] == [1, 0]


def test_groups_of_nested_lists_follow_one_another():
    first, second = [(np.ones(2), np.ones(3))], [(np.ones(4), np.ones(5)), np.ones(1)]
    optimizer = rmsprop.Adagrad([{"params": first}, {"params": second, "lr": 0.5}])
    assert list(optimizer.state) == ["0.0", "0.1", "1.0", "1.1", "2"]
    optimizer.step([(np.ones(2), np.ones(3)), (np.ones(4), None), np.ones(1)])
    assert [entry["step"] for entry in optimizer.state.values()] == [1, 1, 1, 0, 1]


def test_nested_group_can_be_added_later():
    optimizer = rmsprop.RMSprop({"a": np.ones(2)})
    optimizer.step({"a": np.ones(2)})
    optimizer.add_param_group({"params": {"layers": [{"w": np.ones(3)}]}, "lr": 0.5})
    optimizer.add_param_group({"params": {"more": {"w": np.ones(4)}}})
    before = list(optimizer.state)
    assert before == ["a", "layers.0.w", "more.w"]
    with pytest.raises(ValueError, match=r"^params: 'more.w' names two parameters$"):
        optimizer.add_param_group({"params": {"more": {"b": np.ones(1), "w": np.ones(4)}}})
    assert list(optimizer.state) == before
    optimizer.step({"a": None, "layers": [{"w": np.ones(3)}], "more": {"w": np.ones(4)}})
    assert [entry["step"] for entry in optimizer.state.values()] == [1, 1, 1]


def test_state_dicts_and_checkpoints_have_the_paths_as_names(tmp_path):
    form, paths = FORMS["list of dicts in a dict"]
    optimizer = rmsprop.RMSprop(form(*arrays()), momentum=0.9)
    optimizer.step(form(*arrays(1)))
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["param_names"] == paths
    optimizer.save(tmp_path / "file.safetensors")
    by_dict, by_file = (rmsprop.RMSprop(form(*arrays()), momentum=0.9) for _ in range(2))
    by_dict.load_state_dict(saved)
    by_file.load(tmp_path / "file.safetensors")
    for other in (by_dict, by_file):
        for path in paths:
            for name, value in optimizer.state[path].items():
                assert_same_bits(other.state[path][name], value)
    renamed = rmsprop.RMSprop({"layer": form(*arrays())}, momentum=0.9)
    with pytest.raises(ValueError, match=r"got a parameter of the name 'layers.0.w', wanted 'layer.layers.0.w'"):
        renamed.load_state_dict(saved)


class Name(str, enum.Enum):
    LAYER = "layer"
    BIAS = "b"


@pytest.mark.parametrize("name", [Name, np.str_], ids=["enum", "NumPy"])
def test_names_of_a_subclass_of_str_are_plain_ones(name, tmp_path):
    params = {name("layer"): {name("b"): np.ones(2)}}, {name("b"): np.ones(2)}
    for param, path in zip(params, ("layer.b", "b"), strict=True):
        optimizer = rmsprop.RMSprop(param)
        optimizer.step({"layer": {"b": np.ones(2)}} if path == "layer.b" else {"b": np.ones(2)})
        optimizer.step(copy.deepcopy(param))
        assert [(key, type(key)) for key in optimizer.state] == [(path, str)]
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.save(tmp_path / "file.safetensors")
        optimizer.load(tmp_path / "file.safetensors")
        assert optimizer.state[path]["step"] == 2


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"])
def test_copies_take_the_same_structure(copied):
    form, _ = FORMS["pairs in a list, some empty"]
    optimizer = copied(rmsprop.RMSprop(form(*arrays())))
    optimizer.step(form(*arrays(1)))
    assert [entry["step"] for entry in optimizer.state.values()] == [1] * 5


def test_gradients_of_other_libraries_are_taken_in_any_container():
    class Exported:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    w = np.ones(4)
    optimizer = rmsprop.Adagrad({"layers": [{"w": w}]})
    optimizer.step({"layers": [{"w": Exported(np.full(4, 3.0))}]})
    assert (optimizer.state["layers.0.w"]["sum"] == 9).all()


# ---- What does not fit -----------------------------------------------------------------------------------------------


def itself(make):
    """Return a container that has itself inside."""
    container = make()
    if isinstance(container, dict):
        container["again"] = [container]
    else:
        container.append({"again": container})
    return container


BAD_PARAMS = {
    "one path twice": (lambda a, b: {"a.b": a, "a": {"b": b}}, ValueError, "params: 'a.b' names two parameters"),
    "one path twice in lists": (lambda a, b: {"a": [a], "a.0": b}, ValueError, "params: 'a.0' names two parameters"),
    "a list in two groups": (
        lambda a, b: [{"params": {"a": [a]}}, {"params": {"a": [b]}}],
        ValueError,
        "params: 'a' names two parameters",
    ),
    "a dict where another group has an array": (
        lambda a, b: [{"params": {"a": a}}, {"params": {"a": {"b": b}}}],
        ValueError,
        "params: 'a' names two parameters",
    ),
    "an array where another group has a dict": (
        lambda a, b: [{"params": {"a": {"b": b}}}, {"params": {"a": a}}],
        ValueError,
        "params: 'a' names two parameters",
    ),
    "name that is no str": (
        lambda a, b: {"a": [{1: a}]},
        TypeError,
        "params['a.0']: got 1 as a name, wanted a str",
    ),
    "dict inside of itself": (
        lambda a, b: itself(dict),
        ValueError,
        "params['again.0']: this container is inside of itself",
    ),
    "list inside of itself": (
        lambda a, b: {"a": itself(list)},
        ValueError,
        "params['a.0.again']: this container is inside of itself",
    ),
    "no arrays": (
        lambda a, b: {"a": [], "b": {}},
        ValueError,
        "params: got a group without arrays, wanted at least one in each group",
    ),
    "a float": (
        lambda a, b: {"a": {"b": 1.0}},
        TypeError,
        "params['a.b']: got float, wanted a numpy.ndarray, which can be used without a copy",
    ),
    "a list of numbers": (
        lambda a, b: [(a, b), [1.0, 2.0]],
        TypeError,
        "params['1']: got list, wanted a numpy.ndarray, which can be used without a copy",
    ),
    "None": (
        lambda a, b: {"a": [a, None]},
        TypeError,
        "params['a.1']: got NoneType, wanted a numpy.ndarray, which can be used without a copy",
    ),
    "arrays that share memory": (
        lambda a, b: {"a": [a], "b": {"c": a}},
        ValueError,
        "params['a.0']: shares memory with params['b.c'], so that updating one would change the other",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), BAD_PARAMS.values(), ids=BAD_PARAMS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_nested_parameters_that_cannot_be_named_or_stepped_are_refused(optimizer, make, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        optimizer(make(np.ones(2), np.ones(3)))


def test_any_depth_is_stepped_or_refused():
    for depth in (1, 10, 100, 100_000):
        params, grads = np.ones(2), np.ones(2)
        for _ in range(depth):
            params, grads = {"a": params}, {"a": grads}
        try:
            optimizer = rmsprop.RMSprop(params)
        except RecursionError:
            assert depth == 100_000
        else:
            optimizer.step(grads)
            assert [entry["step"] for entry in optimizer.state.values()] == [1]
        while isinstance(params, dict):  # one at a time, since deep containers are freed by deep calls
            params, grads = params.popitem()[1], grads.popitem()[1]


def test_containers_within_a_list_cannot_follow_arrays_that_have_indices():
    optimizer = rmsprop.RMSprop([np.ones(2)])
    with pytest.raises(TypeError, match=r"^params: got containers within a list, but the groups before have arrays"):
        optimizer.add_param_group({"params": [(np.ones(2), np.ones(3))]})
    with pytest.raises(TypeError, match=r"^params: either every group has a dict of named parameters, or none has$"):
        optimizer.add_param_group({"params": {"a": {"b": np.ones(2)}}})
    optimizer.step([np.ones(2)])


BAD_GRADS = {
    "a name less": (lambda g: {"layers": g["layers"]}, ValueError, "grads: nothing for 'out' (None would skip it)"),
    "an inner name less": (
        lambda g: {**g, "layers": [{"w": g["layers"][0]["w"]}, g["layers"][1]]},
        ValueError,
        "grads: nothing for 'layers.0.b' (None would skip it)",
    ),
    "a name more": (lambda g: {**g, "more": g["out"]}, ValueError, "grads: 'more' is not among the parameters"),
    "an inner name more": (
        lambda g: {**g, "layers": [g["layers"][0], {**g["layers"][1], "more": None}]},
        ValueError,
        "grads: 'layers.1.more' is not among the parameters",
    ),
    "an item less": (
        lambda g: {**g, "layers": g["layers"][:1]},
        ValueError,
        "grads['layers']: got 1 items, wanted 2, as in params",
    ),
    "an item more": (
        lambda g: {**g, "layers": [*g["layers"], None]},
        ValueError,
        "grads['layers']: got 3 items, wanted 2, as in params",
    ),
    "an array for a list": (
        lambda g: {**g, "layers": np.ones(2)},
        TypeError,
        "grads['layers']: got numpy.ndarray, wanted a sequence of 2, as in params",
    ),
    "a str for a list": (
        lambda g: {**g, "layers": "ab"},
        TypeError,
        "grads['layers']: got str, wanted a sequence of 2, as in params",
    ),
    "a list for a dict": (
        lambda g: {**g, "layers": [list(g["layers"][0].values()), None]},
        TypeError,
        "grads['layers.0']: got list, wanted a dict with the names of the parameters, as in params",
    ),
    "a list for all": (
        lambda g: [g["layers"], g["out"]],
        TypeError,
        "grads: got list, wanted a dict with the names of the parameters, as in params",
    ),
    "None for all": (
        lambda g: None,
        TypeError,
        "grads: got NoneType, wanted a dict with the names of the parameters, as in params",
    ),
    "a dict for an array": (
        lambda g: {**g, "out": {"w": g["out"]}},
        TypeError,
        "grads['out']: got dict, wanted a numpy.ndarray, which can be used without a copy",
    ),
    "another shape": (
        lambda g: {**g, "layers": [g["layers"][0], {"w": np.ones(7), "b": None}]},
        ValueError,
        "grads['layers.1.w']: shape (7,) does not match params['layers.1.w'] ()",
    ),
    "inside of itself": (
        lambda g: {**g, "layers": itself(list) * 2},
        ValueError,
        "grads: nothing for 'layers.0.w' (None would skip it)",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), BAD_GRADS.values(), ids=BAD_GRADS)
def test_gradients_of_another_structure_are_refused_by_path(make, error, message):
    form, _ = FORMS["list of dicts in a dict"]
    params = arrays()
    optimizer = rmsprop.RMSprop(form(*params))
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        optimizer.step(make(form(*arrays(1))))
    for param, before in zip(params, arrays(), strict=True):
        assert_same_bits(param, before)
    assert [entry["step"] for entry in optimizer.state.values()] == [0] * 5
