"""evaluate_run: every cell once, whatever interrupts it, and a report from the cells alone."""

from __future__ import annotations

import shutil
from contextlib import nullcontext

import pytest
import torch

from abmll.config import load_config
from abmll.core.errors import AbmllError
from abmll.evaluation.predictions import CellKey
from abmll.methods.parts.head_posterior import NODES, BayesianHead
from abmll.pipeline import evaluate_run, train_run
from abmll.reports.report import render_report
from tests.pipeline.stages import HELD_OUT, cells_of, read_json, read_lines, run_config, write_csv, write_tasks
from tests.tiny_tasks import tiny_task

SIZES = {"support_sizes": [0, 4], "seeds": [0, 1]}


@pytest.fixture(scope="module")
def adapter(base, suite, tmp_path_factory):
    return train_run(run_config(base, suite, tmp_path_factory.mktemp("evaluate") / "run"), progress=False)


@pytest.fixture(scope="module")
def finished(base, suite, adapter, tmp_path_factory):
    """A finished evaluation, to be copied."""
    out = tmp_path_factory.mktemp("finished") / "out"
    return evaluate_run(run_config(base, suite, out, evaluation=SIZES), adapter, out, progress=False)


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished.parent, tmp_path / "out")
    return tmp_path / "out" / finished.name


@pytest.fixture
def adaptations(monkeypatch):
    """The sizes of the support sets that are adapted to from now on."""
    sizes = []
    adapt = BayesianHead.adapt

    def spy(self, likelihood, support, *arguments, **options):
        sizes.append(len(support))
        return adapt(self, likelihood, support, *arguments, **options)

    monkeypatch.setattr(BayesianHead, "adapt", spy)
    return sizes


def forbid(monkeypatch, *names):
    """Makes a call of these names of `abmll.pipeline.evaluate` a failure."""
    for name in names:
        monkeypatch.setattr(
            f"abmll.pipeline.evaluate.{name}", lambda *_, name=name, **__: pytest.fail(f"{name} called")
        )


def test_an_adapter_is_judged_on_every_held_out_task(finished):
    cells = cells_of(finished)
    assert set(cells) == {CellKey("abmll", s, t, size) for s in (0, 1) for t in HELD_OUT for size in (0, 4)}
    for key, cell in cells.items():
        assert cell.log_probs.shape == ((NODES if key.support_size else 1), 5, 2)
        assert len(set(cell.ids)) == 5
        assert cell.ids == cells[key._replace(support_size=0)].ids, "comparisons over support sizes are paired"
    assert read_json(finished.parent / "provenance.json")["seeds"] == [0, 1]
    assert load_config(finished.parent / "run.toml").evaluation.seeds == (0, 1)


def test_a_finished_evaluation_loads_nothing(base, suite, adapter, copy, finished, monkeypatch):
    forbid(monkeypatch, "load_learner", "append_cell")
    config = run_config(base, suite, finished.parent, evaluation=SIZES)
    assert evaluate_run(config, adapter, copy.parent, progress=False).read_bytes() == finished.read_bytes()


@pytest.mark.parametrize("cut", [0, 100], ids=["after-a-line", "within-a-line"])
def test_an_interrupted_evaluation_makes_the_missing_cell_and_no_other(
    cut, base, suite, adapter, finished, copy, adaptations
):
    lines = copy.read_text().splitlines(keepends=True)
    kept = "".join(lines[:-1])
    copy.write_text(kept + lines[-1][:cut])
    config = run_config(base, suite, finished.parent, evaluation=SIZES)
    with pytest.warns(UserWarning, match="cut off") if cut else nullcontext():
        evaluate_run(config, adapter, copy.parent, progress=False)
    assert adaptations == [4], "one cell"
    assert copy.read_text().startswith(kept)
    whole, again = cells_of(finished), cells_of(copy)
    assert again.keys() == whole.keys()
    assert all(again[key].same_predictions(cell) for key, cell in whole.items())


