"""answer = "auto" of a run: settled once, written into the run, the same for every method, command and process."""

from __future__ import annotations

import pytest

from abmll.config import load_config
from abmll.core.errors import AbmllError
from abmll.language import likelihood as module
from abmll.pipeline import compare_run, evaluate_run, train_run
from tests.pipeline.stages import read_json, run_config

pytestmark = pytest.mark.usefixtures("undrawn")
AUTO = {"answer": "auto"}
LORA = {"name": "lora", "options": {"num_steps": 1}}


@pytest.fixture
def asked(monkeypatch):
    """How often the model was asked; it knows letters."""
    calls = []
    monkeypatch.setattr(module, "letter_agreement", lambda *_: calls.append(1) or 1.0)
    return calls


def test_a_comparison_asks_once_and_goes_on_with_it(base, suite, tmp_path, asked, monkeypatch):
    config = run_config(base, suite, tmp_path, prompt=AUTO, method=LORA | {"name": ["lora", "pretrained"]})
    compare_run(config, tmp_path, baseline="lora", progress=False)
    assert asked == [1]
    assert load_config(tmp_path / "run.toml").prompt.answer == "letters"
    monkeypatch.setattr(module, "letter_agreement", lambda *_: pytest.fail("settled before"))
    more = config.model_copy(update={"method": config.method.model_copy(update={"name": ("lora", "temperature")})})
    compare_run(more, tmp_path, baseline="lora", progress=False)
    with pytest.raises(AbmllError, match=r"prompt.answer was 'letters' and is now 'text'"):
        compare_run(run_config(base, suite, tmp_path, method=LORA), tmp_path, progress=False)


def test_training_puts_it_on_the_card_and_evaluation_takes_it_from_there(base, suite, tmp_path, asked):
    config = run_config(base, suite, tmp_path / "run", prompt=AUTO)
    adapter = train_run(config, progress=False)
    assert read_json(adapter / "abmll.json")["prompt"]["answer"] == "letters"
    assert load_config(tmp_path / "run" / "run.toml").prompt.answer == "letters"
    evaluate_run(config, adapter, tmp_path / "evaluated", progress=False)
    assert load_config(tmp_path / "evaluated" / "run.toml").prompt.answer == "letters"
    assert asked == [1]


def test_a_method_that_asks_no_model_settles_nothing(base, suite, tmp_path, asked):
    config = run_config(base, suite, tmp_path, prompt=AUTO, method={"name": "uniform"})
    compare_run(config, tmp_path, baseline="uniform", progress=False)
    assert asked == []
