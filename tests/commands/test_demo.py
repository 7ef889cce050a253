"""The demo: it runs, and what its table and its picture claim is true."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("rich")
pytest.importorskip("sklearn")

from matplotlib.colors import to_rgb
from matplotlib.image import imread
from rich.progress import Progress

import rmsprop
from rmsprop._commands import demo
from rmsprop._commands import main as cli

SHORT = demo.Settings(epochs=2, batch_size=32, hidden_units=8, seed=0)


def run_demo(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the demo in `folder`, the way a script or a CI job does: no terminal, no colours, 80 columns."""
    inherited = {name: value for name, value in os.environ.items() if name not in {"FORCE_COLOR", "COLUMNS"}}
    return subprocess.run(
        [sys.executable, "-m", "rmsprop", "demo", *arguments],
        cwd=folder,
        env={**inherited, "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def digits() -> demo.Digits:
    return demo.load_data()


@pytest.fixture(scope="module")
def histories(digits: demo.Digits, tmp_path_factory: pytest.TempPathFactory) -> dict[str, demo.History]:
    """What every method did in a run with the default options."""
    output = tmp_path_factory.mktemp("default") / "picture.png"
    options = cli.build_parser().parse_args(["demo", "--output", str(output)])
    settings = demo.Settings(options.epochs, options.batch_size, options.hidden_units, options.seed)
    return {history.method.name: history for history in demo.train_all(digits, settings)}


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    folder = tmp_path_factory.mktemp("short")
    return run_demo("--epochs", "2", "--output", "picture.png", folder=folder), folder / "picture.png"


# The program


def test_the_demo_succeeds_and_says_where_the_picture_is(
    short_run: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    finished, picture = short_run
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.endswith("\nPicture: picture.png\n")
    assert picture.is_file()


def test_the_table_has_a_row_for_every_method(short_run: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    finished, _ = short_run
    for method in demo.METHODS:
        row = rf"^{method.name} +{method.lr} +84 +\d+\.\d% +\d\.\d{{4}} +\d+\.\d ms +\d+\.\d\d$"
        assert re.search(row, finished.stdout, flags=re.MULTILINE), finished.stdout
    for heading in ("Learning", "Steps", "accuracy", "Training", "Optimizer", "Effective step"):
        assert heading in finished.stdout
    assert max(map(len, finished.stdout.splitlines())) <= 80


def test_a_log_gets_one_line_of_progress_for_each_method(
    short_run: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    finished, _ = short_run
    lines = finished.stderr.strip().splitlines()
    assert len(lines) == len(demo.METHODS)
    for line, method in zip(lines, demo.METHODS, strict=True):
        assert line.startswith(method.name)
        assert "84/84 steps" in line
    assert "\x1b" not in finished.stdout + finished.stderr
    assert "\r" not in finished.stdout + finished.stderr


def test_the_picture_has_three_panels_with_every_method_in_its_colour(
    short_run: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    _, picture = short_run
    pixels = imread(picture)[:, :, :3]
    assert pixels.shape == (630, 1800, 3)
    below_the_legend = pixels[60:]
    loss, accumulator, step = np.array_split(below_the_legend, 3, axis=1)

    def ink(panel: np.ndarray, colour: str) -> int:
        return int(np.sum(np.abs(panel - to_rgb(colour)).max(axis=2) < 0.02))

    a_line = 500  # pixels; the smooth edges of black letters alone have some hundred in grey
    rmsprop_colour, adagrad_colour, descent_colour = (method.colour for method in demo.METHODS)
    for panel in (loss, accumulator, step):
        assert ink(panel, rmsprop_colour) > a_line
        assert ink(panel, adagrad_colour) > a_line
        assert ink(panel, "white") > 0.7 * panel.shape[0] * panel.shape[1]
    assert ink(loss, descent_colour) > a_line + ink(accumulator, descent_colour)  # it keeps no accumulator
    assert ink(step, descent_colour) > a_line + ink(accumulator, descent_colour)


def test_the_demo_prints_to_a_terminal_that_knows_only_ascii(tmp_path: Path) -> None:
    finished = run_demo("--epochs", "1", "--hidden-units", "2", folder=tmp_path, PYTHONIOENCODING="ascii")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.isascii()
    assert (tmp_path / "rmsprop-demo.png").is_file()


@pytest.mark.parametrize("seed", range(4))
def test_the_smallest_run_there_is(seed: int, tmp_path: Path) -> None:
    one_step = demo.Settings(epochs=1, batch_size=100_000, hidden_units=1, seed=seed)
    demo.run(one_step, tmp_path / "picture.png")
    assert imread(tmp_path / "picture.png").shape[:2] == (630, 1800)


# What it claims


def test_every_method_learns_to_read_digits(histories: dict[str, demo.History]) -> None:
    assert list(histories) == ["RMSprop", "Adagrad", "Gradient descent"]
    for history in histories.values():
        assert history.loss[0] > 1.8  # guessing is log(10) = 2.3
        assert history.loss[-1] < 0.2
        assert history.test_accuracy > 0.94


def test_the_default_learning_rates_are_those_of_the_package() -> None:
    parameters = {"W": np.zeros(1, np.float32)}
    lrs = {method.name: method.lr for method in demo.METHODS}
    assert lrs["RMSprop"] == rmsprop.RMSprop(parameters).lr
    assert lrs["Adagrad"] == rmsprop.Adagrad(parameters).lr


def test_adagrads_accumulator_only_grows_and_rmsprops_forgets(histories: dict[str, demo.History]) -> None:
    adagrad, rms = histories["Adagrad"].accumulator, histories["RMSprop"].accumulator
    assert adagrad is not None
    assert rms is not None
    assert histories["Gradient descent"].accumulator is None
    assert np.all(np.diff(adagrad) >= 0)
    assert rms[-1] < rms.max() / 2
    assert np.all(adagrad >= rms)


def test_adagrads_effective_step_dies_and_rmsprops_does_not(histories: dict[str, demo.History]) -> None:
    assert histories["Adagrad"].effective_step_ratio < 0.5
    assert histories["RMSprop"].effective_step_ratio > 1
    assert histories["Gradient descent"].effective_step_ratio == 1


def test_adagrads_effective_step_decays_as_a_root_of_time(histories: dict[str, demo.History]) -> None:
    history = histories["Adagrad"]
    exponent, _ = np.polyfit(np.log(history.step), np.log(history.effective_step), 1)
    assert -0.6 < exponent < -0.3  # steady gradients give -1/2; these shrink as the network learns, so a little less


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_for_the_same_gradients_adagrads_accumulator_is_never_the_smaller(digits: demo.Digits, alpha: float) -> None:
    parameters = demo.initial_parameters(SHORT)
    copies = [{name: values.copy() for name, values in parameters.items()} for _ in range(2)]
    rms, adagrad = rmsprop.RMSprop(copies[0], alpha=alpha), rmsprop.Adagrad(copies[1])
    descent = demo.GradientDescent(parameters, lr=0.1)
    for batch in demo.minibatches(len(digits.train_labels), SHORT):
        grads = demo.backward(parameters, digits.train_images[batch], digits.train_labels[batch])
        for optimizer in (rms, adagrad, descent):
            optimizer.step(grads)
        for name in parameters:
            assert np.all(adagrad.state[name]["sum"] >= rms.state[name]["square_avg"])


# Its parts


def test_the_same_seed_gives_the_same_numbers(digits: demo.Digits) -> None:
    first, second = demo.train_all(digits, SHORT), demo.train_all(digits, SHORT)
    other = demo.train_all(digits, replace(SHORT, seed=1))
    for one, same, different in zip(first, second, other, strict=True):
        assert np.array_equal(one.loss, same.loss)
        assert np.array_equal(one.effective_step, same.effective_step)
        assert one.test_accuracy == same.test_accuracy
        assert not np.array_equal(one.loss, different.loss)


def test_every_method_gets_the_same_weights_and_the_same_minibatches(
    digits: demo.Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    backward = demo.backward

    def watched(parameters: demo.Parameters, images: demo.Floats, labels: demo.Integers) -> demo.Parameters:
        if not seen or len(seen) % steps == 0:
            first_weights.append(parameters["W1"].copy())
        seen.append(labels)
        return backward(parameters, images, labels)

    steps = demo.step_count(len(digits.train_labels), SHORT)
    first_weights: list[np.ndarray] = []
    monkeypatch.setattr(demo, "backward", watched)
    demo.train_all(digits, SHORT)

    assert len(seen) == 3 * steps
    for method in (1, 2):
        assert np.array_equal(first_weights[method], first_weights[0])
        for labels, expected in zip(seen[method * steps : (method + 1) * steps], seen[:steps], strict=True):
            assert np.array_equal(labels, expected)


def test_the_data_are_all_the_digits_split_in_two(digits: demo.Digits) -> None:
    assert digits.train_images.shape == (1344, 64)
    assert digits.test_images.shape == (453, 64)
    assert digits.train_images.dtype == np.float32
    assert (digits.train_images.min(), digits.train_images.max()) == (0, 1)
    together = np.concatenate([digits.train_images, digits.test_images])
    assert len(np.unique(together, axis=0)) == 1797
    assert set(digits.train_labels) == set(digits.test_labels) == set(range(10))


@pytest.mark.parametrize("batch_size", [1, 7, 10, 25])
def test_an_epoch_visits_every_image_once(batch_size: int) -> None:
    settings = demo.Settings(epochs=3, batch_size=batch_size, hidden_units=1, seed=5)
    batches = list(demo.minibatches(10, settings))
    assert len(batches) == demo.step_count(10, settings)
    epochs = np.concatenate(batches).reshape(3, 10)
    assert np.array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (3, 1)))
    assert not np.array_equal(epochs[0], epochs[1])


def test_the_gradients_are_the_slopes_of_the_loss(digits: demo.Digits) -> None:
    parameters: demo.Parameters = {
        name: values.astype(np.float64) for name, values in demo.initial_parameters(SHORT).items()
    }
    images, labels = digits.train_images[:20].astype(np.float64), digits.train_labels[:20]
    grads = demo.backward(parameters, images, labels)
    random = np.random.default_rng(0)
    for name, values in parameters.items():
        direction = random.standard_normal(values.shape)
        ahead, behind = (
            demo.cross_entropy({**parameters, name: values + shift * direction}, images, labels)
            for shift in (1e-6, -1e-6)
        )
        assert np.sum(grads[name] * direction) == pytest.approx((ahead - behind) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 399, 400, 401, 2520])
def test_the_first_and_the_last_step_are_recorded_and_none_twice(count: int) -> None:
    recorded = demo.steps_to_record(count)
    assert (recorded[0], recorded[-1]) == (1, count)
    assert np.all(np.diff(recorded) > 0)
    assert len(recorded) == min(count, 400)


def test_progress_reaches_its_end(digits: demo.Digits) -> None:
    progress = Progress(disable=True)
    demo.train_all(digits, SHORT, progress)
    assert [task.description for task in progress.tasks] == [method.name for method in demo.METHODS]
    assert all(task.finished for task in progress.tasks)
