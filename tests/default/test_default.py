"""The embedded model and suite as a user meets them: sizes, tokens, offline loading, and being any good."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest
import torch

import abmll.default as default
from abmll.core.errors import AbmllError
from abmll.default.tasks import FAMILIES
from abmll.default.vocabulary import ATTRIBUTES, NAMES

ROWS = 40
"""Of the wide suite's tasks, which take seconds to draw; test_wide.py draws them whole."""


@pytest.fixture(scope="module")
def loaded():
    return default.model()


@pytest.fixture(scope="module")
def suite():
    return default.suite()


@pytest.fixture(scope="module")
def wide():
    return default.wide_suite(num_rows=ROWS)


def test_importing_the_package_loads_neither_torch_nor_transformers():
    code = "import sys, abmll.default; print([n for n in ('torch', 'transformers', 'peft') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_model_is_small_float32_and_independent_of_other_loads(loaded):
    model, _ = loaded
    assert model.config.model_type == "llama"
    assert model.num_parameters() <= 1_000_000
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    other, _ = default.model()
    assert other.lm_head.weight.data_ptr() != model.lm_head.weight.data_ptr()


def test_files_fit_the_wheel():
    files = {path.name: path.stat().st_size for path in default.MODEL_DIRECTORY.iterdir()}
    assert sum(files.values()) < 2_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "training.json"} <= files.keys()


def test_training_record_tells_of_these_weights(loaded):
    model, _tokenizer = loaded
    record = json.loads((default.MODEL_DIRECTORY / "training.json").read_text(encoding="utf-8"))
    assert record["parameters"] == model.num_parameters()
    assert record["recipe"]["hidden_size"] == model.config.hidden_size
    assert record["curve"][-1]["step"] == record["recipe"]["num_steps"]
    assert record["heldout_loss"] < record["curve"][0]["loss"]


def test_words_of_the_world_are_single_tokens(loaded):
    _, tokenizer = loaded
    words = [word for attribute in ATTRIBUTES.values() for word in attribute.words]
    words += [choice for family in FAMILIES.values() for choice in family.choices]
    for word in (*words, *NAMES, *"ABCDEFGH"):
        assert len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1, word


def test_label_word_follows_the_prompt_as_its_own_token(loaded):
    _, tokenizer = loaded
    prompt = tokenizer.encode("Does the buyer like it?\nA big, old hat.\nAnswer:")
    assert tokenizer.encode("Does the buyer like it?\nA big, old hat.\nAnswer: yes")[:-1] == prompt
    assert prompt[0] == tokenizer.bos_token_id


@pytest.mark.parametrize(
    "text", ["Größe: 7 €", "日本語のテキスト", "𝛉 ← 𝛉 − ε∇ 🦙", "\ttabs\r\nand\x00zero", "don't   stop"]
)
def test_any_text_survives_the_tokenizer(loaded, text):
    _, tokenizer = loaded
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text


def test_suite_is_made_of_valid_short_tasks(loaded, suite):
    _, tokenizer = loaded
    assert (len(suite.train), len(suite.validation), len(suite.test)) == (24, 6, 10)
    for task in suite.tasks:
        assert len(task.examples) == 300
        assert {example.question for example in task.examples} == {task.question}
        assert {example.target for example in task.examples} == set(range(len(task.examples[0].choices)))
        assert len({example.id for example in task.examples}) == 300
    prompts = [f"{e.question}\n{e.prompt}\nAnswer:" for task in suite.tasks for e in task.examples[:50]]
    assert max(len(ids) for ids in tokenizer(prompts).input_ids) <= 32


@torch.no_grad()
def accuracy(model, tokenizer, documents) -> float:
    """Share of (prompt, choices, target) whose likeliest choice, by its one token, is the target."""
    encoded = tokenizer([prompt for prompt, _, _ in documents], padding=True, padding_side="right", return_tensors="pt")
    last = encoded.attention_mask.sum(1) - 1
    logits = model(**encoded).logits[torch.arange(len(last)), last]
    hits = []
    for row, (_, choices, target) in zip(logits, documents, strict=True):
        tokens = [tokenizer.encode(f" {choice}", add_special_tokens=False)[0] for choice in choices]
        hits.append(int(row[tokens].argmax()) == target)
    return sum(hits) / len(hits)


