"""The Python interface as its users meet it, on a tiny Llama."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

import abmll
from abmll import models
from abmll.core.errors import AbmllError
from abmll.core.params import clone
from abmll.core.types import META, TASK
from abmll.evaluation.predictions import read_cells
from tests.tiny import tiny_llama, tiny_tokenizer
from tests.tiny_tasks import tiny_task, tiny_tasks

ROWS = tiny_task("new", 12).examples
TEXTS, LABELS = [row.prompt for row in ROWS], [row.answer for row in ROWS]
TEXT = abmll.PromptFormat(answer="text")


def learner_of(method="abmll", *, model=None, **options):
    given: dict[str, Any] = {"prompt": TEXT, "r": 2, "lora_alpha": 4} | options
    return abmll.Learner(model or tiny_llama(layers=1), tiny_tokenizer(), method, **given)


@pytest.fixture(scope="module")
def learner():
    return learner_of("lora", learning_rate=0.05)


@pytest.fixture(scope="module")
def posterior(learner):
    return learner.adapt(TEXTS, LABELS, question="Good?", name="films")


@pytest.mark.parametrize("method", ["abmll", "abmll-adam"])
def test_the_same_call_gives_the_same_numbers_whatever_came_before(method):
    learner = learner_of(method)
    first = learner.adapt(TEXTS[:4], LABELS[:4])
    expected = first.predict(TEXTS)
    torch.rand(7)
    learner.adapt(TEXTS[4:], LABELS[4:])
    assert torch.equal(first.predict(TEXTS).log_probs, expected.log_probs)
    assert torch.equal(learner.adapt(TEXTS[:4], LABELS[:4]).predict(TEXTS).log_probs, expected.log_probs)


def test_what_is_saved_knows_its_task(posterior, tmp_path, monkeypatch):
    asked = []

    def load(name, **options):
        asked.append((name, options["dtype"]))
        return tiny_llama(layers=1), tiny_tokenizer()

    monkeypatch.setattr(models, "load", load, raising=False)
    base = tiny_llama(layers=1)
    base.config._name_or_path = base.name_or_path = "some/model"
    learner = learner_of("lora", model=base, learning_rate=0.05)
    numbers = [int(label == "positive") for label in LABELS]
    own = learner.adapt(TEXTS, numbers, question="Good?", classes={0: "negative", 1: "positive"}, name="films")
    loaded = abmll.load(own.save(tmp_path / "films"))
    assert asked == [("some/model", "float32")]
    assert loaded.classes == own.classes == (0, 1)
    assert (loaded.task.name, loaded.task.question) == ("films", "Good?")
    assert torch.equal(loaded.predict(TEXTS).log_probs, own.predict(TEXTS).log_probs)
    assert loaded.predict(TEXTS).labels == own.predict(TEXTS).labels
    assert set(loaded.predict(TEXTS).labels) <= {0, 1}


def test_a_saved_learner_is_loaded_as_a_learner(learner, tmp_path):
    found = abmll.load(learner.save(tmp_path / "meta"), tiny_llama(layers=1), tiny_tokenizer())
    assert isinstance(found, abmll.Learner)
    assert (found.name, found.method) == (learner.name, learner.method)


def test_many_tasks_on_one_model(learner, posterior, tmp_path):
    turned = learner.adapt(TEXTS, LABELS[::-1])
    folders = posterior.save(tmp_path / "one"), turned.save(tmp_path / "two")
    one, two = map(learner.load_posterior, folders)
    for loaded, own in ((one, posterior), (two, turned)):
        assert torch.equal(loaded.predict(TEXTS).log_probs, own.predict(TEXTS).log_probs)
    other = learner_of("lora", num_steps=2)
    with pytest.raises(AbmllError, match=r"of another learner: option num_steps is 5 .*; option learning_rate is"):
        other.load_posterior(folders[0])


def test_a_fresh_learner_on_the_same_named_model_loads_a_posterior(tmp_path):
    def learner():
        base = tiny_llama(layers=1)
        base.config._name_or_path = base.name_or_path = "some/model"
        return learner_of("lora", model=base)

    own, other = learner(), learner()
    assert repr(other).startswith("Learner(lora on some/model, ")
    adapted = own.adapt(TEXTS, LABELS)
    loaded = other.load_posterior(adapted.save(tmp_path / "a"))
    assert torch.equal(loaded.predict(TEXTS).log_probs, adapted.predict(TEXTS).log_probs)


def test_a_posterior_of_another_learner_is_not_saved_by_this_one(posterior, tmp_path):
    with pytest.raises(AbmllError, match="the posterior of task 'films' is of another learner"):
        learner_of("lora").save(tmp_path / "x", posterior=posterior)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda learner: learner.model.unload(), "no longer in its model: it was unloaded, merged or given to another"),
        (lambda learner: learner.model.merge_and_unload(), "no longer in its model"),
        (lambda learner: learner.model.set_adapter(META), r"computes with the adapters \['meta'\], not with 'task'"),
        (lambda learner: learner.model.merge_adapter(), "switched off or merged"),
        (lambda learner: learner.model.base_model.disable_adapter_layers(), "switched off or merged"),
        (lambda learner: abmll.Learner(learner.model.unload(), tiny_tokenizer(), "lora"), "no longer in its model"),
    ],
    ids=["unload", "merge-and-unload", "set", "merge", "disable", "second"],
)
def test_adapters_that_no_longer_compute_are_told(harm, message, tmp_path):
    learner = learner_of("lora")
    posterior = learner.adapt(TEXTS, LABELS)
    harm(learner)
    uses = [
        lambda: posterior.predict(TEXTS),
        lambda: learner.adapt(TEXTS, LABELS),
        lambda: learner.meta_train(tiny_tasks()),
        lambda: learner.save(tmp_path / "x"),
    ]
    for use in uses:
        with pytest.raises(AbmllError, match=message):
            use()


def test_gradients_are_on_where_they_are_needed(learner):
    expected = learner.adapt(TEXTS, LABELS).mean()
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            found = learner.adapt(TEXTS, LABELS)
        assert all(torch.equal(found.mean()[name], tensor) for name, tensor in expected.items())


def test_a_posterior_says_whether_adapting_helps(learner, posterior):
    before = posterior.predict(TEXTS).log_probs
    found = posterior.cross_validate()
    assert found == posterior.cross_validate()
    assert found.num_rows == 12
    assert found.helps == (found.adapted < min(found.zero_shot, found.uniform))
    assert torch.equal(posterior.predict(TEXTS).log_probs, before)
    assert learner.adapt(TEXTS[:4], LABELS[:4]).cross_validate() is None


def test_threads_get_the_answers_of_their_own_posterior(learner):
    posteriors = [learner.adapt(TEXTS, LABELS), learner.adapt(TEXTS, LABELS[::-1])]
    expected = [posterior.predict(TEXTS).log_probs for posterior in posteriors]
    assert not torch.equal(*expected)
    found: list = []

    def ask(which):
        found.append(torch.equal(posteriors[which].predict(TEXTS).log_probs, expected[which]))

    threads = [threading.Thread(target=ask, args=(number % 2,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 6


def test_meta_train_takes_what_a_run_file_says():
    learner = learner_of("reptile")
    before, seen = clone(learner.likelihood.parameters(META)), []
    result = learner.meta_train(
        tiny_tasks(),
        training=abmll.Training(num_steps=np.int64(3), episodes_per_step=2),  # type: ignore[arg-type]
        support_size=(2, 4),
        query_size=0,
        balanced=True,
        learning_rate=0.5,
        schedule="cosine",
        max_grad_norm=1.0,
        progress=False,
        on_step=lambda record: seen.append((record["step"], round(record["learning_rate"], 6))),
    )
    assert seen == [(1, 0.5), (2, 0.375), (3, 0.125)]
    assert result.num_steps == learner.trained_steps == 3
    assert any(not torch.equal(before[name], one) for name, one in learner.likelihood.parameters(META).items())
    assert learner.method.outer == abmll.build_method("reptile").outer, "for this call alone"
    assert "reptile on LlamaForCausalLM" in repr(learner)
    assert "meta-trained for 3 steps" in repr(learner)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps = 0: must be a whole number, at least 1"),
        ({"order": "randm"}, "order = \"randm\": must be one of: random, sequential. Did you mean 'random'"),
        ({"learning_rate": "0.1"}, 'learning_rate = "0.1": must be a number, above 0. Write 0.1 without quotes'),
        ({"schedule": "cos"}, 'schedule = "cos": must be one of: constant, linear, cosine'),
        ({"support_size": 0}, "support_size = 0: must be a whole number, at least 1"),
        (
            {"stepz": 3},
            r"meta_train has no option stepz\. Options: num_steps.*, learning_rate, schedule, max_grad_norm",
        ),
        ({"num_step": 3}, r"meta_train has no option num_step\. Did you mean 'num_steps'\?"),
        ({"on_step": 3}, r"on_step is int: it must be a function"),
        ({"validate": "accuracy"}, r"validate is str: it must be a function"),
        ({"training": abmll.Training(), "num_steps": 3}, r"give num_steps in training=Training\(\.\.\.\)"),
    ],
)
def test_mistakes_of_meta_training(options, message, learner):
    with pytest.raises(AbmllError, match=message):
        learner.meta_train(tiny_tasks(), **options)


def test_what_cannot_be_trained_on(learner):
    with pytest.raises(AbmllError, match="meta_train needs tasks, and found str"):
        learner.meta_train(["a", "b"])
    unlabelled = abmll.Task("t", tuple(row._replace(target=None) for row in ROWS))
    with pytest.raises(AbmllError, match="tasks with unlabelled rows cannot be trained on: t"):
        learner.meta_train([unlabelled])
    with pytest.raises(AbmllError, match="has no label"):
        learner.evaluate([unlabelled], support_sizes=[2]).table()
    with pytest.raises(AbmllError, match=r"unknown suite 'no-such-suite'.* Nor is there a folder of this name"):
        learner.meta_train("no-such-suite")
    with pytest.raises(AbmllError, match="there is no suite at no-such-folder: give a folder of tasks"):
        learner.meta_train("no-such-folder/")


def test_an_evaluation_is_lazy_kept_and_added_up(learner, tmp_path, monkeypatch):
    adaptations = []
    adapt = type(learner.method.adaptation).adapt
    monkeypatch.setattr(
        type(learner.method.adaptation), "adapt", lambda self, *a: adaptations.append(1) or adapt(self, *a)
    )
    found = learner.evaluate(tiny_tasks(2), support_sizes=[2], num_query=4)
    assert repr(found) == "Evaluation(0 cells of 0 tasks, more to be made; methods: none yet)"
    first = next(iter(found))
    assert len(adaptations) == 1
    assert next(iter(found)).key == first.key
    assert len(found.cells) == len(adaptations) == 2
    assert "lora" in found.table()
    assert "| lora |" in found.table(markdown=True)
    assert repr(found) == "Evaluation(2 cells of 2 tasks; methods: lora)"
    both = found + learner.evaluate(tiny_tasks(2), support_sizes=[2], num_query=4, name="again")
    assert both.summary().methods == ("lora", "again")
    assert len(read_cells(both.save(tmp_path / "p.jsonl"))) == 4


def test_every_thing_says_what_it_is(posterior, learner):
    assert repr(posterior).startswith(
        "TaskPosterior(task 'films', classes ['negative', 'positive'], by lora, 12 labelled rows, "
    )
    assert repr(learner).startswith("Learner(lora on LlamaForCausalLM, ")
    assert len(repr(tiny_task())) < 200
    assert "24 rows" in repr(tiny_task())
    assert len(repr(abmll.Suite("s", train=(tiny_task(),)))) < 200
    assert repr(posterior.inner).startswith("AdapterPosterior(a point, ")
    assert repr(learner.likelihood).startswith("CausalLMLikelihood(LlamaForCausalLM, PromptFormat(answer='text'")
    evaluation = learner.evaluate([tiny_task()], support_sizes=[2], num_query=4)
    assert repr(evaluation.cells[0]).startswith("Cell(lora on ")
    assert repr(evaluation.cells[0]).endswith(", from 2 examples, seed 0: 4 rows, 1 samples)")
    assert repr(evaluation.summary()) == "Summary(lora; against lora; 1 tasks, seeds 0, support sizes 2)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: abmll.Learner(tiny_llama(layers=1)), r"the tokenizer is missing: Learner\(model, tokenizer\)"),
        (
            lambda: abmll.Learner(tiny_llama(layers=1), "lora"),
            "tokenizer is str, .* A method is named by method='lora'",
        ),
        (lambda: abmll.Learner("default", "lora"), "brings its own tokenizer: .* A method is named by method='lora'"),
        (lambda: abmll.Learner(3), "model is int: give a name"),
        (lambda: learner_of(dtype="float16"), "dtype go with a model given by name"),
        (lambda: learner_of(prompt={"answer": "text"}), "prompt is dict: it must be an abmll.PromptFormat"),
        (
            lambda: learner_of("lora", r=0, optimizer="SGD", lora_alpha="x"),
            r"3 mistakes:\n  r = 0: .*\n  lora_alpha = .*\n  optimizer = ",
        ),
    ],
)
def test_mistakes_in_making_a_learner(make, message):
    with pytest.raises(AbmllError, match=message):
        make()


def test_an_adapter_folder_is_no_language_model(learner, tmp_path):
    with pytest.raises(AbmllError, match=r"is a saved adapter, not a language model\. Load it with abmll\.load\(\)"):
        abmll.Learner(learner.save(tmp_path / "adapter"))


def test_a_pair_is_a_model_and_its_tokenizer():
    learner = abmll.Learner((tiny_llama(layers=1), tiny_tokenizer()), method="lora", r=2)
    assert learner.tokenizer is tiny_tokenizer()
    assert learner.likelihood.parameters(TASK)
