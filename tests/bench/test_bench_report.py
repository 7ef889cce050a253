"""Tables and pictures say what the results say, and the README what the committed results say."""

import re

import pytest

from harness import pages, pictures, results, tables
from made_up_results import TIMES, made_up

SECONDS = {"s": 1, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}


def cells_of(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def seconds(cell):
    number, unit = re.match(r"([\d.,]+) (\S+)", cell).groups()
    return float(number.replace(",", "")) * SECONDS[unit]


def test_the_page_has_the_figures_of_the_results():
    found = made_up(workloads=("16M", "mlp"))
    page = tables.markdown(found)
    for entry in found["results"]:
        section = page.partition(f"## {entry['title']}, plain\n")[2].partition("\n## ")[0]
        rows = {cells_of(line)[0]: cells_of(line) for line in section.splitlines() if line.startswith("|")}
        for name, row in results.measured(entry).items():
            cells = rows[name]
            assert seconds(cells[1]) == pytest.approx(row["median_s"], rel=5e-3)
            quartiles = [seconds(cell) for cell in cells[2].split(" to ")]
            assert quartiles == pytest.approx([row["q1_s"], row["q3_s"]], rel=5e-3)
            ratios = [float(cell.rstrip("x")) for cell in cells[3:5]]
            assert ratios == pytest.approx([row["vs_ours"], row["vs_limit"]], rel=5e-3)
            assert cells[5:] == ["64.0 MiB", "0.00 MiB", "192 MiB"]


def test_the_page_names_who_is_absent_and_what_brings_it():
    page = tables.markdown(made_up())
    assert "| JAX optax, jit | everywhere | jax is not installed | `pip install jax optax` |" in page


def test_the_page_says_where_and_why_formulas_differ():
    assert "| torch RMSprop | plain | another formula | 7 | 1e-06 | eps is outside |" in tables.markdown(made_up())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (27.04e-9, "27.0 ns"),
        (5.55e-7, "555 ns"),
        (1.048e-6, "1.05 µs"),
        (0.0137, "13.7 ms"),
        (0.9999, "1,000 ms"),
        (2, "2.00 s"),
    ],
)
def test_times_have_three_digits_and_a_unit(value, text):
    assert tables.readable(value) == text


def test_every_peer_and_the_limit_are_in_the_picture(tmp_path):
    matplotlib_figure = pytest.importorskip("matplotlib.figure")
    axes = matplotlib_figure.Figure().add_subplot()
    (entry,) = made_up()["results"]
    names = [name for name in TIMES if name not in pictures.LIMITS]
    pictures.draw_workload(axes, entry, [*names, "absent"], has_labels=True)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rmsprop", "torch RMSprop", "absent"]
    assert [round(bar.get_x() + bar.get_width(), 6) for bar in axes.patches] == [1.25, 8.0]
    assert [text.get_text() for text in axes.texts] == ["1.25", "8.00", "not measured"]
    pictures.draw(made_up(workloads=("16M", "mlp")), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_without_a_place_for_the_figures_is_an_error():
    with pytest.raises(results.ResultsError, match="no place for the figures"):
        pages.between("no markers", "figures")


def test_the_figures_of_a_page_are_replaced_and_nothing_else():
    page = f"before\n{pages.BEGIN}\nold\n{pages.END}\nafter\n"
    assert pages.between(page, "new") == f"before\n{pages.BEGIN}\nnew\n{pages.END}\nafter\n"


def test_the_figures_in_the_readme_are_those_of_the_committed_results():
    committed = results.load(pages.COMMITTED)
    readme = pages.README.read_text(encoding="utf-8")
    assert readme == pages.between(readme, pages.readme_figures(committed))
    assert committed["command"] in readme


def test_the_readme_says_how_near_the_limit_the_committed_results_are():
    paths = pages.COMMITTED, pages.COMMITTED.with_name("compare-x86-64-v3.json")
    shares = [
        1 / results.measured(results.entry_for(results.load(path), "resnet50", "plain"))["rmsprop"]["vs_limit"]
        for path in paths
    ]
    readme = " ".join(pages.README.read_text(encoding="utf-8").split())
    assert (
        "ResNet-50's step comes to {:.2f} of the limit; without AVX-512, on Zen 3, to {:.2f} ".format(*shares) in readme
    )
