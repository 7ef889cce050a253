"""State dicts: PyTorch's layout, plain data, everything or nothing, and the same bits afterwards."""

import copy
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import rmsprop
from bits import assert_same_bits
from rmsprop import convert
from rmsprop._core import rules
from rmsprop._saving.pytorch import as_in_torch
from runs import DTYPES, FORMS, RULES, Run, Unchanged, assert_same_state, random_params

SWAPPED = np.dtype(np.float64).newbyteorder()  # as this machine does not have it


def made_of_torch(state_dict):
    """Return a state dict in the words of PyTorch's, with NumPy's arrays in the place of tensors."""
    state_dict = copy.deepcopy(state_dict)
    for group in state_dict["param_groups"]:
        is_rmsprop = "alpha" in group
        for name in as_in_torch(rules["rmsprop" if is_rmsprop else "adagrad"]).keys() - {"maximize"}:
            del group[name]
        group.pop("name", None)
        group |= {"foreach": None, "differentiable": False}
        group |= {"capturable": False} if is_rmsprop else {"fused": None}
    for entry in state_dict["state"].values():
        entry["step"] = np.array(entry["step"], np.float32)
    return state_dict


# ---- What is in it ---------------------------------------------------------------------------------------------------


def test_layout_and_names_are_those_of_pytorch():
    run = Run("momentum", form="named groups").step(2)
    saved = run.optimizer.state_dict()
    assert saved.keys() == {"state", "param_groups"}
    assert list(saved["state"]) == [0, 1, 2, 3]
    assert [group["params"] for group in saved["param_groups"]] == [[0], [1, 2, 3]]
    assert [group["param_names"] for group in saved["param_groups"]] == [["matrix"], ["scalar", "reversed", "empty"]]
    assert [group.get("name") for group in saved["param_groups"]] == [None, "rest"]
    for number, key in enumerate(run.optimizer.state):
        assert saved["state"][number].keys() == {"step", "square_avg", "momentum_buffer"}
        assert saved["state"][number]["step"] == 2
        for name in ("square_avg", "momentum_buffer"):
            assert saved["state"][number][name] is run.optimizer.state[key][name]
    hyperparameters = {"params", "param_names", *run.optimizer.defaults}
    assert saved["param_groups"][0].keys() == hyperparameters


def test_parameters_without_names_have_no_param_names():
    assert "param_names" not in Run(form="list").optimizer.state_dict()["param_groups"][0]


def test_hyperparameters_are_python_s_own_numbers():
    optimizer = rmsprop.RMSprop(np.ones(2), lr=np.float32(0.1), momentum=np.int64(0), centered=np.bool_(True))
    group = optimizer.state_dict()["param_groups"][0]
    assert [type(group[name]) for name in ("lr", "momentum", "centered", "eps")] == [float, float, bool, float]
    assert group["lr"] == float(np.float32(0.1))


def test_a_state_dict_has_the_state_that_the_next_step_needs_and_leaves_the_optimizer_alone():
    run = Run("plain").step(1)
    run.optimizer.param_groups[0].update(momentum=0.9, centered=True)
    with Unchanged(run.optimizer):
        saved = run.optimizer.state_dict()
    assert saved["state"][0].keys() == {"step", "square_avg", "grad_avg", "momentum_buffer"}
    assert not saved["state"][0]["momentum_buffer"].any()
    assert "momentum_buffer" not in run.optimizer.state["matrix"]


# ---- Going on --------------------------------------------------------------------------------------------------------


def by_reference(state_dict):
    return state_dict


def by_pickle(state_dict):
    return pickle.loads(pickle.dumps(state_dict))


