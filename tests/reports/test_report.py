"""The HTML report: complete, self-contained, safe against its data, equal for equal input."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from reports_fake import TASKS, fake_cells, write_cells, write_training_log

from abmll.core.errors import AbmllError
from abmll.reports import learning
from abmll.reports.report import render_report

VOID = {"meta", "br", "link", "img", "hr", "input"}
EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Checks nesting while it reads, and gathers ids, references and visible text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open, self.ids, self.references, self.words, self.tags = [], [], set(), [], set()
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


def test_admits_what_it_does_not_win(tmp_path):
    """Names are swapped: what was the best method is now called lora."""
    cells = fake_cells(methods=("abmll", "lora"), seeds=(0, 1), support_sizes=(16,))
    for cell in cells:
        object.__setattr__(cell, "method", {"abmll": "lora", "lora": "abmll"}[cell.method])
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
    source = render_report(write_cells(tmp_path / "p.jsonl", fake_cells(**grid)), tmp_path / "r.html").read_text()
    text = Page(source).text
    assert "Before comparing" in text
    assert "There is one seed" in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    assert ("More support examples" in text) == (len(grid["support_sizes"]) > 1)


def test_missing_cells_are_told(tmp_path):
    cells = fake_cells(methods=("abmll", "lora"), seeds=(0, 1), support_sizes=(16,))
    cells = [c for c in cells if (c.method, c.task) != ("lora", "entailment")]
    text = Page(render_report(write_cells(tmp_path / "p.jsonl", cells), tmp_path / "r.html").read_text()).text
    assert "lora lacks 2 of 20 (task, seed) cells" in text
    assert "Cells" in text


def test_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
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


def test_imports_no_model_code():
    code = "import sys, abmll.reports.report; print({'transformers', 'peft'} & {m.split('.')[0] for m in sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


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
        with pytest.raises(AbmllError, match="cannot read the training log of abmll"):
            learning.read_curves("abmll", tmp_path / "absent.jsonl")
