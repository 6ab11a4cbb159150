"""The library in one object, on a tiny Llama: what the README shows, what is saved, and what is refused."""

from __future__ import annotations

import inspect
import json
import math
import shutil
from typing import Any

import pytest
import torch

import abmll
from abmll.card import CARD, read_card
from abmll.config.methods import default_options
from abmll.core.errors import AbmllError
from abmll.core.params import clone
from abmll.core.types import META, TASK
from abmll.language.prompt import encode
from abmll.methods.table.options import RESERVED
from tests.tiny import tiny_llama, tiny_tokenizer
from tests.tiny_tasks import tiny_task, tiny_tasks

TEXT: dict[str, Any] = {"answer": "text"}


def learner_of(method="abmll-adam", *, model=None, prompt=TEXT, **options):
    options = {"r": 2, "lora_alpha": 4} | ({"num_steps": 2} if method == "abmll-adam" else {}) | options
    prompt = abmll.PromptFormat(**prompt)
    return abmll.Learner(model or tiny_llama(layers=1), tiny_tokenizer(), method, prompt=prompt, **options)


def meta_trained(**options):
    learner = learner_of(**options)
    learner.meta_train(tiny_tasks(), num_steps=2, support_size=4, query_size=4, progress=False)
    return learner


def drawn(posterior, query, num_samples=3):
    return posterior.predict(query, num_samples).log_probs


@pytest.fixture(scope="module")
def learner():
    return meta_trained(model=tiny_llama(), outer_learning_rate=0.03)


@pytest.fixture(scope="module")
def rows():
    return tiny_task("new", 12).examples


@pytest.fixture(scope="module")
def saved(learner, rows, tmp_path_factory):
    """A folder with θ, a folder with the posterior of a task, and that posterior."""
    folder = tmp_path_factory.mktemp("learner")
    posterior = learner.adapt(rows[:6])
    return learner.save(folder / "meta"), learner.save(folder / "task", posterior=posterior), posterior


# Ten lines