@pytest.mark.parametrize("carried", [by_reference, by_pickle])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_steps_after_loading_have_the_bits_of_the_uninterrupted_run(rule, dtype, form, carried):
    run = Run(rule, dtype, form).step(3)
    run.optimizer.param_groups[-1]["lr"] = 0.05
    resumed = run.at_the_same_point(eps=0.1, weight_decay=0.0)
    resumed.optimizer.load_state_dict(carried(run.optimizer.state_dict()))
    resumed.assert_same_bits_as(run)
    resumed.step(3).assert_same_bits_as(run.step(3))


def test_parameters_at_different_steps_stay_at_them():
    params = {"a": np.ones(2), "b": np.ones(2)}
    optimizer = rmsprop.RMSprop(params, bias_correction=True)
    optimizer.step({"a": np.ones(2), "b": None})
    optimizer.state["b"]["step"] = 2**40
    other = rmsprop.RMSprop(copy.deepcopy(params), bias_correction=True)
    other.load_state_dict(optimizer.state_dict())
    assert [entry["step"] for entry in other.state.values()] == [1, 2**40]


def test_a_buffer_that_is_not_in_use_comes_along():
    run = Run("momentum").step(2)
    run.optimizer.param_groups[0].update(momentum=0.0, nesterov=False)
    resumed = run.at_the_same_point(momentum=0.0, nesterov=False)
    resumed.optimizer.load_state_dict(run.optimizer.state_dict())
    for either in (run, resumed):
        either.optimizer.param_groups[0]["momentum"] = 0.9
    resumed.step(2).assert_same_bits_as(run.step(2))


def test_loading_copies_so_that_no_two_optimizers_share_state():
    run = Run().step(1)
    resumed = run.at_the_same_point()
    saved = run.optimizer.state_dict()
    resumed.optimizer.load_state_dict(saved)
    before = copy.deepcopy(saved)
    resumed.step(1)
    for number, entry in before["state"].items():
        for name, value in entry.items():
            assert_same_bits(saved["state"][number][name], value)
    saved["param_groups"][0]["lr"] = 9.0
    assert resumed.optimizer.lr == 0.1


def test_loaded_state_is_laid_out_in_memory_like_its_parameter():
    run = Run(form="list").step(1)
    saved = run.optimizer.state_dict()
    assert saved["state"][0]["square_avg"].flags.f_contiguous
    saved["state"][0]["square_avg"] = saved["state"][0]["square_avg"].copy(order="C")
    resumed = run.at_the_same_point()
    resumed.optimizer.load_state_dict(saved)
    assert resumed.optimizer.state[0]["square_avg"].flags.f_contiguous
    assert_same_state(resumed.optimizer, run.optimizer)


def test_loaded_state_is_plain_arrays_whatever_the_parameter_is(tmp_path):
    weights = np.memmap(tmp_path / "weights", np.float64, "w+", shape=(3,))
    optimizer = rmsprop.RMSprop([weights])
    optimizer.load_state_dict(rmsprop.RMSprop([np.ones(3)]).state_dict())
    assert type(optimizer.state[0]["square_avg"]) is np.ndarray


def test_an_optimizer_can_load_its_own_state():
    run = Run().step(2)
    expected = copy.deepcopy(run)
    run.optimizer.load_state_dict(run.optimizer.state_dict())
    run.step(2).assert_same_bits_as(expected.step(2))


def test_arrays_of_any_layout_and_kind_can_be_loaded(tmp_path):
    saved = rmsprop.RMSprop([np.ones((2, 3))]).state_dict()
    values = np.arange(6.0).reshape(2, 3)
    on_disk = np.memmap(tmp_path / "array", np.float64, "w+", shape=(2, 3))
    on_disk[...] = values
    read_only = np.broadcast_to(values, (2, 3))
    for array in (np.repeat(values, 2, axis=1)[:, ::2], on_disk, read_only):
        saved["state"][0]["square_avg"] = array
        optimizer = rmsprop.RMSprop([np.ones((2, 3))])
        optimizer.load_state_dict(saved)
        assert type(optimizer.state[0]["square_avg"]) is np.ndarray
        assert_same_bits(optimizer.state[0]["square_avg"], values)
        optimizer.step([np.ones((2, 3))])


