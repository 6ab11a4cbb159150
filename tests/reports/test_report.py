"""The HTML report: complete, self-contained, safe against its data, equal for equal input."""

from __future__ import annotations

import importlib
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from abmll.config import about_run, parse_config
from abmll.config.methods import default_options
from abmll.core.errors import AbmllError
from abmll.evaluation.summary import summarise
from abmll.reports import costs, figures, learning, notation
from abmll.reports.notation import mean_and_half_width
from abmll.reports.report import render_report
from tests.forked import start
from tests.reports.reports_fake import TASKS, fake_cells, write_cells, write_training_log

VOID = {"meta", "br", "link", "img", "hr", "input"}
THREE = ("entailment", "stance on climate", "topic of headline")
EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Checks nesting while it reads, and gathers ids, references and visible text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str | None] = []
        self.references: set[str] = set()
        self.words: list[str] = []
        self.tags: set[str] = set()
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            self.references.update(re.findall(r"url\(#([^)]*)\)", value or ""))
            if name.endswith("href") or name == "src":
                self.references.add(value.removeprefix("#"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    predictions = write_cells(
        folder / "predictions.jsonl",
        fake_cells(methods=("abmll", "lora", "reptile"), seeds=(0, 1), support_sizes=(4, 16)),
    )
    logs = {f"abmll/{seed}": write_training_log(folder / f"abmll{seed}.jsonl", seed, 0.9) for seed in (0, 1)}
    info = {
        "title": f"Trial & error {EVIL}",
        "commit": "abc123",
        "seeds": [0, 1],
        "config": {"training": {"num_steps": 300}, "note": EVIL},
        "held_out_families": ["topic"],
    }
    return predictions, logs, info


@pytest.fixture(scope="module")
def source(inputs, tmp_path_factory):
    predictions, logs, info = inputs
    out = tmp_path_factory.mktemp("out") / "new" / "report.html"
    assert render_report(predictions, out, logs, info) == out
    assert [p.name for p in out.parent.iterdir()] == ["report.html"]
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def test_is_well_formed_and_every_reference_is_inside(page):
    assert len(page.ids) == len(set(page.ids))
    assert page.references <= set(page.ids)


def test_loads_nothing_and_runs_nothing(source, page):
    assert not {"script", "link", "img", "iframe", "object"} & page.tags
    addresses = set(re.findall(r"https?://[^\"'\s)]*", source))
    assert all(address.startswith("http://www.w3.org/") for address in addresses)  # XML namespaces
    assert "@import" not in source


def test_has_every_part(page):
    for heading in (
        "In short", "Results", "More support examples", "Calibration", "Knowing when not to answer", "Task by task",
        "Learning curves", "What the numbers mean", "What was run",
    ):  # fmt: skip
        assert heading in page.text
    for fact in ("abc123", "training.num_steps", "300", "10 in 5 families", "0, 1"):
        assert fact in page.text
    assert page.text.count("pooled ECE") == 3
    assert page.text.count("family held out") == 2 * 2 * 2  # stance by its cells, topic by run_info; tables and sizes


def test_data_is_escaped(source, page):
    assert EVIL not in source
    assert f"Trial & error {EVIL}" in page.text
    for task in TASKS:
        assert task in page.text
    assert "<b>or</b>" not in source


def test_colours_are_variables_of_the_page(source):
    """A colour that matplotlib wrote would not follow the dark mode."""
    body = source[source.index("</style>") :]
    assert re.findall(r"#[0-9a-fA-F]{6}\b", body) == []
    used = set(re.findall(r"var\(--([a-z0-9]+)\)", source))
    for mode in ("(prefers-color-scheme: dark)", "print"):
        block = source[source.index(f"@media {mode}") :]
        defined = set(re.findall(r"--([a-z0-9]+):", block[: block.index("}\n}")]))
        assert used - {"shade"} <= defined, mode


def test_equal_input_gives_equal_bytes(inputs, source, tmp_path):
    predictions, logs, info = inputs
    assert render_report(predictions, tmp_path / "again.html", logs, info).read_text(encoding="utf-8") == source


def test_admits_what_it_does_not_win(tmp_path, undrawn):
    """Names are swapped: what was the best method is now called lora."""
    cells = fake_cells(methods=("abmll", "lora"), seeds=(0, 1), support_sizes=(16,))
    cells = [replace(cell, method={"abmll": "lora", "lora": "abmll"}[cell.method]) for cell in cells]
    source = render_report(write_cells(tmp_path / "p.jsonl", cells), tmp_path / "r.html").read_text()
    text = Page(source).text
    assert "Where abmll does not win" in text
    for metric in ("higher Accuracy", "lower NLL", "lower ECE", "lower Brier"):
        assert f"On this suite lora has {metric} than abmll by" in text
    assert "has the best mean" not in text


@pytest.mark.parametrize(
    "grid",
    [
        {"methods": ("abmll",), "seeds": (0,), "tasks": ("entailment",), "support_sizes": (16,)},
        {
            "methods": ("lora", "reptile"),
            "seeds": (0,),
            "tasks": ("entailment", "topic of headline"),
            "support_sizes": (0, 4),
        },
    ],
    ids=["one cell", "no baseline"],
)
def test_small_inputs(tmp_path, grid):
    predictions = write_cells(tmp_path / "p.jsonl", fake_cells(**grid))
    source = render_report(predictions, tmp_path / "r.html", baseline="abmll").read_text()
    text = Page(source).text
    assert "Before comparing" in text
    assert ("There is one task and one seed" if len(grid["tasks"]) == 1 else "There is one seed") in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    assert ("More support examples" in text) == (len(grid["support_sizes"]) > 1)


def test_missing_cells_are_told(tmp_path, undrawn):
    cells = fake_cells(methods=("abmll", "lora"), tasks=THREE, seeds=(0, 1), support_sizes=(16,))
    cells = [c for c in cells if (c.method, c.task) != ("lora", "entailment")]
    text = Page(render_report(write_cells(tmp_path / "p.jsonl", cells), tmp_path / "r.html").read_text()).text
    assert "lora lacks 2 of 6 (task, seed) cells" in text
    assert "Cells" in text


@pytest.mark.parametrize("line", ["not json", "[" * 10_000, '{"step": 1, "loss": ' + "9" * 4000 + "}", '{"step": NaN}'])
def test_a_damaged_log_does_not_stop_it(tmp_path, capsys, line, undrawn):
    cells = fake_cells(methods=("abmll",), seeds=(0,), tasks=("entailment",), support_sizes=(16,))
    log, whole = tmp_path / "training.jsonl", tmp_path / "whole.jsonl"
    log.write_text(f'{line}\n{{"step": 2, "loss": 1.0}}\n')
    write_training_log(whole, 0, 1.0)
    logs = {f"abmll/{len(line)}": log, "abmll/1": whole}
    source = render_report(write_cells(tmp_path / "p.jsonl", cells), tmp_path / "r.html", logs).read_text()
    assert "Learning" in Page(source).text
    assert f"made without the training log of abmll/{len(line)}: " in capsys.readouterr().err


def test_failed_write_leaves_the_old_report(tmp_path, monkeypatch, undrawn):
    cells = fake_cells(methods=("abmll",), seeds=(0,), tasks=("entailment",), support_sizes=(16,))
    predictions = write_cells(tmp_path / "in" / "p.jsonl", cells)
    out = tmp_path / "out" / "r.html"
    out.parent.mkdir()
    out.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(AbmllError, match=r"cannot write .*r.html: No space left"):
        render_report(predictions, out)
    assert out.read_text() == "old"
    assert [p.name for p in out.parent.iterdir()] == ["r.html"]


def test_no_predictions(tmp_path):
    with pytest.raises(AbmllError, match="cannot read predictions"):
        render_report(tmp_path / "absent.jsonl", tmp_path / "r.html")


def import_reports(told: Path) -> None:
    """In a process that has torch already, and forgets all else that could import a model."""
    ours = ("abmll", "transformers", "peft")
    for name in list(sys.modules):
        if name.partition(".")[0] in ours:
            del sys.modules[name]
    importlib.import_module("abmll.reports.report")
    importlib.import_module("abmll.reports.comparison")
    told.write_text(" ".join(sorted({name.partition(".")[0] for name in sys.modules} & set(ours))))


def test_imports_no_model_code(tmp_path, forkserver):
    process = start(import_reports, tmp_path / "told")
    process.join()
    assert (process.exitcode, (tmp_path / "told").read_text()) == (0, "abmll")


class TestLearningCurves:
    def test_loss_is_the_first_known_field_and_gaps_are_left_out(self, tmp_path):
        path = tmp_path / "training.jsonl"
        path.write_text(
            '{"step": 1, "nll": 2.0, "inner_loss": 9, "kl": 0.5}\n'
            '{"step": 2, "nll": null, "kl": 0.4}\n{"step": 3, "nll": 1.0, "kl": 0.3}\n{"step": 4, "nl'
        )
        nll, kl = learning.read_curves("abmll/0", path)
        assert (nll.quantity, nll.steps.tolist(), nll.values.tolist()) == ("nll", [1, 3], [2.0, 1.0])
        assert (kl.quantity, kl.values.tolist()) == ("kl", [0.5, 0.4, 0.3])

    def test_running_mean(self):
        curve = learning.Curve("r", "loss", np.arange(120.0), np.arange(120.0))
        assert curve.smooth[60] == 60
        assert curve.smooth[0] == sum(range(4)) / 4  # 120/40 = 3 values on the one side there is
        assert curve.smooth[-1] == sum(range(116, 120)) / 4

    def test_runs_are_grouped_by_method_the_longest_name_first(self):
        curves = [learning.Curve(run, "loss", None, None) for run in ("abmll/0", "abmll-paper/0", "abmll 1", "other")]
        groups = learning.by_method(curves, ["abmll", "abmll-paper"])
        assert {name: len(group) for name, group in groups.items()} == {"abmll": 2, "abmll-paper": 1, "other": 1}

    @pytest.mark.parametrize("line", ["not json", "[1]", '{"loss": 1}', '{"step": "x"}'])
    def test_damaged_line_is_named(self, tmp_path, line):
        path = tmp_path / "training.jsonl"
        path.write_text(f'{line}\n{{"step": 2, "loss": 1.0}}\n')
        with pytest.raises(AbmllError, match=r"training.jsonl, line 1: it is not a JSON object"):
            learning.read_curves("abmll", path)

    def test_absent_file_is_named(self, tmp_path):
        with pytest.raises(AbmllError, match=r"there is no file .*absent\.jsonl"):
            learning.read_curves("abmll", tmp_path / "absent.jsonl")


def test_columns_of_dashes_are_left_out():
    rows = [["Method", "a", "b"], ["x", "–", "1"], ["y", "–", "–"]]
    assert costs.without_dashes(rows) == [["Method", "b"], ["x", "1"], ["y", "–"]]


def test_values_appear_on_hover_in_every_figure(page, source):
    """One title a point or bar, inside the figure that it belongs to; the number is that of the table."""
    titles = re.findall(r"<title>([^<]*)</title>", source)
    cells = fake_cells(methods=("abmll",), seeds=(0, 1), support_sizes=(4, 16))
    summary = summarise(cells)
    expected = mean_and_half_width(summary.standing("abmll", 16).estimates["nll"])
    assert f"abmll, 16 examples: {expected}" in titles
    assert any(title.startswith("confidence 0.") and "predictions (" in title for title in titles)
    assert any(re.fullmatch(r"abmll: error rate [\d.]+% of the surest 50%", title) for title in titles)
    assert any(re.fullmatch(r"abmll/0, step 299: [\d.]+", title) for title in titles)


def test_a_text_lies_over_what_it_is_about():
    cells = fake_cells(methods=("abmll", "lora"), seeds=(0,), support_sizes=(16,))
    pooled = {m: figures.pooled([c for c in cells if c.method == m]) for m in ("abmll", "lora")}
    svg = figures.risk_coverage(pooled, figures.looks(("abmll", "lora")))
    lines = [
        [tuple(map(float, point)) for point in re.findall(r"[ML] (\S+) (\S+)", path)]
        for path in re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="fill: none; stroke[^"]*var\(--s', svg)
    ]
    tips = re.findall(
        r'<rect x="(\S+)" y="(\S+)" width="11.0" height="11.0"><title>(\w+): .* of the surest 100%</title>', svg
    )
    assert [method for *_, method in tips] == ["abmll", "lora"]
    for line, (x, y, _) in zip(lines, tips, strict=True):
        assert (float(x) + 5.5, float(y) + 5.5) == pytest.approx(line[-1], abs=0.06)


def test_panels_that_are_compared_share_their_axes(tmp_path):
    curves = [learning.Curve("a/0", "loss", np.arange(50.0), np.linspace(3, 1, 50))]
    curves += [learning.Curve("b/0", "loss", np.arange(50.0), np.linspace(9, 8, 50))]
    low, high = figures.bulk(curves)
    assert low < 1.1
    assert high > 8.9
    cells = fake_cells(methods=("abmll", "lora"), seeds=(0,), support_sizes=(16,))
    pooled = {m: figures.pooled([c for c in cells if c.method == m]) for m in ("abmll", "lora")}
    peak = figures.peak_share(pooled)
    looks = figures.looks(("abmll", "lora"))
    drawn = [figures.reliability(m, *pooled[m], looks[m], peak) for m in pooled]
    assert all(f">{peak:.0%}<" in figure for figure in drawn)


def test_what_was_run_stands_at_the_top(tmp_path, undrawn):
    cells = fake_cells(methods=("abmll", "lora"), tasks=THREE, seeds=(0, 1), support_sizes=(16,))
    logs = {f"abmll/seed-{seed}": write_training_log(tmp_path / f"{seed}.jsonl", seed, 0.9) for seed in (0, 1)}
    config = parse_config({"method": {"name": ["abmll", "lora"]}, "prompt": {"answer": "text"}})
    info = about_run(config)
    predictions = write_cells(tmp_path / "p.jsonl", cells)
    text = Page(render_report(predictions, tmp_path / "r.html", logs, info).read_text()).text
    assert "What was compared" in text
    for fact in ("default", "the answer's text", "Outer steps", "Inner rate", "Training, s a seed"):
        assert fact in text
    assert f"{300 * 0.2:.3g}" in text, "seconds of training, from the log"
    assert f"{default_options('abmll')['outer_learning_rate']:g}" in text
    assert "chance" in text
    info |= about_run(parse_config({"data": {"suite": "s", "max_rows": 48}, "adapter": {"upper_layers": 8}}))
    info |= {"command": ["abmll", "report", "my file"], "commit": None}
    text = Page(render_report(predictions, tmp_path / "r.html", logs, info).read_text()).text
    assert 'class="words">Other options<' in (tmp_path / "r.html").read_text(), "which wraps, and is no number"
    assert "at most 48 rows a task" in text
    assert "all-linear, the last 8 blocks" in text
    assert "abmll report 'my file'" in text
    assert "None" not in text


def test_small_amounts_are_not_written_as_powers_of_ten():
    assert [notation.amount(value) for value in (0, 2.15e-05, 0.0139, 1.2345, 999.4, 5091.3, 2e6)] == [
        "0", "< 0.001", "0.0139", "1.23", "999", "5091", "2000000"
    ]  # fmt: skip


def test_kl_is_shown_per_token_with_a_word_on_it(tmp_path, undrawn):
    path = tmp_path / "training.jsonl"
    path.write_text("".join(f'{{"step": {i}, "nll": 1.0, "kl": {500 - i}, "num_tokens": 50}}\n' for i in range(1, 40)))
    _, kl = learning.read_curves("abmll/0", path)
    assert kl.quantity == "KL per token"
    assert kl.values[0] == pytest.approx(499 / 50)
    cells = fake_cells(methods=("abmll",), seeds=(0,), support_sizes=(16,))
    page = render_report(write_cells(tmp_path / "p.jsonl", cells), tmp_path / "r.html", {"abmll/0": path})
    text = Page(page.read_text()).text
    assert "how far a task’s adapted Gaussian lies from the prior" in text


def test_mistakes_and_confusions_are_shown_where_texts_and_classes_are_known(tmp_path, undrawn):
    cells = fake_cells(methods=("abmll", "lora"), seeds=(0,), tasks=("entailment",), support_sizes=(16,))
    cells = [replace(c, extra={**c.extra, "choices": ["no", "yes", "maybe"]}) for c in cells]
    predictions = write_cells(tmp_path / "p.jsonl", cells)
    lines = [
        json.dumps({"task": "entailment", "id": f"entailment/{i}", "question": "", "text": f"row {i} {EVIL}",
                    "choices": ["no", "yes", "maybe"]}) for i in range(120)
    ]  # fmt: skip
    without = render_report(predictions, tmp_path / "r.html").read_text()
    assert "sure and wrong" not in without
    assert "Which classes abmll takes for which" in without
    (tmp_path / "queries.jsonl").write_text("\n".join(lines))
    source = render_report(predictions, tmp_path / "r.html").read_text()
    assert "Where abmll was sure and wrong" in source
    assert EVIL not in source
    assert re.search(r"row \d+ ", Page(source).text)
