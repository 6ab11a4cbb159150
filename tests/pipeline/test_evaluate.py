"""evaluate_run: every cell once, whatever interrupts it, and a report from the cells alone."""

from __future__ import annotations

import pytest
import torch
from stages import HELD_OUT, cells_of, read_json, read_lines, run_config, write_csv, write_tasks

from abmll.core.errors import AbmllError
from abmll.evaluation.predictions import CellKey
from abmll.methods.gradient import GradientAdaptation
from abmll.pipeline import evaluate_run, train_run
from abmll.reports.report import render_report
from tiny_tasks import tiny_task

SIZES = {"support_sizes": [0, 4], "seeds": [0, 1]}


@pytest.fixture(scope="module")
def adapter(base, suite, tmp_path_factory):
    return train_run(run_config(base, suite, tmp_path_factory.mktemp("evaluate") / "run"), progress=False)


@pytest.fixture
def adaptations(monkeypatch):
    """The sizes of the support sets that are adapted to from now on."""
    sizes = []
    adapt = GradientAdaptation.adapt

    def spy(self, likelihood, support, *arguments, **options):
        sizes.append(len(support))
        return adapt(self, likelihood, support, *arguments, **options)

    monkeypatch.setattr(GradientAdaptation, "adapt", spy)
    return sizes


def forbid(monkeypatch, *names):
    """Makes a call of these names of `abmll.pipeline.evaluate` a failure."""
    for name in names:
        monkeypatch.setattr(
            f"abmll.pipeline.evaluate.{name}", lambda *_, name=name, **__: pytest.fail(f"{name} called")
        )


def test_an_adapter_is_judged_on_every_held_out_task(base, suite, adapter, tmp_path):
    config = run_config(base, suite, tmp_path / "run", evaluation=SIZES)
    path = evaluate_run(config, adapter, tmp_path / "out", progress=False)
    cells = cells_of(path)
    assert set(cells) == {CellKey("abmll", s, t, size) for s in (0, 1) for t in HELD_OUT for size in (0, 4)}
    for key, cell in cells.items():
        assert cell.log_probs.shape == ((2 if key.support_size else 1), 5, 2)
        assert len(set(cell.ids)) == 5
        assert cell.ids == cells[key._replace(support_size=0)].ids, "comparisons over support sizes are paired"
    assert read_json(tmp_path / "out" / "provenance.json")["seeds"] == [0, 1]
    assert (tmp_path / "out" / "run.toml").is_file()


def test_a_finished_evaluation_loads_nothing(base, suite, adapter, tmp_path, monkeypatch):
    config = run_config(base, suite, tmp_path / "run", evaluation=SIZES)
    before = evaluate_run(config, adapter, tmp_path / "out", progress=False).read_bytes()
    forbid(monkeypatch, "load_model", "append_cell")
    assert evaluate_run(config, adapter, tmp_path / "out", progress=False).read_bytes() == before


@pytest.mark.parametrize("cut", ["a line", "half a line"])
def test_an_interrupted_evaluation_makes_the_missing_cell_and_no_other(
    cut, base, suite, adapter, tmp_path, adaptations
):
    config = run_config(base, suite, tmp_path / "run", evaluation=SIZES)
    path = evaluate_run(config, adapter, tmp_path / "out", progress=False)
    whole, lines = cells_of(path), path.read_text().splitlines(keepends=True)
    kept = "".join(lines[:-1])
    path.write_text(kept + (lines[-1][:100] if cut == "half a line" else ""))
    adaptations.clear()
    if cut == "half a line":
        with pytest.warns(UserWarning, match="cut off"):
            evaluate_run(config, adapter, tmp_path / "out", progress=False)
    else:
        evaluate_run(config, adapter, tmp_path / "out", progress=False)
    assert adaptations == [4]
    assert path.read_text().startswith(kept)
    again = cells_of(path)
    assert again.keys() == whole.keys()
    assert all(again[key].same_predictions(cell) for key, cell in whole.items())