# ---- Schedules -------------------------------------------------------------------------------------------------------


def halving(step):
    return 0.5**step


def test_a_schedule_is_in_the_state_dict_and_goes_on():
    run = Run(lr=halving).step(2)
    resumed = run.at_the_same_point(lr=0.1)
    resumed.optimizer.load_state_dict(by_pickle(run.optimizer.state_dict()))
    assert resumed.optimizer.lr is halving
    resumed.step(2).assert_same_bits_as(run.step(2))


def test_a_number_takes_the_place_of_a_schedule():
    run = Run(lr=0.1).step(1)
    resumed = run.at_the_same_point(lr=halving)
    resumed.optimizer.load_state_dict(run.optimizer.state_dict())
    resumed.step(2).assert_same_bits_as(run.step(2))


# ---- PyTorch's dicts, without PyTorch --------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "options"), [("torch", {"clip_value": None}), ("adagrad", {"eps_in_sqrt": False})])
def test_a_dict_of_pytorch_is_recognised_and_means_what_pytorch_means(rule, options):
    run = Run(rule, **options).step(2)
    resumed = run.at_the_same_point(eps_in_sqrt=True, clip_value=0.1, clip_norm=0.1)
    resumed.optimizer.load_state_dict(made_of_torch(run.optimizer.state_dict()))
    resumed.step(2).assert_same_bits_as(run.step(2))


def test_entries_that_pytorch_s_schedulers_leave_are_dropped():
    saved = made_of_torch(Run("plain", eps_in_sqrt=False).optimizer.state_dict())
    saved["param_groups"][0] |= {"initial_lr": 0.1, "max_lr": 1.0, "min_lr": 0.0, "swa_lr": 0.1}
    Run("plain").optimizer.load_state_dict(saved)


def test_a_parameter_that_never_had_a_gradient_in_pytorch_starts_from_the_beginning():
    run = Run("torch", clip_value=None).step(1)
    saved = made_of_torch(run.optimizer.state_dict())
    del saved["state"][1]
    resumed = run.at_the_same_point(initial_accumulator_value=5.0)
    resumed.step(1)
    resumed.optimizer.load_state_dict(saved)
    assert dict(resumed.optimizer.state["scalar"]) == {"step": 0, "square_avg": 0.0}
    assert resumed.optimizer.state["matrix"]["step"] == 1


# ---- Everything or nothing -------------------------------------------------------------------------------------------


def put(*path_and_value):
    """Return a function that sets an entry somewhere in a state dict."""
    *path, last, value = path_and_value

    def change(saved):
        for key in path:
            saved = saved[key]
        saved[last] = value

    return change


def remove(*path):
    *start, last = path

    def change(saved):
        for key in start:
            saved = saved[key]
        del saved[last]

    return change


