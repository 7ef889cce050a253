"""Tables and pictures say what the results say, and the README what the committed results say."""

import io
import os
import re

import pytest

import report
import rmsprop
from harness import machine, pages, pictures, results, tables
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


@pytest.mark.parametrize("page", pages.SHOWN, ids=lambda page: page.name)
def test_the_figures_in_a_page_are_those_of_the_committed_results(page):
    committed = results.load(pages.COMMITTED)
    text = page.read_text(encoding="utf-8")
    assert text == pages.between(text, pages.SHOWN[page](committed))


@pytest.mark.parametrize("page", pages.SHOWN, ids=lambda page: page.name)
def test_every_figure_in_a_page_follows_the_results(page):
    committed, figures = results.load(pages.COMMITTED), pages.SHOWN[page]
    shown = figures(committed)
    changed = 0
    for entry in committed["results"]:
        for row in results.measured(entry).values():
            before, row["median_s"], row["vs_ours"] = dict(row), 2 * row["median_s"], 2 * row["vs_ours"]
            changed += figures(committed) != shown
            row.update(before)
    cells = [cell for line in shown.splitlines() if line.startswith("| ") for cell in cells_of(line)[1:]]
    assert changed >= sum(cell[0].isdigit() for cell in cells) > 10


def test_the_readme_names_the_command_of_its_figures():
    assert results.load(pages.COMMITTED)["command"] in pages.README.read_text(encoding="utf-8")


def test_the_picture_is_of_the_committed_results():
    assert f"Description\0{results.fingerprint(results.load(pages.COMMITTED))}".encode() in pages.PICTURE.read_bytes()


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


# ---- Every figure, from made-up results ------------------------------------------------------------------------------

SLOW_TRAFFIC = {
    "limit: memory traffic": 2.0,
    "limit: root and quotient": 1.0,
    "rmsprop": 2.5,
    "rmsprop.torch RMSprop": 5.0,
    "torch RMSprop": 20.0,
    "torch Adagrad, fused": 10.0,
    "torch SGD, fused": 4.0,
}


def rows_of(lines):
    return [cells_of(line) for line in lines if line.startswith("| ")]


@pytest.mark.parametrize(("times", "limit"), [(TIMES, "1,000 µs"), (SLOW_TRAFFIC, "2.00 ms")])
def test_the_readme_shows_times_ratios_to_ours_and_the_slower_limit(times, limit):
    figures = pages.readme_figures(made_up({**times, "NumPy expression": 0.5 * times["rmsprop"]}))
    head, _, row = rows_of(figures.splitlines())
    shown = dict(zip(head, row, strict=True))
    assert shown["one step, float32"] == "title of 16M"
    assert shown["limit"] == limit.replace("1,000 µs", "1.00 ms")
    assert shown["rmsprop"] == tables.readable(times["rmsprop"] * 1e-3)
    ratio = times["torch RMSprop"] / times["rmsprop"]
    assert shown["torch RMSprop"] == f"{tables.readable(times['torch RMSprop'] * 1e-3)} ({ratio:.2f}x)"
    assert shown["NumPy"].endswith(" (0.50x)")


def test_workloads_and_rules_stay_apart():
    plain, other = made_up(workloads=("16M", "mlp")), made_up({**TIMES, "rmsprop": 100.0}, rule="centered-momentum")
    plain["results"] += other["results"]
    plain["results"][1]["rows"][2]["median_s"] = 7.0
    rows = rows_of(pages.readme_figures(plain).splitlines())
    assert [(row[0], row[1]) for row in rows[2:]] == [("title of 16M", "1.25 ms"), ("title of mlp", "7.00 s")]
    head, rows = tables.summary_rows(plain, "plain")
    assert head[1:] == ["16M", "mlp"]
    assert [row for row in rows if row[0] == "rmsprop"] == [["rmsprop", "1.25 ms (1.00x)", "7.00 s (1.00x)"]]
    head, rows = tables.summary_rows(plain, "centered-momentum")
    assert [row for row in rows if row[0] == "torch RMSprop"] == [["torch RMSprop", "8.00 ms (0.08x)"]]


def test_a_peer_without_figures_has_a_dash():
    found = made_up(workloads=("16M", "mlp"))
    del found["results"][1]["rows"][3]
    head, _, *rows = rows_of(pages.readme_figures(found).splitlines())
    assert [row[head.index("torch RMSprop")] for row in rows] == ["8.00 ms (6.40x)", "-"]
    assert rows[0][-1] == "1.00 ms"
    del found["results"][0]["rows"][0]
    assert rows_of(pages.readme_figures(found).splitlines())[2][-1] == "-"


def test_the_terminal_shows_what_the_page_shows():
    console = pytest.importorskip("rich.console").Console(record=True, width=120, file=io.StringIO())
    (entry,) = made_up()["results"]
    tables.print_workload(entry, console)
    tables.print_end(made_up(), console)
    lines = [" ".join(re.sub("[│┃]", " ", line).split()) for line in console.export_text().splitlines()]
    assert "rmsprop 1.25 ms 1.24 ms to 1.26 ms 1.00x 1.25x" in lines
    assert "torch RMSprop 8.00 ms 7.92 ms to 8.08 ms 6.40x 8.00x" in lines
    assert "limit: memory traffic 800 µs 792 µs to 808 µs 0.64x 0.80x" in lines
    assert "JAX optax, jit not measured" in lines
    assert "torch RMSprop plain another formula 7 1e-06 eps is outside" in lines


