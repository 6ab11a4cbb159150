"""Published tables: the protocols as data, and one of them run whole at small size."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from abmll.cli import app
from abmll.cli.reproducing import _tell_estimates
from abmll.core.errors import AbmllError
from abmll.core.passes import Passes
from abmll.core.types import Example
from abmll.data.episodes import evaluation_episode
from abmll.data.formats.metaicl import INSTRUCTION, MetaICLFormat, published_prompt
from abmll.data.suite import read_suite_spec, shipped_suites
from abmll.data.task import Task
from abmll.evaluation.predictions import append_cell, read_cells
from abmll.language.likelihood import CausalLMLikelihood
from abmll.language.prompt import PromptFormat, render
from abmll.methods import build_method
from abmll.pipeline.build import load_tasks
from abmll.pipeline.cost_model import count_passes
from abmll.pipeline.evaluate import PREDICTIONS, evaluate_method
from abmll.pipeline.protocol import Protocol, protocol_names, read_protocol
from abmll.pipeline.reproduce import estimate, plan, time_pieces

SMALL = (
    *("training.num_steps=2", "evaluation.seeds=[1, 1000]", "evaluation.num_query=3", "model.device=cpu"),
    *("prompt.max_tokens=200", "adapter.r=2", "evaluation.references=false"),
)


@pytest.mark.parametrize("name", protocol_names())
def test_every_protocol_is_whole(name, tmp_path):
    protocol = read_protocol(name)
    for experiment in protocol.experiments:
        assert experiment.suite in shipped_suites()
        tests = read_suite_spec(shipped_suites()[experiment.suite]).listed()["test"]
        assert set(experiment.test or ()) <= set(tests)
    for planned in plan(protocol, model="no-such-folder/model", out=tmp_path):
        assert set(planned.config.method.names) == {row.method for row in planned.rows.values()}
        for method in planned.config.method.names:
            build_method(method, **planned.config.method.options_for(method))


def test_the_numbers_that_are_known_are_the_published_ones():
    def value(name: str, experiment: str, row: str, metric: str):
        found = [
            one
            for tried in read_protocol(name).experiments
            if tried.name == experiment
            for one in tried.published
            if (one.row, one.metric) == (row, metric)
        ]
        return found[0].value, found[0].status

    assert value("abmll-v1", "winogrande", "ABMLL", "accuracy") == (0.748, "known")
    assert value("abmll-v1", "winogrande", "Structured LoRA", "ece_per_example") == (0.320, "known")
    assert value("abmll-v1", "winogrande", "Reptile", "accuracy") == (None, "missing")
    assert value("abmll-v3", "nli", "ABMLL", "accuracy") == (0.836, "uncertain")
    assert value("blob", "ARC-C", "BLoB N=10", "accuracy") == (0.6881, "known")
    assert value("blob", "ARC-E", "LAP", "ece") == (0.3329, "recalled")
    assert value("metaicl", "hr-to-lr", "MetaICL", "metaicl") == (0.433, "known")
    assert value("metaicl", "non-nli-to-nli", "0-shot", "metaicl") == (0.255, "known")


def test_settings_are_those_of_the_published_code(tmp_path):
    (planned,) = plan(read_protocol("abmll-v3"), only=["nli"], model="no/model", out=tmp_path)
    config = planned.config
    assert (config.evaluation.support_sizes, config.evaluation.num_query, config.evaluation.order) == (
        (10,),
        200,
        "file",
    )
    assert (config.evaluation.seeds, config.evaluation.num_samples) == ((1, 1000, 2000), 0)
    assert (config.episodes.order, config.episodes.support_size) == ("sequential", 10)
    assert config.method.options_for("abmll-paper") == {"num_tasks": 42}
    assert (config.adapter.r, config.adapter.lora_alpha, len(config.adapter.target_modules)) == (8, 16, 6)
    assert (config.prompt.loss, config.prompt.chat) == ("tokens", True)


def test_the_prompt_is_the_published_one_letter_for_letter(tmp_path):
    (planned,) = plan(read_protocol("abmll-v3"), only=["cls-45"], model="no/model", out=tmp_path)
    task, text, choices = "yelp_polarity", "Broke after a day.", ("negative", "positive")
    form = PromptFormat(**planned.config.prompt.model_dump())
    prompt, answers = render(Example(f"{task}: {text}", choices, 0), form)
    assert prompt == (
        "Return only the label of the correct answer for the question below.\n\n"
        "yelp_polarity: Broke after a day.\nChoices:\nA) negative\nB) positive\nAnswer:"
    )
    assert answers == ["A", "B"]
    assert prompt == published_prompt(task, text, choices, MetaICLFormat())
    assert form.instruction.strip() == INSTRUCTION


def test_rows_as_they_stand_in_their_file():
    rows = tuple(Example(f"row {n}", ("a", "b"), n % 2, id=str(n)) for n in range(30))
    pool = tuple(Example(f"pool {n}", ("a", "b"), n % 2, id=f"p{n}") for n in range(12))
    with_pool = evaluation_episode(Task("t", rows, support_pool=pool), 5, 10, 7, max_support=10, order="file")
    assert [row.id for row in with_pool.support] == [f"p{n}" for n in range(10)]
    assert [row.id for row in with_pool.query] == [str(n) for n in range(7)]
    alone = evaluation_episode(Task("t", rows), 5, 10, 7, max_support=10, order="file")
    assert [row.id for row in alone.support] == [str(n) for n in range(10)]
    assert [row.id for row in alone.query] == [str(n) for n in range(10, 17)]
    drawn = evaluation_episode(Task("t", rows), 5, 10, 7, max_support=10)
    assert [row.id for row in drawn.support] != [row.id for row in alone.support]


ROWS = ["abmll.methods.published:adapted_pretrained", "abmll.methods.published:reptile_paper", "abmll-paper"]
FEWER = f"method.name={json.dumps(ROWS)}"
TWO = f"method.name={json.dumps([ROWS[0], ROWS[2]])}"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Files of MetaICL's layout for every task of the para list."""
    folder = tmp_path_factory.mktemp("metaicl")
    listed = read_suite_spec(shipped_suites()["para"]).listed()

    def write(task: str, k: int, seed: int, split: str, start: int, count: int) -> None:
        path = folder / task / f"{task}_{k}_{seed}_{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        rows = [
            {"task": task, "input": f"{task} {n}", "output": ("no", "yes")[n % 2], "options": ["no", "yes"]}
            for n in range(start, start + count)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    for task in listed["train"]:
        write(task, 16384, 100, "train", 0, 14)
    for task in listed["test"]:
        for number, seed in enumerate((100, 13, 21, 42, 87)):
            write(task, 16, seed, "dev", 100 + 4 * number, 4)
            write(task, 16, seed, "test", 500, 6)
    return folder