FIRST, GROUP = ("state", 0), ("param_groups", 0)
READ_ONLY_VIEW = np.broadcast_to(np.float64(1.0), (3, 4))
BAD = {
    "no state": (remove("state"), TypeError, "wanted a dict with 'state' and 'param_groups'"),
    "groups no list": (put("param_groups", 3), TypeError, "param_groups: got int, wanted a list of dicts"),
    "group no dict": (put("param_groups", 0, 3), TypeError, "param_groups: got list, wanted a list of dicts"),
    "state no dict": (put("state", []), TypeError, "state: got list, wanted a dict"),
    "entry no dict": (put("state", 0, 3.0), TypeError, r"state\[0\]: got float, wanted a dict"),
    "another group": (lambda s: s["param_groups"].append({**s["param_groups"][0]}), ValueError, "got 3, wanted 2"),
    "one group less": (remove("param_groups", 1), ValueError, "param_groups: got 1, wanted 2"),
    "params missing": (remove(*GROUP, "params"), TypeError, r"\[0\]\['params'\]: wanted a list with the number"),
    "params no numbers": (put(*GROUP, "params", ["a"]), TypeError, r"\[0\]\['params'\]: wanted a list with the number"),
    "param a bool": (put(*GROUP, "params", [False]), TypeError, r"\[0\]\['params'\]: wanted a list with the number"),
    "param more": (put(*GROUP, "params", [0, 7]), TypeError, r"\['param_names'\]: wanted a list with the name of each"),
    "param less": (put("param_groups", 1, "params", [1, 2]), TypeError, r"param_groups\[1\]\['param_names'\]"),
    "param twice": (put("param_groups", 1, "params", [0, 2, 3]), ValueError, "the same parameter is there twice"),
    "other names": (put(*GROUP, "param_names", ["bias"]), ValueError, r"of the name 'bias', wanted 'matrix'"),
    "names no text": (put(*GROUP, "param_names", [3]), TypeError, r"\['param_names'\]: wanted a list with the name"),
    "other group name": (put("param_groups", 1, "name", "x"), ValueError, "of the name 'x', wanted 'rest'"),
    "lr missing": (remove(*GROUP, "lr"), ValueError, r"param_groups\[0\]: no hyperparameter lr"),
    "unknown": (
        put(*GROUP, "betas", 1),
        ValueError,
        r"param_groups\[0\]: unknown hyperparameter betas; .* has lr, alpha",
    ),
    "lr text": (put(*GROUP, "lr", "0.1"), TypeError, r"param_groups\[0\]: lr: got str"),
    "lr nan": (put(*GROUP, "lr", float("nan")), ValueError, "lr"),
    "alpha too large": (put("param_groups", 1, "alpha", 1.5), ValueError, r"param_groups\[1\]: alpha"),
    "nesterov without momentum": (put("param_groups", 1, "momentum", 0.0), ValueError, "nesterov"),
    "momentum an array": (put(*GROUP, "momentum", np.ones(2)), TypeError, "momentum"),
    "state missing": (remove("state", 2), ValueError, "state: nothing for parameter 2"),
    "state of nobody": (put("state", 9, {}), ValueError, "state: parameter 9 is in no group"),
    "step missing": (remove(*FIRST, "step"), ValueError, r"state\['matrix'\]: no step"),
    "step negative": (put(*FIRST, "step", -1), ValueError, r"state\['matrix'\]: step: got -1"),
    "step too large": (put(*FIRST, "step", 2**63), ValueError, r"state\['matrix'\]: step: got 9223372036854775808"),
    "step a float": (put(*FIRST, "step", 1.0), TypeError, r"state\['matrix'\]: step: got float"),
    "step a bool": (put(*FIRST, "step", True), TypeError, r"state\['matrix'\]: step: got bool"),
    "array missing": (remove("state", 3, "momentum_buffer"), ValueError, r"state\['empty'\]: no momentum_buffer"),
    "array unknown": (put(*FIRST, "exp_avg", np.ones(2)), ValueError, r"state\['matrix'\]: unknown entry 'exp_avg'"),
    "array a list": (
        put(*FIRST, "square_avg", [1.0]),
        TypeError,
        r"\['matrix'\]\['square_avg'\]: got list, wanted a numpy",
    ),
    "array masked": (
        put(*FIRST, "square_avg", np.ma.ones((3, 4))),
        TypeError,
        "got MaskedArray, wanted a numpy.ndarray",
    ),
    "shape": (put(*FIRST, "square_avg", np.ones((4, 3))), ValueError, r"shape \(4, 3\) does not match the .* \(3, 4\)"),
    "size 1": (put(*FIRST, "square_avg", np.ones((1, 1))), ValueError, r"shape \(1, 1\) does not match"),
    "dtype": (put(*FIRST, "square_avg", np.ones((3, 4), "f4")), TypeError, "float32 does not match the .* float64"),
    "byte order": (put(*FIRST, "square_avg", np.ones((3, 4), SWAPPED)), TypeError, f"{SWAPPED.str} does not match"),
    "dtype of one not needed": (put(*FIRST, "grad_avg", np.ones((3, 4), int)), TypeError, "dtype int64 does not match"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_an_error_and_changes_nothing(change, error, message):
    saved = copy.deepcopy(Run("momentum", form="named groups").step(3).optimizer.state_dict())
    change(saved)
    run = Run("momentum", form="named groups").step(1)
    with Unchanged(run.optimizer), pytest.raises(error, match=message):
        run.optimizer.load_state_dict(saved)
    run.step(1)


@pytest.mark.parametrize("wrong", [None, [], "state", 3, {"state": {}}])
def test_what_is_no_state_dict_is_a_type_error(wrong):
    with pytest.raises(TypeError, match=r"state_dict: got .*, wanted a dict with 'state' and 'param_groups'"):
        Run().optimizer.load_state_dict(wrong)


@pytest.mark.parametrize(("mine", "other"), [("plain", "adagrad"), ("adagrad", "plain")])
def test_state_of_the_other_optimizer_is_an_error(mine, other):
    run = Run(mine).step(1)
    for saved in (Run(other).optimizer.state_dict(), made_of_torch(Run(other).optimizer.state_dict())):
        with Unchanged(run.optimizer), pytest.raises(ValueError, match="unknown hyperparameter"):
            run.optimizer.load_state_dict(saved)


BAD_TORCH = {
    "adam": (
        put(*GROUP, {"lr": 0.1, "betas": (0.9, 0.9), "foreach": None, "params": [0]}),
        ValueError,
        "got lr, betas",
    ),
    "half a step": (put(*FIRST, "step", np.array(2.5)), ValueError, r"state\[0\]\['step'\]: got 2.5, wanted a whole"),
    "step nan": (put(*FIRST, "step", np.array(np.nan)), ValueError, r"state\[0\]\['step'\]: got nan"),
    "lr of two": (put(*GROUP, "lr", np.ones(2)), TypeError, r"a tensor of shape \(2,\), wanted a number"),
    "no tensor": (
        put(*FIRST, "square_avg", [1.0]),
        TypeError,
        r"state\[0\]\['square_avg'\]: got list, wanted a tensor",
    ),
    "entry missing": (remove(*FIRST, "square_avg"), ValueError, r"state\['matrix'\]: no square_avg"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD_TORCH.values(), ids=BAD_TORCH)
def test_what_does_not_fit_in_a_dict_of_pytorch_is_an_error_and_changes_nothing(change, error, message):
    run = Run("plain").step(1)
    saved = made_of_torch(run.optimizer.state_dict())
    change(saved)
    with Unchanged(run.optimizer), pytest.raises(error, match=message):
        run.optimizer.load_state_dict(saved)


@pytest.mark.parametrize("value", [True, False, 0.5])
@pytest.mark.parametrize("name", ["decoupled_decay", "caution", "betas", "lr_scale"])
@pytest.mark.parametrize("rule", ["plain", "adagrad"])
def test_a_dict_with_an_entry_that_pytorch_does_not_have_is_of_another_rule(rule, name, value):
    """Timm's RMSprop decays weights as `decoupled_decay` says, and has eps inside of the root."""
    run = Run(rule).step(1)
    saved = made_of_torch(run.optimizer.state_dict())
    saved["param_groups"][0][name] = value
    for act in (run.optimizer.load_state_dict, convert.from_torch):
        with Unchanged(run.optimizer), pytest.raises(ValueError, match=rf"param_groups\[0\]: got {name}={value}"):
            act(saved)
    for only_in_torch in ("foreach", "differentiable", "capturable", "fused"):
        saved["param_groups"][0].pop(only_in_torch, None)
    with Unchanged(run.optimizer), pytest.raises(ValueError, match=name):
        run.optimizer.load_state_dict(saved)


@pytest.fixture(params=["first", "last"])
def another_rule(request, monkeypatch):
    """A rule that is in the table of rules and nowhere else, with hyperparameters that RMSprop has too."""
    names = ("lr", "weight_decay", "decoupled_weight_decay", "maximize", "clip_norm")
    rule = SimpleNamespace(name="another", hyperparameters=names, defaults=dict.fromkeys(names), state=(), optional=())
    table = {"another": rule, **rules} if request.param == "first" else {**rules, "another": rule}
    monkeypatch.setattr("rmsprop._saving.rules.rules", table)
    monkeypatch.setattr("rmsprop._saving.pytorch.rules", table)
    return rule


@pytest.mark.parametrize("name", ["plain", "adagrad"])
def test_another_rule_in_the_table_does_not_get_in_the_way_of_dicts_of_pytorch(name, another_rule):
    run = Run(name, eps_in_sqrt=False).step(2)
    run.optimizer.load_state_dict(made_of_torch(run.optimizer.state_dict()))
    with pytest.raises(ValueError, match=r"wanted the hyperparameters of .*another.*, got lr, betas"):
        convert.from_torch({"state": {}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.9), "params": [0]}]})


