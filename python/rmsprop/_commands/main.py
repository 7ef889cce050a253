"""The command line: ``rmsprop`` and ``python -m rmsprop``.

This module needs NumPy only. What the demo needs besides is imported when the demo runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile

import rmsprop

DEMO_PACKAGES = frozenset({"matplotlib", "rich", "sklearn", "threadpoolctl"})

EXAMPLES = """\
examples:
  rmsprop info
  rmsprop demo
  rmsprop inspect optimizer.safetensors
  python -m rmsprop demo --output picture.png
"""

DEMO_DESCRIPTION = """\
Train the same small network three times on scikit-learn's handwritten digits:
with RMSprop, with Adagrad and with plain gradient descent, from the same first
weights and with the same minibatches. Prints a table of the results and writes
a picture (PNG) of the loss, the accumulator and the effective step: Adagrad's
step fades away, RMSprop's does not. Takes a few seconds.
"""

DEMO_EXAMPLES = """\
examples:
  rmsprop demo
  rmsprop demo --epochs 10 --output short.png
  rmsprop demo --seed 7 --batch-size 64 --hidden-units 100

needs scikit-learn, matplotlib and rich: pip install 'rmsprop[demo]'
"""

INFO_DESCRIPTION = """\
Print what runs here: the versions of rmsprop, NumPy and Python, the platform,
the instruction sets and which one was chosen, the threads and the OpenMP
runtime. Put this into a bug report.
"""

INFO_EXAMPLES = """\
examples:
  rmsprop info
  RMSPROP_ISA=baseline OMP_NUM_THREADS=1 rmsprop info
"""

INSPECT_DESCRIPTION = """\
Print what is inside a checkpoint, a file that an optimizer's save(path) wrote:
the hyperparameters of each group, and the steps, shape, type and state of each
parameter. The whole file is read, and its checksum compared, before anything is
printed. A file that is damaged or is not a checkpoint is an error.
"""

INSPECT_EXAMPLES = """\
examples:
  rmsprop inspect optimizer.safetensors
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `arguments` are those of the process unless given."""
    options = build_parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except KeyboardInterrupt:
        return 130  # what a shell reports for a program ended by Ctrl-C


def build_parser() -> argparse.ArgumentParser:
    """Describe every command and option."""
    parser = argparse.ArgumentParser(
        prog="rmsprop",
        description="The RMSprop and Adagrad step on a CPU: a demo, what runs here, and checkpoints.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rmsprop {rmsprop.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="{demo,info,inspect}", dest="command", required=True)
    add_demo(commands)
    add_info(commands)
    add_inspect(commands)
    return parser


def add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``demo``."""
    parser = commands.add_parser(
        "demo",
        help="train a small network with RMSprop, Adagrad and gradient descent, and draw the difference",
        description=DEMO_DESCRIPTION,
        epilog=DEMO_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output",
        type=picture_path,
        default="rmsprop-demo.png",
        metavar="PATH",
        help="where to write the picture (default: %(default)s)",
    )
    numbers = (
        ("--epochs", 1, 60, "how often every training image is seen"),
        ("--batch-size", 1, 32, "images per optimizer step"),
        ("--hidden-units", 1, 32, "size of the network's hidden layer"),
        ("--seed", 0, 0, "seed of the first weights and of the order of the images"),
    )
    for option, minimum, default, meaning in numbers:
        parser.add_argument(
            option,
            type=whole_number(minimum),
            default=default,
            metavar="N",
            help=f"{meaning} (default: %(default)s)",
        )
    parser.set_defaults(run=run_demo)


def add_info(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``info``."""
    parser = commands.add_parser(
        "info",
        help="print versions, platform, instruction sets and threads",
        description=INFO_DESCRIPTION,
        epilog=INFO_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run_info)


def add_inspect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``inspect``."""
    parser = commands.add_parser(
        "inspect",
        help="print what is inside a checkpoint",
        description=INSPECT_DESCRIPTION,
        epilog=INSPECT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="the checkpoint")
    parser.set_defaults(run=run_inspect)


def run_demo(options: argparse.Namespace) -> int:
    """Run the demo, or say how to install what it needs."""
    try:
        from rmsprop._commands import demo
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in DEMO_PACKAGES:
            raise
        print(f"rmsprop demo: error: {package} is not installed; run: pip install 'rmsprop[demo]'", file=sys.stderr)
        return 1
    settings = demo.Settings(
        epochs=options.epochs, batch_size=options.batch_size, hidden_units=options.hidden_units, seed=options.seed
    )
    demo.run(settings, options.output)
    return 0


def run_info(options: argparse.Namespace) -> int:
    """Print the report."""
    rmsprop.show_config()
    return 0


def run_inspect(options: argparse.Namespace) -> int:
    """Print the content of a checkpoint, or say what is wrong with the file."""
    from rmsprop._commands import inspect as inspection

    try:
        inspection.print_checkpoint(options.file)
    except OSError as error:
        problem = f"{options.file}: {error.strerror}"
    except ValueError as error:
        problem = str(error)
    else:
        return 0
    print(f"rmsprop inspect: error: {inspection.printable(problem)}", file=sys.stderr)
    return 1


def whole_number(minimum: int) -> Callable[[str], int]:
    """Return a function that reads a whole number of at least `minimum`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {minimum}, got {text!r}")
        return number

    return read


def picture_path(text: str) -> Path:
    """Read the path of a picture and make sure, before any work is done, that it can be written."""
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"expected a name that ends in .png, got {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r} to write {path.name!r} into")
    try:
        if path.exists():
            if not path.is_file():  # a pipe would wait for its reader
                raise OSError(None, "it is not a regular file")
            path.open("ab").close()  # opened for appending and closed again, a file keeps its content
        else:
            TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: {error.strerror}") from None
    return path