def test_a_table_whole_at_small_size_and_again_from_where_it_stopped(base, data, tmp_path, monkeypatch, undrawn):
    arguments = ["reproduce", "abmll-v3", "--model", str(base), "--folder", str(data), "--only", "para"]
    arguments += ["-o", str(tmp_path / "out"), "--quiet", *SMALL, TWO]
    dry = CliRunner().invoke(app, [*arguments, "--dry-run", "--no-time"])
    assert dry.exit_code == 0, dry.output
    assert "46+0+4" in dry.output
    assert re.search(r"\n[1-9]\d* (s|min) in all on this machine's processor", dry.output)  # and not 0.0 hours
    assert "seconds assumed: 2 operations a parameter and token forward" in dry.output
    assert not (tmp_path / "out" / "para" / "predictions.jsonl").exists()
    # Interrupted between two tasks of the second seed ...
    calls = []

    def interrupted(*some):
        calls.append(some)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return append_cell(*some)

    monkeypatch.setattr("abmll.pipeline.evaluate.append_cell", interrupted)
    stopped = CliRunner().invoke(app, arguments)
    assert stopped.exit_code == 130, stopped.output
    assert "The same command goes on from there" in stopped.output
    predictions = tmp_path / "out" / "para" / "predictions.jsonl"
    before = predictions.read_text()
    assert len(before.splitlines()) == 10
    # ... it goes on, and the cells are those of a run that nothing interrupted.
    monkeypatch.setattr("abmll.pipeline.evaluate.append_cell", append_cell)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert predictions.read_text().startswith(before)
    cells = read_cells(predictions)
    assert len(cells) == 2 * 2 * 4
    (planned,) = plan(read_protocol("abmll-v3"), model=str(base), folder=data, only=["para"], out=tmp_path / "whole",
                      overrides=[*SMALL, TWO])  # fmt: skip
    evaluate_method(planned.config, load_tasks(planned.config), ROWS[0], 1000, tmp_path / "whole", progress=False)
    whole = {(cell.task, cell.support_size): cell.log_probs for cell in read_cells(tmp_path / "whole" / PREDICTIONS)}
    resumed = [cell for cell in cells if (cell.method, cell.seed) == (ROWS[0], 1000)]
    assert len(whole) == len(resumed) == 4
    assert all(torch.equal(cell.log_probs, whole[cell.task, cell.support_size]) for cell in resumed)
    assert all(len(cell.ids) == 3 for cell in cells)
    lines = json.loads((tmp_path / "out" / "reproduction.json").read_text())
    ours = {(line["row"], line["metric"]): line for line in lines}
    assert len(ours) == 2 * 4
    line = ours["ABMLL", "accuracy"]
    accuracies: dict[int, list[torch.Tensor]] = {seed: [] for seed in (1, 1000)}
    for cell in cells:
        if cell.method == "abmll-paper":
            right = cell.log_probs.double().log_softmax(-1).logsumexp(0).argmax(1) == cell.targets
            accuracies[cell.seed].append(right.double().mean())
    means = torch.tensor([torch.stack(values).mean() for values in accuracies.values()])
    assert line["ours"] == pytest.approx(float(means.mean()), abs=1e-9)
    assert line["spread_over_seeds"] == pytest.approx(float(means.std()), abs=1e-9)
    assert line["difference"] == pytest.approx(line["ours"] - 0.661, abs=1e-9)
    assert "has no chat template: prompts are plain text" in result.output
    assert "uncertain: printed, but what exactly it is of was not" in result.output
    assert "Not as published:" in result.output
    assert "What no source says:" in result.output


