"""Tables and sentences: what is bold, what is starred, and what is admitted."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch

from abmll.evaluation.statistics import Interval
from abmll.evaluation.summary import summarise
from abmll.reports import notation
from abmll.reports.per_task import ranking
from abmll.reports.tables import counts, markdown_table, text_table
from abmll.reports.verdicts import losses, wins
from tests.reports.reports_fake import fake_cells


@pytest.fixture(scope="module")
def summary():
    return summarise(fake_cells(support_sizes=(4, 64), methods=("abmll", "lora", "reptile")))


@pytest.mark.parametrize(
    ("value", "plain", "signed"),
    [
        (0.1234, "0.123", "+0.123"),
        (-0.1236, "−0.124", "−0.124"),
        (-0.0001, "0.000", "0.000"),
        (0.0001, "0.000", "0.000"),
        (math.nan, "–", "–"),
    ],
)
def test_numbers(value, plain, signed):
    assert notation.number(value) == plain
    assert notation.signed(value) == signed


def test_intervals():
    assert notation.mean_and_half_width(Interval(0.5, 0.4, 0.64)) == "0.500 ± 0.120"
    assert notation.mean_and_half_width(Interval(0.5, math.nan, math.nan)) == "0.500"
    assert notation.mean_and_bounds(Interval(-0.5, -0.6, 0.1)) == "−0.500 [−0.600, +0.100]"
    assert [notation.p_value(p) for p in (0.0001, 0.25, math.nan)] == ["p < 0.001", "p = 0.250", ""]


def test_text_table_is_plain_and_fits_a_terminal(summary, capsys):
    text = text_table(summary)
    assert "\x1b" not in text
    tables, _, remarks = text.partition("± half")
    assert max(map(len, tables.splitlines())) <= 88
    assert "4 support examples, 10 tasks × 3 seeds" in tables
    assert "difference to abmll on the same tasks and seeds" in tables
    assert "does not" not in tables
    assert "lower ECE than abmll" in remarks


def test_columns_are_aligned(summary):
    block = text_table(summary).split("\n\n")[0].splitlines()[1:]
    header, rows = block[0], block[2:]
    for label in ("Accuracy ↑", "NLL ↓", "ECE ↓", "Brier ↓"):
        end = header.index(label) + len(label)
        assert all(len(row.ljust(end)) >= end for row in rows)
    assert {row.index("±") for row in rows} == {rows[0].index("±")}


def test_winner_is_starred_and_bold_only_with_colour(summary):
    assert summary.winners[4, "nll"] == "abmll"
    estimate = notation.mean_and_half_width(summary.standing("abmll", 4).estimates["nll"])
    assert f"{estimate} *" in text_table(summary, color=False)
    assert re.search(rf"\x1b\[1m *{re.escape(estimate)} \*\x1b\[0m", text_table(summary, color=True))
    assert f"**{estimate}**" in markdown_table(summary)
    other = notation.mean_and_half_width(summary.standing("lora", 4).estimates["nll"])
    assert f"**{other}**" not in markdown_table(summary)


def test_markdown_escapes_and_counts_columns(summary):
    cells = fake_cells(support_sizes=(4,), methods=("abmll", "lora"))
    cells = [replace(cell, method=cell.method.replace("lora", "lo|ra")) for cell in cells]
    lines = [line for line in markdown_table(summarise(cells)).splitlines() if line.startswith("|")]
    assert any(r"lo\|ra" in line for line in lines)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {6}


def test_losses_name_the_better_method_and_how_sure_it_is(summary):
    sentences = losses(summary)
    row = summary.standing("reptile", 64)
    interval = row.differences["ece"].interval
    assert interval.high < 0
    expected = (
        f"On this suite reptile has lower ECE than abmll by {abs(interval.mean):.3f} with 64 support examples "
        f"(95 % interval {-interval.high:.3f} to {-interval.low:.3f})."
    )
    assert expected in sentences
    for sentence in sentences:  # nothing is admitted that is not so
        metric = {"accuracy": "accuracy", "NLL": "nll", "ECE": "ece", "Brier": "brier"}[sentence.split()[6]]
        size = int(re.search(r"with (\d+) support", sentence)[1])
        base = summary.standing("abmll", size).estimates[metric].mean
        assert summary.standing(sentence.split()[3], size).estimates[metric].mean < base


def test_what_no_digit_shows_is_no_win_and_no_loss():
    cells = fake_cells(support_sizes=(4,), methods=("abmll",))
    twice = summarise([*cells, *(replace(cell, method="lora") for cell in cells)])
    assert losses(twice) == []
    assert len(wins(twice, 4)) == 4
    assert all(sentence.endswith(", and so has lora.") for sentence in wins(twice, 4))


def test_wins_and_losses_cover_every_metric_once(summary):
    for size in (4, 64):
        lost = [s for s in losses(summary) if f"with {size} support" in s]
        won = wins(summary, size)
        assert len(lost) + len(won) == 4
        for sentence in won:
            assert "abmll has the best mean" in sentence
            assert "cannot be told apart" in sentence or "%" in sentence


def test_no_verdict_without_a_rival():
    summary = summarise(fake_cells(support_sizes=(4,), methods=("abmll",)))
    assert losses(summary) == wins(summary, 4) == []
    assert "difference to" not in text_table(summary)
    no_baseline = summarise(fake_cells(support_sizes=(4,), methods=("lora",)), "abmll")
    assert losses(no_baseline) == wins(no_baseline, 4) == []
    assert "no predictions of abmll" in text_table(no_baseline)


def test_unequal_sets_show_their_number_of_cells():
    cells = [c for c in fake_cells(support_sizes=(4,), methods=("abmll", "lora")) if (c.method, c.seed) != ("lora", 2)]
    summary = summarise(cells)
    assert counts(summary, 4) is None
    text = text_table(summary)
    assert "unequal sets of tasks and seeds" in text
    assert re.search(r"lora .* 20$", text, re.MULTILINE)
    assert "lora lacks 10 of 30" in text


@pytest.mark.parametrize("lacking", [(), (("lora", 0, "entailment"), ("reptile", 1, "topic of headline"))])
def test_the_tables_ranks_are_those_of_the_critical_difference(lacking):
    cells = [c for c in fake_cells(seeds=(0, 1), support_sizes=(4,)) if (c.method, c.seed, c.task) not in lacking]
    summary = summarise(cells)
    found = ranking(summary, 4)
    assert dict(zip(found.methods, found.mean_ranks, strict=True)) == {
        r.method: r.ranks["nll"] for r in summary.standings
    }


def with_uniform(cells):
    """The cells, and those of uniform on the same rows."""
    firsts = {(c.seed, c.task, c.support_size): c for c in cells}.values()
    flat = [replace(c, method="uniform", log_probs=torch.zeros_like(c.log_probs[:1]).log_softmax(-1)) for c in firsts]
    return [*cells, *flat]


def blunted(cell):
    """Its confident mistakes made so dear that uniform is better."""
    return replace(cell, log_probs=(30 * cell.log_probs).log_softmax(-1))


@pytest.mark.parametrize("table", [text_table, markdown_table])
def test_a_table_in_which_nothing_beats_uniform_says_so_in_its_first_line(table):
    cells = [blunted(c) for c in fake_cells(support_sizes=(4,), methods=("abmll", "lora"))]
    summary = summarise(with_uniform(cells))
    first = table(summary).splitlines()[0]
    level = notation.number(summary.standing("uniform", 4).estimates["nll"].mean)
    assert first.startswith("Nothing here beats uniform: with 4 support examples no method has a clearly lower NLL")
    assert f"than {level}," in first
    assert "abmll †" in table(summary)
    assert "uniform †" not in table(summary)
    assert "† does not beat uniform" in table(summary)


def test_only_rows_that_do_not_beat_uniform_are_marked(summary):
    good = fake_cells(support_sizes=(64,), methods=("abmll",))
    bad = [blunted(c) for c in fake_cells(support_sizes=(64,), methods=("lora",))]
    text = text_table(summarise(with_uniform([*good, *bad])))
    assert not text.startswith("Nothing")
    assert "lora †" in text
    assert "abmll †" not in text


def test_chance_and_the_commonest_label_stand_under_every_table(summary):
    levels = summary.mean_levels(4)
    line = f"Chance {levels.chance:.3f}, commonest label {levels.majority:.3f} (accuracy); uniform"
    assert text_table(summary).count("Chance") == markdown_table(summary).count("Chance") == 2
    assert line in text_table(summary)