def test_bars_lines_of_quartiles_and_the_line_of_the_limit_are_at_their_ratios():
    axes = pytest.importorskip("matplotlib.figure").Figure().add_subplot()
    (entry,) = made_up(SLOW_TRAFFIC, spread=0.1)["results"]
    pictures.draw_workload(axes, entry, ["rmsprop", "torch RMSprop", "torch SGD, fused"], has_labels=True)
    assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches] == [
        (1, pytest.approx(1.25)),
        (1, pytest.approx(10)),
        (1, pytest.approx(2)),
    ]
    *quartiles, limit = [list(line.get_xdata()) for line in axes.get_lines()]
    assert quartiles == [pytest.approx([ratio * 0.95, ratio * 1.05]) for ratio in (1.25, 10, 2)]
    assert limit == [1, 1]
    assert [axes.patches[i].get_facecolor() == axes.patches[0].get_facecolor() for i in range(3)] == [
        True,
        False,
        False,
    ]
    assert axes.get_xlabel() == "times the limit"
    low, high = axes.get_ylim()
    assert low > high, "the first peer is not on top"
    assert axes.get_xlim()[1] > 10 * 1.05


def test_without_a_limit_a_bar_is_a_ratio_to_the_fastest():
    axes = pytest.importorskip("matplotlib.figure").Figure().add_subplot()
    (entry,) = made_up({"rmsprop": 2.0, "torch RMSprop": 8.0})["results"]
    pictures.draw_workload(axes, entry, ["rmsprop", "torch RMSprop"], has_labels=True)
    assert [bar.get_x() + bar.get_width() for bar in axes.patches] == [1, 4]
    assert axes.get_xlabel() == "times the fastest"


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "0.12"), (0.996, "1.00"), (9.996, "10.0"), (99.96, "100"), (12345, "12,300")]
)
def test_ratios_have_three_digits_and_no_exponent(value, text):
    assert tables.in_digits(value) == text
    assert tables.times(value) == text + "x"


def test_a_size_is_in_mib():
    assert tables.in_mib(3 << 20) == "3.00 MiB"
    assert tables.in_mib(None) == ""


def test_pytorch_users_see_ratios_to_the_adapter():
    found = made_up(SLOW_TRAFFIC, workloads=("64M", "16", "16M"), versions={"torch": "9.9"})
    head, _, *rows = rows_of(pages.pytorch_figures(found).splitlines())
    assert head[1:3] == ["`rmsprop.torch`", "`torch.optim.RMSprop`"]
    assert rows == [[f"title of {workload}", "5.00 ms", "4.00x", "2.00x", "0.80x"] for workload in ("16", "64M")]
    assert "PyTorch 9.9, 4 threads on" in pages.pytorch_figures(found)


def test_a_run_without_pytorch_has_no_rows_for_its_users():
    found = made_up()
    del found["versions"]["torch"]
    assert len(rows_of(pages.pytorch_figures(found).splitlines())) == 2


# ---- The program -----------------------------------------------------------------------------------------------------


@pytest.fixture
def made_up_file(tmp_path, monkeypatch):
    """Return a file of made-up results, with pages of its own to put their figures into."""
    results.save(made_up(), tmp_path / "results.json")
    (tmp_path / "page.md").write_text(f"{pages.BEGIN}\n{pages.END}\n")
    monkeypatch.setattr(pages, "SHOWN", {tmp_path / "page.md": pages.readme_figures})
    monkeypatch.setattr(pages, "PICTURE", tmp_path / "picture.png")
    return tmp_path / "results.json"


def test_the_program_prints_the_page(made_up_file, capsys):
    assert report.main([str(made_up_file)]) == 0
    assert capsys.readouterr().out == tables.markdown(made_up())
    assert report.main([]) == 0
    assert capsys.readouterr().out == tables.markdown(results.load(pages.COMMITTED))


def test_the_program_writes_pages_and_pictures(made_up_file, tmp_path, capsys):
    assert report.main([str(made_up_file), "--picture", str(tmp_path / "other.png")]) == 0
    assert not pages.PICTURE.exists()
    assert report.main([str(made_up_file), "--readme"]) == 0
    assert pages.readme_figures(made_up()) in (tmp_path / "page.md").read_text(encoding="utf-8")
    assert pages.PICTURE.read_bytes() == (tmp_path / "other.png").read_bytes()
    assert capsys.readouterr().out == ""


def test_a_file_that_holds_no_results_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as raised:
        report.main([str(tmp_path / "missing.json")])
    assert raised.value.code == 2
    assert "missing.json" in capsys.readouterr().err


def test_a_machine_is_described_with_the_sizes_of_its_caches(tmp_path, monkeypatch):
    for index, (level, kind, size) in enumerate(
        [(1, "Data", "32K"), (1, "Instruction", "64K"), (2, "Unified", "1024K")]
    ):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, value in {"level": level, "type": kind, "size": size}.items():
            (folder / name).write_text(f"{value}\n")
    monkeypatch.setattr(machine, "CPU", tmp_path)
    assert machine.caches() == {"L1": 32 << 10, "L2": 1 << 20}
    described = machine.describe()
    assert (described["threads"], described["cores"]) == (rmsprop.get_num_threads(), os.cpu_count())
    assert machine.in_words({"threads": 3, "cores": 4, "cpu": "a CPU", "instruction_set": "baseline"}) == (
        "3 threads on 4 cores of a CPU, baseline"
    )