def test_the_cost_model_counts_what_a_run_does(base, data, tmp_path, monkeypatch, capsys):
    overrides = [*SMALL, "evaluation.seeds=[1]", "evaluation.num_query=6", FEWER]
    (planned,) = plan(
        read_protocol("abmll-v3"), model=str(base), folder=data, only=["para"], out=tmp_path, overrides=overrides
    )
    config = planned.config
    suite = load_tasks(config)
    seen = {"trained": 0.0, "predicted": 0.0}
    terms, predict = CausalLMLikelihood.terms, CausalLMLikelihood.choice_log_probs

    def counting_terms(self, examples, **options):
        seen["predicted" if options.get("prior_only") else "trained"] += len(examples)  # the prior alone: no way back
        return terms(self, examples, **options)

    def counting_predict(self, examples, **options):
        seen["predicted"] += len(examples)
        return predict(self, examples, **options)

    pieces = time_pieces([planned])
    assert set(pieces.of) == set(ROWS)
    found = estimate(read_protocol("abmll-v3"), planned, pieces)
    counted, begun = Passes(0, 0), time.process_time()
    monkeypatch.setattr(CausalLMLikelihood, "terms", counting_terms)
    monkeypatch.setattr(CausalLMLikelihood, "choice_log_probs", counting_predict)
    for name in ROWS:
        passes = count_passes(config, name, len(suite.test), 6)
        counted = counted.plus(passes)
        evaluate_method(config, suite, name, 1, tmp_path / "run", progress=False)
    took = time.process_time() - begun
    assert seen == {"trained": pytest.approx(counted.trained), "predicted": pytest.approx(counted.predicted)}
    assert found.timed
    _tell_estimates(read_protocol("abmll-v3"), [planned], [found])
    assert "seconds timed here: a step of each method, and two tasks adapted to" in capsys.readouterr().out
    # Writing files, the first step and the first task are dearer here than all that follows in a run of real size.
    assert took / 4 < 3600 * found.hours < 2 * took
    assert found.tasks == (46, 0, 4)
    assert (found.trained, found.predicted) == (counted.trained, counted.predicted)
    assert counted.predicted == 3 * 4 * 6 + 2 * 2  # and two outer steps of abmll-paper, on a last batch of two


def test_what_cannot_be_planned_or_run_is_told(tmp_path, base):
    with pytest.raises(AbmllError, match=r"unknown protocol 'abmll-v2'. Did you mean 'abmll-v"):
        read_protocol("abmll-v2")
    with pytest.raises(AbmllError, match=r"abmll-v3 has no experiment 'cls45'"):
        plan(read_protocol("abmll-v3"), only=["cls45"], out=tmp_path)
    result = CliRunner().invoke(
        app,
        ["reproduce", "abmll-v1", "--model", str(base), "--folder", str(tmp_path), "-o", str(tmp_path / "o"), *SMALL],
    )
    assert result.exit_code == 2
    assert "no experiment of abmll-v1 could be run" in result.output
    table = read_protocol("abmll-v1").model_dump()
    table["experiments"][0]["rows"] = ["ABML"]
    with pytest.raises(ValueError, match=r"row 'ABML', which is not"):
        Protocol.model_validate(table)