def test_methods_are_trained_once_a_seed_and_compared_on_the_same_rows(base, suite, tmp_path, monkeypatch, undrawn):
    methods = {"name": ["pretrained", "lora", "multitask"], "options": {"num_steps": 2}}
    training = {"num_steps": 1}
    config = run_config(base, suite, tmp_path / "run", method=methods, training=training, evaluation=SIZES)
    path = evaluate_run(config, None, tmp_path / "out", progress=False)
    cells = cells_of(path)
    assert len(cells) == 3 * 2 * 2 * 2
    logs = sorted(tmp_path.rglob("training.jsonl"))
    assert [str(log.parent.relative_to(path.parent)) for log in logs] == ["multitask/seed-0", "multitask/seed-1"]
    for key, cell in cells.items():
        assert cell.ids == cells[key._replace(method="pretrained")].ids
    for task in HELD_OUT:
        zero, few = (cells[CellKey("pretrained", 0, task, size)] for size in (0, 4))
        assert torch.equal(zero.log_probs, few.log_probs), "it never looks at the support set"
        assert torch.equal(zero.log_probs, cells[CellKey("lora", 0, task, 0)].log_probs), "a fresh LoRA changes nothing"
        assert not torch.equal(zero.log_probs, cells[CellKey("multitask", 0, task, 0)].log_probs), "θ is used"

    forbid(monkeypatch, "load_learner", "build_learner", "train_learner")
    evaluate_run(config, None, tmp_path / "out", progress=False)
    report = render_report(path, tmp_path / "report.html", dict(zip("ab", logs, strict=True)), {"seeds": [0, 1]})
    text = report.read_text(encoding="utf-8")
    assert all(name in text for name in (*HELD_OUT, *methods["name"]))
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


def test_what_cannot_be_judged_is_told_before_anything_is_trained(base, tmp_path, monkeypatch):
    forbid(monkeypatch, "build_learner", "write_run_record")
    folder = write_tasks(tmp_path)
    write_csv(folder / "task-5.csv", tiny_task("task-5", 6))
    small = run_config(base, folder, tmp_path / "run", evaluation={"support_sizes": [0, 6]})
    with pytest.raises(AbmllError, match=r"too small to evaluate .*'task-5' has 6 rows, needs at least 7"):
        evaluate_run(small, None, tmp_path / "out", progress=False)
    (folder / "suite.toml").unlink()
    with pytest.raises(AbmllError, match=r"has no test tasks \(6 tasks in all\)\. Hold some out: give held_out = 0\.3"):
        evaluate_run(run_config(base, folder, tmp_path / "run"), None, tmp_path / "out", progress=False)


def test_cells_of_other_settings_are_not_mixed(base, suite, adapter, finished, copy):
    before = copy.read_bytes()
    for sections, told in (
        ({"evaluation": SIZES | {"num_samples": 3}}, "evaluation.num_samples was 2 and is now 3"),
        (
            {"evaluation": SIZES | {"support_sizes": [0, 8]}},
            r"evaluation.support_sizes was \[0, 4\] and is now \[0, 8\]",
        ),
        ({"evaluation": SIZES, "data": {"max_rows": 12}}, "data.max_rows was None and is now 12"),
    ):
        config = run_config(base, suite, finished.parent, **sections)
        with pytest.raises(AbmllError, match=f"holds results of other settings: .*{told}.*another folder with -o"):
            evaluate_run(config, adapter, copy.parent, progress=False)
    assert copy.read_bytes() == before
    more = run_config(base, suite, finished.parent, evaluation={"support_sizes": [0, 2, 4], "seeds": [0, 2]})
    evaluate_run(more, adapter, copy.parent, progress=False)
    assert copy.read_bytes().startswith(before)
    assert {(key.seed, key.support_size) for key in cells_of(copy)} == {(s, k) for s in (0, 2) for k in (0, 2, 4)} | {
        (1, 0),
        (1, 4),
    }