def test_a_rule_needs_nothing_but_its_row_in_the_table_to_come_from_pytorch(another_rule):
    group = {"lr": 0.1, "weight_decay": 0.5, "maximize": True, "foreach": None, "params": [0]}
    (ours,) = convert.from_torch({"state": {0: {}}, "param_groups": [group]})["param_groups"]
    formula = {"decoupled_weight_decay": False, "clip_norm": None}
    assert ours == {"lr": 0.1, "weight_decay": 0.5, "maximize": True, "params": [0], **formula}


def test_an_exception_of_a_schedule_changes_nothing():
    def broken(step):
        raise ZeroDivisionError

    run = Run().step(1)
    saved = run.optimizer.state_dict()
    saved["param_groups"][0]["lr"] = broken
    with Unchanged(run.optimizer), pytest.raises(ZeroDivisionError):
        run.optimizer.load_state_dict(saved)


def test_loading_inside_of_a_step_is_an_error_and_changes_nothing():
    run = Run().step(1)
    saved = run.optimizer.state_dict()

    def loading(step):
        run.optimizer.load_state_dict(saved)

    run.optimizer.lr = loading
    with Unchanged(run.optimizer), pytest.raises(RuntimeError, match="in the middle of another step"):
        run.step()


def test_groups_and_state_are_never_seen_half_loaded():
    run = Run("plain", lr=1.0)
    saved = copy.deepcopy(run.optimizer.state_dict())
    saved["param_groups"][0]["lr"] = 2.0
    for entry in saved["state"].values():
        entry["step"] = 2
    seen = set()

    def look(frame, event, argument):
        """Look at the optimizer between any two instructions, where a signal or another thread could come in."""
        frame.f_trace_opcodes = True
        whole = vars(run.optimizer)
        seen.add((whole["param_groups"][0]["lr"], *map(int, whole["_columns"].steps)))
        return look

    before = sys.gettrace()
    sys.settrace(look)
    run.optimizer.load_state_dict(saved)
    sys.settrace(before)
    assert seen == {(1.0, 0, 0, 0, 0), (2.0, 2, 2, 2, 2)}


def test_shapes_without_elements_and_dimensions_survive():
    params = random_params()
    optimizer = rmsprop.Adagrad([params["scalar"], params["empty"]])
    optimizer.step([np.ones(()), np.ones((0, 3))])
    other = rmsprop.Adagrad([params["scalar"], params["empty"]])
    other.load_state_dict(optimizer.state_dict())
    assert [other.state[i]["sum"].shape for i in range(2)] == [(), (0, 3)]
    assert_same_state(other, optimizer)
