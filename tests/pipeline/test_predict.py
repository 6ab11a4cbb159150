"""adapt_run and predict_run: a new task from its labelled rows, answers to its unlabelled ones."""

from __future__ import annotations

import csv
import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from abmll.card import read_card
from abmll.cli import app
from abmll.core.errors import AbmllError
from abmll.data.readers import read_task
from abmll.data.task import Task
from abmll.evaluation.predictions import Cell
from abmll.learner import Learner
from abmll.pipeline import adapt_run, predict_run, train_run
from abmll.pipeline.trial import paired_gain
from tests.pipeline.rank_jobs import job
from tests.pipeline.stages import read_lines, run_config, write_csv
from tests.tiny import tiny_llama, tiny_tokenizer
from tests.tiny_tasks import tiny_task


@pytest.fixture(scope="module", params=["text", pytest.param("letters", marks=pytest.mark.slow)])
def answer(request):
    """How rows are answered: by default in text, where it does not matter; `BOTH` is for tests in which it may."""
    return request.param


BOTH = pytest.mark.parametrize("answer", ["text", "letters"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def adapter(base, suite, answer, tmp_path_factory):
    """θ of a method whose posterior is wide enough that samples differ."""
    config = run_config(
        base,
        suite,
        tmp_path_factory.mktemp("predict") / "run",
        prompt={"answer": answer},
        method={"name": "abmll-output", "options": {"num_steps": 2, "log_var_offset": -4.0, "learning_rate": 0.03}},
    )
    return train_run(config, progress=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Labelled rows of a new task, further ones, and these without labels."""
    folder = tmp_path_factory.mktemp("new")
    task = tiny_task("new", 12)
    query = Task("query", task.examples[8:])
    return (
        write_csv(folder / "new.csv", Task("new", task.examples[:8])),
        write_csv(folder / "query.csv", query),
        write_csv(folder / "unlabelled.csv", query, labelled=False),
    )


@pytest.fixture(scope="module")
def adapted(adapter, files, tmp_path_factory):
    return adapt_run(adapter, files[0], tmp_path_factory.mktemp("adapted") / "new")


@BOTH
def test_an_adapted_folder_is_the_tasks_own_adapter(adapter, adapted, answer, files):
    card = read_card(adapted)
    assert (card.role, card.prompt.answer) == ("task", answer)
    assert (adapted / "lora" / "adapter_model.safetensors").is_file()
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in (adapter, adapted)]
    assert weights[0] != weights[1]
    assert adapt_run(adapter, files[0], adapted.parent / "again") == adapted.parent / "again"
    assert (adapted.parent / "again" / "adapter_model.safetensors").read_bytes() == weights[1], "adapting is seeded"


@BOTH
def test_every_row_gets_an_answer_with_the_probability_of_every_choice(adapted, files, tmp_path):
    answers = read_lines(predict_run(adapted, files[1], tmp_path / "answers.jsonl", num_samples=3))
    rows = tiny_task("new", 12).examples[8:]
    assert [answer["id"] for answer in answers] == [row.id for row in rows]
    for answer, row in zip(answers, rows, strict=True):
        assert list(answer) == [
            "id",
            "prediction",
            "confidence",
            "probabilities",
            "entropy",
            "mutual_information",
            "correct",
        ]
        probabilities = answer["probabilities"]
        assert list(probabilities) == list(row.choices)
        assert sum(probabilities.values()) == pytest.approx(1, abs=2e-6)
        assert probabilities[answer["prediction"]] == answer["confidence"] == max(probabilities.values())
        entropy = -sum(p * math.log(p) for p in probabilities.values())
        assert answer["entropy"] == pytest.approx(entropy, abs=1e-5)
        assert answer["correct"] == (answer["prediction"] == row.choices[row.target])


@BOTH
def test_the_probabilities_are_those_of_the_posterior(adapted, files, tmp_path):
    mean = read_lines(predict_run(adapted, files[1], tmp_path / "mean.jsonl", num_samples=0))
    learner = Learner.load(adapted, tiny_llama(layers=1), tiny_tokenizer())
    rows = read_task(files[1]).examples
    expected = learner.posterior().predict(rows, 0).samples[0]
    found = torch.tensor([list(answer["probabilities"].values()) for answer in mean])
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    averaged = read_lines(predict_run(adapted, files[1], tmp_path / "samples.jsonl", num_samples=3))
    assert averaged != mean, "samples are averaged"
    assert averaged == read_lines(predict_run(adapted, files[1], tmp_path / "again.jsonl", num_samples=3))


@BOTH
def test_labels_change_nothing_but_the_word_correct(adapted, files, tmp_path):
    labelled = read_lines(predict_run(adapted, files[1], tmp_path / "a.jsonl"))
    unlabelled = read_lines(predict_run(adapted, files[2], tmp_path / "b.jsonl"))
    assert all("correct" not in answer for answer in unlabelled)
    assert [{**answer, "correct": True} for answer in unlabelled] == [{**a, "correct": True} for a in labelled]


@BOTH
def test_the_meta_adapter_predicts_too(adapter, files, tmp_path):
    assert len(read_lines(predict_run(adapter, files[2], tmp_path / "zero.jsonl"))) == 4


def test_support_size_draws_that_many_rows(adapter, files, tmp_path, monkeypatch):
    seen, classes = [], []
    adapt = Learner.adapt

    def spy(self, support, *, seed=0):
        seen.append([row.id for row in support.rows])
        classes.append({row.answer for row in support.rows})
        return adapt(self, support, seed=seed)

    monkeypatch.setattr(Learner, "adapt", spy)
    for seed in (0, 0, 1):
        adapt_run(adapter, files[0], tmp_path / "few", support_size=3, seed=seed)
    adapt_run(adapter, files[0], tmp_path / "all")
    assert all(len(found) == 2 for found in classes), "drawn evenly over the classes"
    assert [len(set(ids)) for ids in seen] == [3, 3, 3, 8]
    assert seen[0] == seen[1] != seen[2]
    with pytest.raises(
        AbmllError, match=r"support_size is 99, but task 'new' has 8 labelled rows\. Leave support_size"
    ):
        adapt_run(adapter, files[0], tmp_path / "more", support_size=99)


def test_a_task_with_a_support_file_adapts_on_it_alone(adapter, files, tmp_path, monkeypatch):
    spec = files[0].with_name("spec.toml")
    spec.write_text('file = "query.csv"\nsupport_file = "new.csv"\nid = "id"\ninput = "text"\n')
    seen = []
    monkeypatch.setattr(Learner, "adapt", lambda self, task, *, seed: seen.append(len(task.rows)) or self.posterior())
    adapt_run(adapter, spec, tmp_path / "adapted")
    assert seen == [8]


def test_another_base_model(adapter, base, files, tmp_path):
    other = tmp_path / "other"
    tiny_llama(layers=1, hidden=48).save_pretrained(other)
    tiny_tokenizer().save_pretrained(other)
    with pytest.raises(AbmllError, match=r"it was made for another base model"):
        adapt_run(adapter, files[0], tmp_path / "out", overrides=[f"model.name={other}"])
    assert not (tmp_path / "out").exists()
    adapt_run(adapter, files[0], tmp_path / "out", overrides=[f"model.name={base}"])


def test_the_base_model_is_loaded_in_the_type_it_was_trained_on(base, suite, files, tmp_path, monkeypatch):
    """An 8B model in float32 where bfloat16 was trained on is twice the memory, and another model."""
    config = run_config(base, suite, tmp_path / "run", model={"name": str(base), "dtype": "bfloat16"})
    trained = train_run(config, progress=False)
    loaded = []
    adapt = Learner.adapt
    monkeypatch.setattr(Learner, "adapt", lambda self, *a, **k: loaded.append(self) or adapt(self, *a, **k))
    adapt_run(trained, files[0], tmp_path / "own")
    adapt_run(trained, files[0], tmp_path / "chosen", overrides=["model.dtype=float32"])
    adapt_run(tmp_path / "own", files[0], tmp_path / "again", overrides=["model.gradient_checkpointing=true"])
    models = [learner.model.get_base_model() for learner in loaded]
    assert [model.dtype for model in models] == [torch.bfloat16, torch.float32, torch.bfloat16]
    assert [model.is_gradient_checkpointing for model in models] == [False, False, True]


@pytest.mark.parametrize("command", ["predict", "acquire"])
def test_the_file_that_is_read_is_never_written_over(command, adapter, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text\na\n")
    (tmp_path / "link.csv").symlink_to(path)
    for out in ("rows.csv", "link.csv"):
        words = [command, str(adapter), str(path), "-o", str(tmp_path / out), "--overwrite"]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 2
        assert "is the file that is read, which would be lost" in " ".join(result.stderr.split())
    assert path.read_text() == "text\na\n"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.num_steps=3", r"'training.num_steps=3' is no field of \[model\]"),
        ("model.dtype=int3", r"model.dtype = \"int3\""),
        ("nonsense", "not of the form key=value"),
    ],
)
def test_only_the_model_can_be_set(adapter, files, tmp_path, override, message):
    for run in (adapt_run, predict_run):
        with pytest.raises(AbmllError, match=message):
            run(adapter, files[0], tmp_path / "out", overrides=[override])
    assert not (tmp_path / "out").exists()


def test_several_processes_hold_one_model_or_are_refused(adapter, files, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(AbmllError, match=r"4 processes would each do all of this.*model.shard=4"):
        adapt_run(adapter, files[0], tmp_path / "out")


@pytest.mark.slow
def test_processes_that_hold_one_model_adapt_and_predict_as_one_does(tmp_path, suite, files, forkserver):
    """The model is wide enough that its weights are really laid over both."""
    tiny_llama(layers=1, hidden=128).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    config = run_config(tmp_path / "base", suite, tmp_path / "run", training={"num_steps": 1})
    adapter = train_run(config, progress=False)
    alone = adapt_run(adapter, files[0], tmp_path / "alone")
    expected = read_lines(predict_run(alone, files[2], tmp_path / "alone.jsonl"))
    assert job(2, "adapt", files[0], tmp_path / "shared", adapter) == ["", ""]
    assert job(2, "predict", files[2], tmp_path / "shared.jsonl", tmp_path / "shared") == ["", ""]
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "shared", alone))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6)
    for answer, row in zip(read_lines(tmp_path / "shared.jsonl"), expected, strict=True):
        assert answer["probabilities"] == pytest.approx(row["probabilities"], abs=1e-5)


def test_an_adapter_that_names_no_base_model(files, tmp_path):
    folder = Learner(tiny_llama(layers=1), tiny_tokenizer(), r=2).save(tmp_path / "adapter")
    with pytest.raises(AbmllError, match=r"does not say which base model it belongs to. Name it: model.name=NAME"):
        adapt_run(folder, files[0], tmp_path / "out")


@BOTH
def test_new_rows_need_neither_question_nor_choices(adapter, tmp_path):
    labelled = "text,label\n" + "".join(f"film {n},{'no' if n % 2 else 'yes'}\n" for n in range(6))
    (tmp_path / "task.csv").write_text(labelled)
    (tmp_path / "task.toml").write_text('file = "task.csv"\nquestion = "Is it true?"\n')
    (tmp_path / "rows.csv").write_text("text\nthe cat\nthe mat\n")
    (tmp_path / "whole.jsonl").write_text(
        "".join(
            json.dumps({"id": f"rows:{line}", "input": text, "options": ["no", "yes"]}) + "\n"
            for line, text in ((2, "the cat"), (3, "the mat"))
        )
    )
    (tmp_path / "whole.toml").write_text('file = "whole.jsonl"\nquestion = "Is it true?"\n')
    adapted = adapt_run(adapter, tmp_path / "task.toml", tmp_path / "adapted")
    answers = read_lines(predict_run(adapted, tmp_path / "rows.csv", tmp_path / "answers.jsonl"))
    assert [list(answer["probabilities"]) for answer in answers] == [["no", "yes"]] * 2
    # as if the file had said everything itself
    assert answers == read_lines(predict_run(adapted, tmp_path / "whole.toml", tmp_path / "whole_answers.jsonl"))
    # one class only: a mistake in a task, but not in rows whose classes are known
    (tmp_path / "one.csv").write_text("text,label\nthe cat,yes\nthe mat,yes\n")
    judged = read_lines(predict_run(adapted, tmp_path / "one.csv", tmp_path / "one_answers.jsonl"))
    assert [answer["correct"] for answer in judged] == [answer["prediction"] == "yes" for answer in answers]
    for name in ("rows", "one"):
        table = predict_run(adapted, tmp_path / f"{name}.csv", tmp_path / f"{name}_answers.csv")
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["text"] for row in rows] == ["the cat", "the mat"]
        assert [row["prediction"] for row in rows] == [answer["prediction"] for answer in answers]


def test_a_csv_of_answers_keeps_the_columns_of_the_file_and_labels_say_what_they_are_worth(adapted, files, tmp_path):
    said = []
    out = predict_run(adapted, files[1], tmp_path / "answers.csv", tell=lambda text, _: said.append(text))
    with files[1].open(newline="") as one, out.open(newline="") as two:
        asked, answered = list(csv.DictReader(one)), list(csv.DictReader(two))
    assert [{key: row[key] for key in asked[0]} for row in answered] == asked
    lines = read_lines(predict_run(adapted, files[1], tmp_path / "answers.jsonl"))
    assert [row["prediction"] for row in answered] == [line["prediction"] for line in lines]
    assert [float(row["mutual_information"]) for row in answered] == [line["mutual_information"] for line in lines]
    assert len(said) == 1
    assert said[0].startswith("Of 4 labelled rows: accuracy ")
    assert "chance" in said[0]


def test_adapting_says_rows_classes_seconds_and_whether_it_helps(adapter, files, tmp_path):
    said = []
    adapt_run(adapter, files[0], tmp_path / "a", check=True, tell=lambda *sentence: said.append(sentence))
    assert re.fullmatch(r"Adapted to 8 rows of 2 classes \(.* \d, .* \d\) in [\d.]+ s", said[0][0])
    found = re.fullmatch(
        r"Does it help\? Cross-validated NLL ([\d.]+); zero-shot ([\d.]+), uniform ([\d.]+) \(8 rows\)", said[1][0]
    )
    after, zero_shot, uniform = map(float, found.groups())
    assert uniform == pytest.approx(math.log(2), abs=1e-3)
    with pytest.raises(AbmllError, match=r"a folder keeps none\. Adapt anew"):
        Learner.load(tmp_path / "a").posterior().cross_validate()
    warned = [sentence for sentence, warning in said if warning]
    assert bool(warned) == (len(said) == 3)
    if abs(after - min(zero_shot, uniform)) > 2e-3:
        assert bool(warned) == (after > min(zero_shot, uniform))


def test_one_file_is_tried_on_rows_that_were_not_adapted_to(base, adapter, files, tmp_path, monkeypatch):
    task = tiny_task("reviews", 24)
    path = write_csv(tmp_path / "reviews.csv", task)
    monkeypatch.chdir(tmp_path)
    for words in (["--adapter", str(adapter)], [f"model.name={base}", "adapter.r=2", "prompt.answer=text"]):
        result = CliRunner().invoke(app, ["try", str(path), *words, "--support", "8", "--seeds", "2"])
        assert result.exit_code == 0, result.output
        assert "8 support examples, 1 task × 2 seeds" in result.stdout
        assert re.search(r"Adapting to 8 of your rows (helps|may help|does not help): ", result.stdout)
        for method in ("uniform", "label-frequency", "pretrained"):
            assert re.search(rf"^{method}\b", result.stdout, re.MULTILINE)
    assert {p.name for p in tmp_path.iterdir()} == {"reviews.csv"}, "nothing is written"
    few = CliRunner().invoke(app, ["try", str(files[0]), "--adapter", str(adapter)])
    assert few.exit_code != 0
    assert "too few to adapt to 16" in few.stderr
    assert "which model?" in CliRunner().invoke(app, ["try", str(path)]).stderr


def test_a_gain_is_told_with_its_error_and_every_row_counts_once():
    def cell(method, seed, ids, right):
        probs = torch.tensor([[p, 1 - p] for p in right], dtype=torch.float64)
        return Cell(method, seed, "t", "t", 4, ids, torch.zeros(len(ids), dtype=torch.int64), probs.log()[None])

    before, after = {"a": 0.5, "b": 0.4, "c": 0.7}, {"a": 0.9, "b": 0.6, "c": 0.6}
    cells = [
        cell(method, seed, ids, [table[one] for one in ids])
        for method, table in (("pretrained", before), ("lora", after))
        for seed, ids in ((0, ["a", "b"]), (1, ["b", "c"]))
    ]
    gains = [math.log(after[one] / before[one]) for one in "abc"]
    gain, error, count = paired_gain(cells, "lora", "pretrained")
    assert gain == pytest.approx(sum(gains) / 3, rel=1e-5)
    assert error == pytest.approx(float(torch.tensor(gains).std() / math.sqrt(3)), rel=1e-5)
    assert count == 3