def test_methods_are_trained_once_a_seed_and_compared_on_the_same_rows(base, suite, tmp_path, monkeypatch):
    methods = {"name": ["abmll", "pretrained", "lora", "multitask"]}
    config = run_config(base, suite, tmp_path / "run", method=methods, evaluation=SIZES)
    path = evaluate_run(config, None, tmp_path / "out", progress=False)
    cells = cells_of(path)
    assert len(cells) == 4 * 2 * 2 * 2
    trained = sorted(str(log.parent.relative_to(tmp_path / "out")) for log in tmp_path.rglob("training.jsonl"))
    assert trained == ["abmll/seed-0", "abmll/seed-1", "multitask/seed-0", "multitask/seed-1"]
    for key, cell in cells.items():
        assert cell.ids == cells[key._replace(method="pretrained")].ids
    for task in HELD_OUT:
        zero, few = (cells[CellKey("pretrained", 0, task, size)] for size in (0, 4))
        assert torch.equal(zero.log_probs, few.log_probs), "it never looks at the support set"
        assert torch.equal(zero.log_probs, cells[CellKey("lora", 0, task, 0)].log_probs), "a fresh LoRA changes nothing"
        assert not torch.equal(zero.log_probs, cells[CellKey("multitask", 0, task, 0)].log_probs), "θ is used"
    forbid(monkeypatch, "load_model", "build_learner", "train_learner")
    evaluate_run(config, None, tmp_path / "out", progress=False)


def test_a_report_needs_the_predictions_alone(base, suite, tmp_path):
    methods = {"name": ["abmll", "lora"]}
    config = run_config(base, suite, tmp_path / "run", method=methods, evaluation=SIZES)
    path = evaluate_run(config, None, tmp_path / "out", progress=False)
    logs = {"abmll": tmp_path / "out" / "abmll" / "seed-0" / "training.jsonl"}
    written = render_report(path, tmp_path / "report.html", logs, read_json(tmp_path / "out" / "provenance.json"))
    text = written.read_text(encoding="utf-8")
    assert all(name in text for name in (*HELD_OUT, "abmll", "lora"))
    assert 'src="http' not in text
    assert "<link" not in text


def test_families_that_training_never_saw_are_marked(base, tmp_path):
    folder = write_tasks(tmp_path)
    for number, family in ((0, "a"), (4, "a"), (5, "b")):
        (folder / f"s{number}.toml").write_text(
            f'file = "task-{number}.csv"\nname = "task-{number}"\nfamily = "{family}"\n'
        )
    (folder / "suite.toml").write_text('test_tasks = ["task-4", "task-5"]\n')
    config = run_config(base, folder, tmp_path / "run", method={"name": "pretrained"})
    cells = cells_of(evaluate_run(config, None, tmp_path / "out", progress=False))
    assert {key.task: (cell.family, cell.extra["held_out_family"]) for key, cell in cells.items()} == {
        "task-4": ("a", False),
        "task-5": ("b", True),
    }


def test_a_suite_that_holds_nothing_out_is_told(base, tmp_path):
    folder = write_tasks(tmp_path)
    (folder / "suite.toml").unlink()
    config = run_config(base, folder, tmp_path / "run", method={"name": "pretrained"})
    with pytest.raises(AbmllError, match=r"the suite's split is empty. Hold some out \(held_out in \[data\]\)"):
        evaluate_run(config, None, tmp_path / "out", progress=False)
    config = run_config(base, folder, tmp_path / "run", method={"name": "pretrained"}, data={"held_out": 0.3})
    assert cells_of(evaluate_run(config, None, tmp_path / "out", progress=False))


def test_a_held_out_task_smaller_than_the_support_is_told(base, tmp_path):
    folder = write_tasks(tmp_path)
    write_csv(folder / "task-5.csv", tiny_task("task-5", 6))
    config = run_config(
        base, folder, tmp_path / "run", method={"name": "pretrained"}, evaluation={"support_sizes": [0, 6]}
    )
    with pytest.raises(AbmllError, match=r"too small to evaluate .*'task-5' has 6 rows, needs at least 7"):
        evaluate_run(config, None, tmp_path / "out", progress=False)


def test_an_adapter_of_another_method_is_refused(base, suite, adapter, tmp_path):
    config = run_config(base, suite, tmp_path / "run", method={"name": "lora"})
    with pytest.raises(AbmllError, match=r"was trained by 'abmll', but .* method 'lora'\. Add method\.name=abmll"):
        evaluate_run(config, adapter, tmp_path / "out", progress=False)


def test_max_rows_cuts_every_task(base, suite, tmp_path):
    config = run_config(
        base,
        suite,
        tmp_path / "run",
        method={"name": "pretrained"},
        data={"max_rows": 9},
        evaluation={"num_query": None},
    )
    path = evaluate_run(config, None, tmp_path / "out", progress=False)
    assert {len(line["ids"]) for line in read_lines(path)} == {9 - 4}