def test_a_fraction_of_the_tasks_is_held_out_on_request(base, tmp_path):
    folder = write_tasks(tmp_path)
    (folder / "suite.toml").unlink()
    config = run_config(base, folder, tmp_path / "run", method={"name": "pretrained"}, data={"held_out": 0.3})
    assert len(cells_of(evaluate_run(config, None, tmp_path / "out", progress=False))) == 1


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


@pytest.fixture(scope="module")
def other(base, suite, tmp_path_factory):
    """An adapter of the same method and settings, trained from another seed."""
    folder = tmp_path_factory.mktemp("other")
    return train_run(run_config(base, suite, folder / "run").model_copy(update={"seed": 7}), progress=False)


def test_predictions_of_another_adapter_are_not_taken_for_its_own(base, suite, adapter, other, finished, copy):
    before = copy.read_bytes()
    config = run_config(base, suite, finished.parent, evaluation=SIZES)
    told = rf"holds predictions of 'abmll' by the adapter {adapter} \(sha256 \w+\), .* {other} .*another folder with -o"
    with pytest.raises(AbmllError, match=told):
        evaluate_run(config, other, copy.parent, progress=False)
    with pytest.raises(AbmllError, match=r"and now they would be by an adapter that the evaluation trained itself"):
        evaluate_run(config, None, copy.parent, progress=False)
    assert copy.read_bytes() == before
    moved = copy.parent / "moved"
    shutil.copytree(adapter, moved)
    assert evaluate_run(config, moved, copy.parent, progress=False).read_bytes() == before, "its content decides"


def test_an_adapter_that_was_trained_again_in_its_place_is_another(base, suite, adapter, other, tmp_path):
    config, place = run_config(base, suite, tmp_path / "run"), tmp_path / "adapter"
    shutil.copytree(adapter, place)
    evaluate_run(config, place, tmp_path / "out", progress=False)
    shutil.rmtree(place)
    shutil.copytree(other, place)
    with pytest.raises(AbmllError, match=r"the adapter .*adapter \(sha256 .*the adapter .*adapter \(sha256"):
        evaluate_run(config, place, tmp_path / "out", progress=False)


def test_predictions_of_trained_methods_are_not_taken_for_an_adapters(base, suite, adapter, tmp_path):
    config = run_config(base, suite, tmp_path / "run", training={"num_steps": 1})
    evaluate_run(config, None, tmp_path / "out", progress=False)
    with pytest.raises(AbmllError, match=r"by an adapter that the evaluation trained itself .* and now .* adapter "):
        evaluate_run(config, adapter, tmp_path / "out", progress=False)


def test_reference_rows_come_without_being_named_and_without_a_model_of_their_own(base, suite, adapter, tmp_path):
    config = run_config(base, suite, tmp_path, evaluation=SIZES | {"references": True})
    cells = cells_of(evaluate_run(config, adapter, tmp_path, progress=False))
    names = {"abmll", "uniform", "label-frequency", "pretrained"}
    assert set(cells) == {CellKey(m, s, t, k) for m in names for s in (0, 1) for t in HELD_OUT for k in (0, 4)}
    for key, cell in cells.items():
        assert cell.ids == cells[key._replace(method="abmll")].ids, "compared on the same examples"
    assert {key.method for key in cells if key.support_size == 4} == names
    assert load_config(tmp_path / "run.toml").method.names == ("abmll", "uniform", "label-frequency", "pretrained")
    assert read_json(tmp_path / "adapters.json").keys() == {"abmll"}


def test_rows_without_a_model_load_none(base, suite, tmp_path, monkeypatch):
    forbid(monkeypatch, "load_learner", "build_learner")
    config = run_config(base, suite, tmp_path, method={"name": ["uniform", "label-frequency"]})
    assert len(cells_of(evaluate_run(config, None, tmp_path, progress=False))) == 2 * len(HELD_OUT)