def test_from_a_causal_lm_to_calibrated_probabilities(tmp_path, rows):
    model, tokenizer, support, query = tiny_llama(layers=1), tiny_tokenizer(), rows[:6], rows[6:]
    learner = abmll.Learner(model, tokenizer)
    result = learner.meta_train(tiny_tasks(), num_steps=2, support_size=4, query_size=4, progress=False)
    posterior = learner.adapt(support)
    probabilities = posterior.predict(query, num_samples=4).probabilities
    learner.save(tmp_path / "adapter")

    assert result.num_steps == 2
    assert probabilities.shape == (6, 2)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(6))
    assert sorted(p.name for p in (tmp_path / "adapter").iterdir()) == [
        "README.md",
        CARD,
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_names_are_public_and_complete():
    assert all(getattr(abmll, name) is not None for name in dir(abmll))
    with pytest.raises(AttributeError, match="no attribute 'Lerner'"):
        _ = abmll.Lerner


def test_meta_training_moves_theta_and_nothing_of_the_model():
    base = tiny_llama(layers=1)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    learner = learner_of(model=base)
    theta = clone(learner.likelihood.parameters(META))
    learner.meta_train(tiny_tasks(), num_steps=1, support_size=4, query_size=4, progress=False)
    assert any(not torch.equal(theta[name], value) for name, value in learner.likelihood.parameters(META).items())
    after = {name.replace("base_layer.", ""): value for name, value in base.state_dict().items()}
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_seed_decides_everything():
    def weights(seed):
        learner = learner_of(seed=seed)
        learner.meta_train(tiny_tasks(), num_steps=1, support_size=4, query_size=4, seed=seed, progress=False)
        return torch.cat(
            [value.flatten() for value in learner.adapt(tiny_task().examples[:4], seed=seed).mean().values()]
        )

    first, again, other = weights(0), weights(0), weights(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# What is saved


def test_a_saved_theta_adapts_and_predicts_as_before(learner, saved, rows):
    folder, _, posterior = saved
    loaded = abmll.Learner.load(folder, tiny_llama(), tiny_tokenizer())
    assert (loaded.name, loaded.options) == ("abmll-adam", default_options("abmll-adam") | learner.options)
    assert loaded.likelihood.prompt == learner.likelihood.prompt
    again = loaded.adapt(rows[:6])
    assert torch.equal(drawn(again, rows[6:]), drawn(posterior, rows[6:]))


def test_a_saved_posterior_predicts_as_before(saved, rows):
    _, folder, posterior = saved
    loaded = abmll.Learner.load(folder, tiny_llama(), tiny_tokenizer())
    assert read_card(folder).role == TASK
    predicted = drawn(loaded.posterior(), rows)
    assert len({tuple(sample.flatten().tolist()) for sample in predicted}) == 3, "samples, not the mean"
    assert torch.equal(predicted, drawn(posterior, rows))


@pytest.mark.parametrize("method", ["lora", "multitask", "reptile", "abmll-paper", "maml"])
def test_other_methods_are_saved_alike(method, rows, tmp_path):
    learner = learner_of(method)
    posterior = learner.adapt(rows[:10])
    loaded = abmll.Learner.load(learner.save(tmp_path, posterior=posterior), tiny_llama(layers=1), tiny_tokenizer())
    assert torch.equal(drawn(loaded.posterior(), rows), drawn(posterior, rows))


def test_plain_peft_loads_the_mean(rows, tmp_path):
    from peft import PeftModel

    learner = meta_trained(outer_learning_rate=0.03, num_steps=5, scale=False)  # no adapter can say a scale
    posterior = learner.adapt(rows[:6])
    folder = learner.save(tmp_path, posterior=posterior)
    plain = PeftModel.from_pretrained(tiny_llama(layers=1), str(folder / "lora"))
    assert {type(config).__name__ for config in plain.peft_config.values()} == {"LoraConfig"}
    expected = posterior.predict(rows, 0).log_probs[0]
    base = tiny_llama(layers=1)
    torch.testing.assert_close(naive_choice_log_probs(plain, rows), expected, rtol=0, atol=1e-5)
    assert (naive_choice_log_probs(base, rows) - expected).abs().max() > 1e-3, "adapting changed something"


@torch.no_grad()
def naive_choice_log_probs(model, rows):
    """Length-normalised over the choices' tokens, by one plain pass a choice."""
    scores = []
    for row in rows:
        encoded = encode(row, tiny_tokenizer(), abmll.PromptFormat(**TEXT))
        for choice in encoded.choices:
            logits = model(input_ids=torch.tensor([[*encoded.prefix, *choice]])).logits[0].log_softmax(-1)
            start = len(encoded.prefix) - 1
            scores.append(torch.stack([logits[start + i, token] for i, token in enumerate(choice)]).mean())
    return torch.stack(scores).view(len(rows), -1).log_softmax(-1)


# The model as it comes


def test_gradient_checkpointing_changes_no_gradient():
    def gradient(checkpointing):
        model = tiny_llama()
        if checkpointing:
            model.gradient_checkpointing_enable()  # transformers' default is the non-reentrant kind
        learner = learner_of(model=model)
        if checkpointing == "after":
            learner.model.gradient_checkpointing_enable()
        rows = tiny_task().examples
        torch.manual_seed(0)
        learner.method.meta_learner.meta_gradient(learner.likelihood, abmll.Episode("t", rows[:4], rows[4:8]))
        recomputes = any(getattr(module, "gradient_checkpointing", False) for module in learner.model.modules())
        assert recomputes == bool(checkpointing)
        return {name: value.grad for name, value in learner.likelihood.parameters(META).items()}

    plain = gradient(False)
    assert max(grad.abs().max() for grad in plain.values()) > 0
    for when in ("before", "after"):
        for name, grad in gradient(when).items():
            torch.testing.assert_close(grad, plain[name], rtol=1e-5, atol=1e-9)


def test_reentrant_checkpointing_is_refused():
    model = tiny_llama()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(AbmllError, match=r"reentrant kind: turn it on by .*'use_reentrant': False"):
        meta_trained(model=model, method="abmll-output")


def test_a_bfloat16_model_gets_float32_adapters_and_predicts_alike(rows):
    predictions = []
    for dtype in (torch.float32, torch.bfloat16):
        learner = meta_trained(model=tiny_llama(layers=1, dtype=dtype))
        parameters = learner.likelihood.parameters(META).values()
        assert {parameter.dtype for parameter in parameters} == {torch.float32}
        assert all(parameter.isfinite().all() for parameter in parameters)
        predictions.append(learner.adapt(rows[:6]).predict(rows[6:], 32).probabilities)
    assert predictions[1].dtype == torch.float32
    torch.testing.assert_close(*predictions, rtol=0, atol=0.02)


# What is refused


def test_unknown_names_are_told():
    with pytest.raises(AbmllError, match=r"method = \"reptil\": no such method\. Did you mean 'reptile'\? Methods: "):
        learner_of("reptil")
    with pytest.raises(
        AbmllError, match=r"support_wieght: abmll-adam has no such option\. Did you mean 'support_weight'\?"
    ):
        learner_of(support_wieght=1.0)
    with pytest.raises(AbmllError, match=r"target_modules names 'q_porj', .*Did you mean 'q_proj'\?"):
        learner_of(target_modules=["q_porj"])


def test_a_model_is_taken_once():
    model = tiny_llama()
    learner_of(model=model)
    with pytest.raises(AbmllError, match=r"already has PEFT adapters: pass the plain model, or .*model\.unload\(\)"):
        learner_of(model=model)


def test_a_folder_without_a_card(tmp_path):
    with pytest.raises(AbmllError, match=rf"{CARD} is missing: .* Give the folder that `abmll train` or"):
        abmll.Learner.load(tmp_path, tiny_llama(), tiny_tokenizer())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda card: card[: len(card) // 2], "is damaged"),
        (lambda card: "[1, 2]", "is damaged"),
        (lambda card: "\xff\x00", "is damaged"),
        (lambda card: without(card, "prompt"), r"is damaged \(prompt is missing\)"),
        (lambda card: changed(card, prompt={"anwser": "text"}), r"is damaged .*anwser"),
        (lambda card: changed(card, adapter={"rank": 2}), r"is damaged .*rank"),
        (lambda card: changed(card, options=3), "is damaged"),
        (lambda card: changed(card, format=3), r"has format 3, this version reads up to 2\. Update abmll\."),
        (
            lambda card: changed(card, method="abml2"),
            "cannot use the adapter card .*: method = .abml2.: no such method. Did you mean 'abml'",
        ),
        (lambda card: adapter_of(card, r=0), r"is damaged \(adapter.r = 0: .*greater than or equal to 1\)"),
        (
            lambda card: adapter_of(card, r=10**9),
            r"\(adapter.r = 1000000000: .*less than or equal to 1024\)",
        ),
        (
            lambda card: adapter_of(card, r="8", lora_alpha=None),
            r"is damaged \(adapter.r = '8': .*integer; adapter.lora_alpha = None: .*integer\)",
        ),
        (lambda card: changed(card, options={"num_steps": "5"}), "num_steps = .5.: must be a whole number"),
        (lambda card: changed(card, options={"num_steps": -1}), "cannot use the adapter card .*num_steps"),
        (lambda card: changed(card, options={"support_weight": math.nan}), r"is damaged \(NaN is no JSON number\)"),
        (lambda card: "[" * 100_000, "is damaged"),
        (lambda card: changed(card, dtype="int8"), r"is damaged \(dtype = 'int8': "),
        (lambda card: changed(card, base_model="a\0b"), r"is damaged \(the text holds a NUL character"),
        (lambda card: task_card(card, ["a"]), r"is damaged \(task = .*choices must be two different words or more"),
        (lambda card: task_card(card, ["a", "a"]), "choices must be two different words or more"),
        (lambda card: task_card(card, ["a", " "]), "choices must be two different words or more"),
        (lambda card: task_card(card, ["a", "b"], [1, 2, 3]), "there are 3 labels for 2 choices"),
        (lambda card: adapter_of(card, target_modules="["), "is no regular expression: unterminated character set"),
        (lambda card: adapter_of(card, target_modules="(.+)+!"), "which may take for ever"),
        (lambda card: adapter_of(card, target_modules="(a|b*)+"), "which may take for ever"),
        (
            lambda card: changed(card, method="this:factory"),
            'is of a method from outside abmll, "this:factory", and loading it would run .* --method this:factory',
        ),
    ],
    ids=[
        "half",
        "list",
        "bytes",
        "no-prompt",
        "prompt",
        "adapter",
        "options",
        "format",
        "method",
        "r-0",
        "r-huge",
        "adapter-types",
        "option-type",
        "option-range",
        "option-nan",
        "deep",
        *("dtype", "nul", "one-choice", "same-choices", "blank-choice", "labels", "no-pattern", "pattern", "pattern-2"),
        "foreign-method",
    ],
)
def test_a_damaged_card(saved, tmp_path, damage, message):
    folder = tmp_path / "adapter"
    shutil.copytree(saved[0], folder)
    card = damage((folder / CARD).read_text(encoding="utf-8"))
    (folder / CARD).write_bytes(card.encode("latin-1"))
    with pytest.raises(AbmllError, match=message) as error:
        abmll.Learner.load(folder, tiny_llama(), tiny_tokenizer())
    if "damaged" in message:
        assert str(folder / CARD) in str(error.value)
        assert "save the adapter again" in str(error.value)


def changed(card, **fields):
    return json.dumps(json.loads(card) | fields)


def task_card(card, choices, labels=()):
    return changed(card, task={"name": "t", "question": "?", "choices": choices, "labels": list(labels)})


def adapter_of(card, **fields):
    return changed(card, adapter=json.loads(card)["adapter"] | fields)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"r": 0}, "r = 0: must be a whole number, at least 1, at most 1024"),
        ({"r": 2.5}, "r = 2.5: must be a whole number"),
        ({"lora_alpha": -1}, "lora_alpha = -1: "),
        ({"num_steps": 2.5}, "num_steps = 2.5: must be a whole number"),
        ({"prompt": {"answer": "letter"}}, "answer = .letter.: must be one of: .*letters, text"),
    ],
)
def test_what_a_card_could_not_hold_is_no_argument_either(given, message):
    with pytest.raises(AbmllError, match=message):
        learner_of(**given)


