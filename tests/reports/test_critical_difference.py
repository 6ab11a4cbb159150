"""The critical-difference diagram, read back from its SVG: every rank, bar and ruler is where the numbers say."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from abmll.evaluation.ranking import nemenyi_difference, rank_methods
from abmll.evaluation.statistics import midranks
from abmll.reports.figures import critical_difference


class Diagram:
    """The lines and words of a diagram, horizontal places turned back into ranks by the axis's own ticks."""

    def __init__(self, svg: str) -> None:
        root = ElementTree.fromstring(svg)
        self.texts = {
            "".join(node.itertext()): (float(node.get("x")), float(node.get("y")), node.get("style"))
            for node in root.iter("text")
        }
        lines: dict[Any, Any] = {}
        for path in root.iter("path"):
            if "clip-path" in path.attrib:
                width = re.search(r"stroke-width: ([\d.]+)", path.get("style"))
                points = re.findall(r"[ML] (\S+) (\S+)", path.get("d"))
                lines.setdefault(width[1] if width else "1", []).append([(float(x), float(y)) for x, y in points])
        (self.left, self.axis_height), (self.right, _) = lines["1"][0]
        self.count = len(lines["1"]) - 1
        self.ticks = [line[0][0] for line in lines["1"][1:]]
        (self.ruler,), self.ranks, self.bars = lines["1.6"], lines["0.9"], lines.get("3", [])

    def rank_at(self, x: float) -> float:
        return 1 + (x - self.left) / (self.right - self.left) * (self.count - 1)


def values_of(num_tasks, num_methods, *, spread, seed=0):
    generator = np.random.default_rng(seed)
    return np.arange(num_methods) * spread + generator.standard_normal((num_tasks, num_methods))


TIES = np.array([[1.0, 1.0, 3.0, 4.0], [2.0, 2.0, 3.0, 3.0], [0.0, 0.0, 5.0, 5.0]])
CASES = {
    "all-apart": values_of(400, 5, spread=1.0),
    "overlapping-bars": values_of(40, 6, spread=0.45),
    "nothing-apart": values_of(8, 7, spread=0.0),
    "ties": TIES,
    "all-tied": np.ones((5, 3)),
    "two-alike": values_of(3, 2, spread=0.0),  # too few tasks: the critical difference is wider than the axis
    "two-apart": np.tile([1.0, 2.0], (10, 1)),
    "twenty": values_of(15, 20, spread=0.3),
}


@pytest.mark.parametrize("case", CASES)
def test_everything_is_where_the_ranks_are(case):
    values = CASES[case]
    names = [f"method-{i}" for i in range(values.shape[1])]
    # the numbers, from their definitions and not from the ranking that was drawn
    means = dict(zip(names, midranks(values).mean(0), strict=True))
    width = nemenyi_difference(*values.shape[::-1])
    alike = {frozenset(pair) for pair in combinations(names, 2) if abs(means[pair[0]] - means[pair[1]]) <= width}

    diagram = Diagram(critical_difference(rank_methods(names, values, higher_is_better=False), "nll"))

    assert [round(diagram.rank_at(x), 4) for x in diagram.ticks] == list(range(1, len(names) + 1))
    shown = diagram.rank_at(diagram.ruler[1][0]) - diagram.rank_at(diagram.ruler[0][0])
    assert shown == pytest.approx(min(width, len(names) - 1), abs=1e-3)
    cut = f"critical difference {width:.2f}" + (", wider than this axis" if width > len(names) - 1 else "")
    assert cut in diagram.texts

    # a line from every rank, which ends beside that method's own words, on a height of its own
    heights: dict[bool, list[Any]] = {left: [] for left in (True, False)}
    assert len(diagram.ranks) == len(names)
    for name, mean in means.items():
        left = f"{name} {mean:.2f}" in diagram.texts
        x, y, style = diagram.texts[f"{name} {mean:.2f}" if left else f"{mean:.2f} {name}"]
        assert ("text-anchor: end" in style) == left
        (line,) = [line for line in diagram.ranks if abs(line[2][1] - y) < 4 and (line[2][0] < diagram.left) == left]
        assert line[0][1] == diagram.axis_height
        assert diagram.rank_at(line[0][0]) == pytest.approx(mean, abs=1e-3)
        assert line[0][0] == line[1][0]
        assert (x < line[2][0]) == left
        heights[left].append((mean, y))
    better = sorted(means.values())[: len(heights[True])]
    assert len(heights[True]) - len(heights[False]) in (0, 1)
    assert max(better) <= min(sorted(means.values())[len(better) :])
    # each half goes down from the outermost to the innermost rank, a line of text apart, so that no lines cross
    for left, own in heights.items():
        inward = [y for _, y in sorted(own, key=lambda pair: (pair[0] if left else -pair[0], pair[1]))]
        assert all(lower - upper > 8 for upper, lower in pairwise(inward))

    # bars join exactly the pairs within the critical difference; none is drawn twice or inside another
    margin, joined, spans = 0.011 * (len(names) - 1), set(), []
    for (start, height), (end, _) in diagram.bars:
        low, high = diagram.rank_at(start) + margin - 2e-3, diagram.rank_at(end) - margin + 2e-3
        members = [name for name, mean in means.items() if low - 2e-2 <= mean <= high + 2e-2]
        joined |= {frozenset(pair) for pair in combinations(members, 2)}
        assert diagram.axis_height < height < min(y for own in heights.values() for _, y in own)
        spans.append((low, high))
    assert joined == alike
    assert len({height for (_, height), _ in diagram.bars}) == len(diagram.bars)
    assert not [1 for a in spans for b in spans if a is not b and b[0] <= a[0] and a[1] <= b[1]]


def test_the_best_is_at_the_left_whichever_end_is_better():
    values = np.tile([0.1, 0.9, 0.5], (6, 1)) + np.arange(6)[:, None] / 100
    found = {
        better: Diagram(critical_difference(rank_methods(["a", "b", "c"], values, better), "nll")).texts
        for better in (True, False)
    }
    assert {"b 1.00", "c 2.00", "3.00 a"} <= found[True].keys()
    assert {"a 1.00", "c 2.00", "3.00 b"} <= found[False].keys()
