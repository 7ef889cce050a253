"""The examples for PyTorch: both optimizers train to the same numbers, and a step inside of backward saves memory."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
np = pytest.importorskip("numpy")
for package in ("matplotlib", "rich", "sklearn"):
    pytest.importorskip(package, reason=f"{package}, which the example needs, is not installed")

SCRIPT = Path(__file__).parents[2] / "examples" / "pytorch" / "train.py"
MEMORY_SCRIPT = SCRIPT.with_name("step_in_backward.py")


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("train", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules["train"]


@pytest.mark.parametrize("name", ["digits_task", "text_task"])
def test_both_optimizers_train_alike_and_the_loss_falls(example, name):
    count = 2 if name == "digits_task" else 25  # epochs, or steps
    result = example.train(getattr(example, name)(count, 0, torch.float64), seed=0)
    losses = result.runs[example.OURS].losses
    assert len(losses) == result.task.steps
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert result.largest_difference < 1e-9  # of numbers around 1, in float64


def test_the_picture_is_written(tmp_path):
    picture = tmp_path / "curves.png"
    command = [sys.executable, SCRIPT, "--epochs", "1", "--steps", "3", "--out", picture]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "rmsprop.torch.RMSprop" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "no/such/folder/curves.png"], "there is no folder"),
        (["--out", "curves.txt"], "ends in .png"),
        (["--steps", "0"], "at least 1"),
        (["--seed", "-1"], "from 0 to"),
    ],
)
def test_bad_input_is_an_error_before_the_run(arguments, message):
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_step_inside_of_backward_lowers_the_peak_of_memory():
    command = [sys.executable, MEMORY_SCRIPT, "--layers", "16", "--width", "1024"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    saved = int(re.search(r"^Saved: (-?\d+) MiB$", done.stdout, re.MULTILINE).group(1))
    assert saved > 32  # of 64 MiB of gradients