def test_model_has_learned_to_read(loaded):
    prompt = "{question}\nThis hat is huge, cheap, dark and new.\nAnswer:"
    questions = [
        ("What is its size?", ATTRIBUTES["size"].words, 3),
        ("What is its price?", ATTRIBUTES["price"].words, 0),
        ("What is its shade?", ATTRIBUTES["shade"].words, 2),
        ("Is it handy?", ("no", "yes"), 0),
    ]
    asked = [(prompt.format(question=question), choices, target) for question, choices, target in questions]
    assert accuracy(*loaded, asked) == 1.0


def test_suite_is_neither_known_nor_foreign_to_the_model(loaded, suite):
    binary = [task for task in suite.tasks if len(task.examples[0].choices) == 2]
    asked = [(f"{e.question}\n{e.prompt}\nAnswer:", e.choices, e.target) for task in binary for e in task.examples[:20]]
    assert 0.52 < accuracy(*loaded, asked) < 0.7


def test_missing_weights_are_an_error_that_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(default, "MODEL_DIRECTORY", tmp_path)
    with pytest.raises(AbmllError, match=r"missing from .*Reinstall abmll, or make the model again with `python -m"):
        default.model()


def test_wide_suite_is_made_of_valid_short_tasks(loaded, wide):
    _, tokenizer = loaded
    assert (len(wide.train), len(wide.validation), len(wide.test)) == (60, 12, 48)
    for task in wide.tasks:
        assert len(task.examples) == ROWS
        assert {example.target for example in task.examples} == set(range(len(task.examples[0].choices)))
    for choice in {choice for task in wide.tasks for choice in task.examples[0].choices}:
        assert len(tokenizer.encode(f" {choice}", add_special_tokens=False)) == 1, choice
    prompts = [f"{e.question}\n{e.prompt}\nAnswer:" for task in wide.tasks for e in task.examples[:20]]
    assert max(len(ids) for ids in tokenizer(prompts).input_ids) <= 32


def test_suites_are_found_by_name(suite, wide, monkeypatch):
    assert default.SUITES["default-wide"] is default.wide_suite
    assert inspect.signature(default.wide_suite).parameters["num_rows"].default == 300
    monkeypatch.setitem(default.SUITES, "default-wide", lambda: wide)
    assert default.find_suite("default-wide") is wide
    assert wide.name == "default-wide"
    assert default.find_suite("default").test == suite.test
    with pytest.raises(AbmllError, match=r"unknown suite 'default-wid'.*Did you mean 'default-wide'"):
        default.find_suite("default-wid")
    with pytest.raises(AbmllError, match="default-wide suite has its own split"):
        default.find_suite("default-wide", held_out=0.3)


def test_concepts_are_words_that_stand_under_one_concept_alone():
    suite = default.concepts_suite()
    assert (len(suite.train), len(suite.validation), len(suite.test)) == (16, 5, 12)
    sides = [{task.family for task in side} for side in (suite.train, suite.validation, suite.test)]
    assert sum(map(len, sides)) == len(set().union(*sides)), "no family is on two sides"
    words = [example.prompt for task in suite.tasks for example in task.examples if example.target == 1]
    assert len(words) == len(set(words)) == 33 * 24
    for task in suite.tasks:
        prompts = [example.prompt for example in task.examples]
        assert len(prompts) == len(set(prompts)) == 48
        assert sum(example.target for example in task.examples) == 24
        inside = {example.prompt for example in task.examples if example.target}
        near = {e.prompt for other in suite.tasks if other.family == task.family for e in other.examples if e.target}
        assert sum(prompt in near for prompt in prompts if prompt not in inside) == 12, "half are of the family"
    colour = next(task for task in suite.test if task.name == "colour")
    stones = {e.prompt for task in suite.test if task.name == "gemstone" for e in task.examples if e.target}
    assert not stones & {example.prompt for example in colour.examples}, "a ruby is a colour, too"
    assert default.find_suite("concepts").test == suite.test
    assert default.concepts_suite(seed=1).test != suite.test