def without(card, field):
    return json.dumps({key: value for key, value in json.loads(card).items() if key != field})


def test_another_base_model_is_refused(saved):
    with pytest.raises(AbmllError, match=r"the model needs \(.*\): it was made for another base model"):
        abmll.Learner.load(saved[0], tiny_llama(hidden=48), tiny_tokenizer())
    with pytest.raises(
        AbmllError,
        match=r"cannot load the adapter in .*: target_modules names 'model.layers.1.* no module of this Llama.* has",
    ):
        abmll.Learner.load(saved[0], tiny_llama(layers=1), tiny_tokenizer())


def test_damaged_weights_are_refused(saved, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(saved[0], folder)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(AbmllError, match=r"adapter_model.safetensors is damaged .*restore it from a backup"):
        abmll.Learner.load(folder, tiny_llama(), tiny_tokenizer())
    weights.unlink()
    with pytest.raises(AbmllError, match=r"no adapter weights in .*adapter_model.safetensors is missing"):
        abmll.Learner.load(folder, tiny_llama(), tiny_tokenizer())


def test_nothing_to_adapt_to_and_nothing_to_evaluate(learner):
    with pytest.raises(AbmllError, match=r"there are no rows: the list is empty\. Give at least one"):
        learner.adapt([])
    with pytest.raises(AbmllError, match=r"no tasks to evaluate: the suite's split is empty. .*held_out"):
        list(learner.evaluate([]))


@pytest.mark.parametrize(("batch_size", "taken"), [(None, 6), (4, 4), (99, 6)])
def test_batch_size_bounds_what_an_inner_step_takes(batch_size, taken, rows, tmp_path, monkeypatch):
    learner = learner_of("lora", num_steps=2, batch_size=batch_size)
    sizes, terms = [], learner.likelihood.terms
    monkeypatch.setattr(
        learner.likelihood, "terms", lambda batch, **options: sizes.append(len(batch)) or terms(batch, **options)
    )
    learner.adapt(rows[:6])
    assert sizes == [taken, taken]
    loaded = abmll.Learner.load(learner.save(tmp_path), tiny_llama(layers=1), tiny_tokenizer(), prediction_batch_size=1)
    assert (loaded.method, loaded.likelihood.batch_size) == (learner.method, 1)


def test_no_option_of_a_method_is_taken_for_one_of_the_learner():
    own = set(inspect.signature(abmll.Learner).parameters) - {"options"}
    assert own == RESERVED
    assert not [
        (name, taken) for name, row in abmll.METHODS.items() if (taken := own & set(inspect.signature(row).parameters))
    ]
