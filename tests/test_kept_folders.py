"""What was written, is read: one folder of every kind, kept from when it was written, loads and answers as it did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import abmll
from abmll.card import CARD_FORMAT, read_card
from abmll.config.methods import known_options
from abmll.methods import METHODS
from tests.copied import made_once
from tests.tiny_tasks import tiny_task

KEPT = Path(__file__).parent / "kept"
FOLDERS = sorted(path.parent for path in KEPT.glob("format-*/*/abmll.json"))


@made_once
def base():
    """The base model and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = KEPT / "base"
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_a_folder_answers_as_it_did_when_it_was_written(folder):
    rows = tiny_task("reviews", 12).examples[8:]
    posterior = abmll.Learner.load(folder, *base()).posterior()
    expected = torch.tensor(json.loads((folder / "predicted.json").read_text()))
    torch.testing.assert_close(posterior.inner.predict(rows, 0), expected, rtol=0, atol=2e-4)
    assert posterior.inner.predict(rows, 2).isfinite().all()
    card = read_card(folder)
    assert card.format == int(folder.parent.name.removeprefix("format-"))
    assert (card.task.name, card.base_model, card.prompt.answer) == ("reviews", "base", "text")
    assert card.task.choices == ("negative", "positive")


def test_a_card_means_every_option_of_its_method():
    """Those that its method got later, too, as it was without them."""
    for folder in FOLDERS:
        card = read_card(folder)
        assert set(card.options) >= set(known_options(card.method)), folder
    first = read_card(KEPT / "format-2" / "abmll")
    assert first.options["warm_up"] == 0.0
    assert first.method == "abmll-natural", "as it is called since another one has its name"
    assert read_card(KEPT / "format-2" / "abmll-of-adam").method == "abmll-adam"
    assert read_card(KEPT / "format-2" / "abmll-of-a-head").method == "abmll"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_plain_peft_reads_its_mean(folder):
    from peft import PeftModel

    lora = folder / "lora" if (folder / "lora").is_dir() else folder
    plain = PeftModel.from_pretrained(base()[0], lora)
    assert {type(config).__name__ for config in plain.peft_config.values()} == {"LoraConfig"}


def test_every_method_and_every_format_is_kept():
    """A new method, or a new format of the card, adds folders: tests/kept/README.md says how."""
    without_model = {"uniform", "label-frequency"}
    assert {read_card(folder).method for folder in FOLDERS} >= set(METHODS) - without_model
    assert {folder.parent.name for folder in FOLDERS} == {f"format-{number}" for number in range(1, CARD_FORMAT + 1)}
