"""Every row of the table through train, adapt and predict: the folder answers as the process that adapted did."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from abmll.card import CARD, read_card
from abmll.cli import app
from abmll.config import dump_toml
from abmll.config.methods import default_options
from abmll.core.errors import AbmllError
from abmll.core.types import TASK
from abmll.data.readers import read_task
from abmll.data.task import Task
from abmll.evaluation.calibration import mixture
from abmll.methods import METHODS
from abmll.pipeline import adapt_run, predict_run, train_run
from abmll.pipeline.build import load_learner
from abmll.pipeline.predict import model_of
from tests.parameters import few_of
from tests.pipeline.stages import read_lines, run_config, write_csv
from tests.tiny_tasks import tiny_task

FEW_STEPS = {"num_steps": 3, "learning_rate": 0.03, "num_members": 2, "num_iterations": 2, "num_search_samples": 2}
ONE_ADAPTER = {"pretrained", "lora", "multitask", "reptile", "fomaml", "maml", "abml", "mc-dropout", "abmll-output"}
ONE_ADAPTER |= {"abmll-paper", "lorahub"}

# Their posterior is one adapter, as that of lora or abmll-output is, or demonstrations, as that of in-context.
LIKE_ANOTHER = {"multitask", "reptile", "fomaml", "maml", "abml", "abmll-paper", "mc-dropout"}
LIKE_ANOTHER |= {"metaicl", "abmll-in-context"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("new")
    task = tiny_task("new", 12)
    query = write_csv(folder / "query.csv", Task("query", task.examples[8:]), labelled=False)
    return write_csv(folder / "new.csv", Task("new", task.examples[:8])), query


def options_of(name):
    return {key: FEW_STEPS[key] for key in FEW_STEPS if key in METHODS[name].__annotations__ and name != "abmll-paper"}


@pytest.fixture(scope="module")
def folders(base, suite, files, tmp_path_factory):
    """The adapter folder of a method and that of a task adapted from it; each is made once."""
    made = {}

    def of(name):
        if name not in made:
            output = tmp_path_factory.mktemp(name) / "run"
            training = {"num_steps": 1, "checkpoint_every": 1}
            config = run_config(
                base, suite, output, method={"name": name, "options": options_of(name)}, training=training
            )
            adapter = train_run(config, progress=False)
            made[name] = adapter, adapt_run(adapter, files[0], output.parent / "adapted")
        return made[name]

    return of


def load(folder):
    return load_learner(model_of(folder, ()), folder)


@pytest.mark.parametrize("name", few_of(METHODS, set(METHODS) - LIKE_ANOTHER))
def test_a_saved_posterior_answers_as_in_one_process_and_the_adapter_beside_it_is_its_mean(
    name, folders, files, tmp_path
):
    """The mean is what plain PEFT and servers make of the folder: θ for what has none, as an ensemble."""
    adapter, adapted = folders(name)
    learner, rows = load(adapter), read_task(files[1], labelled=False).examples
    posterior = learner.adapt(read_task(files[0]).examples)
    expected = posterior.predict(rows, 3).log_probs
    found = load(adapted).posterior().predict(rows, 3).log_probs
    assert torch.equal(found, expected)

    answers = read_lines(predict_run(adapted, files[1], tmp_path / "answers.jsonl", num_samples=3))
    probabilities = torch.tensor([list(answer["probabilities"].values()) for answer in answers]).double()
    torch.testing.assert_close(probabilities, mixture(expected.double()).exp(), rtol=0, atol=1e-6)

    assert (adapted / "posterior.safetensors").exists() == (name not in ONE_ADAPTER)
    assert (adapted / "lora").exists() == (learner.method.adapter.kind == "abmll")
    card = read_card(adapted)
    own = {"num_loras": 4} if name in {"lorahub", "arrow"} else {}  # one for each training task
    assert (card.role, card.method, card.options) == (TASK, name, default_options(name) | options_of(name) | own)

    saved, mean = load_file(adapted / "adapter_model.safetensors"), posterior.mean()
    if mean is None:
        assert name in {"abmll", "ensemble", "uniform", "label-frequency", "arrow"}
        mean = load_file(adapter / "adapter_model.safetensors")
    assert saved.keys() == mean.keys()
    assert all(torch.equal(saved[key], tensor) for key, tensor in mean.items())


def test_the_command_line_adapts_and_predicts_with_several_adapters(base, suite, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    method: dict[str, Any] = {"name": "ensemble", "options": {"num_members": 2, "num_steps": 1}}
    (tmp_path / "run.toml").write_text(dump_toml(run_config(base, suite, "run", method=method)))
    for command in (
        ["train", "run.toml", "-q"],
        ["adapt", "run/adapter", str(files[0]), "-o", "adapted"],
        ["predict", "adapted", str(files[1]), "-o", "answers.jsonl"],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    assert len(read_lines(tmp_path / "answers.jsonl")) == 4
    with safe_open("adapted/posterior.safetensors", "pt") as file:
        assert {name.partition(".")[0] for name in file.keys()} == {"member0", "member1"}  # noqa: SIM118 (no mapping)
        assert file.metadata()["method"] == "ensemble"
        assert json.loads(file.metadata()["options"]).items() >= method["options"].items()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"posterior.safetensors is missing: .*only the posterior's mean. Adapt to"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), r"is damaged, or belongs to another .* Adapt to"),
        (lambda path: foreign(path), r"is damaged, or belongs to another adapter"),
        (lambda path: without_a_tensor(path), r"is no posterior of method 'in-context' .*'demonstrations'.* Adapt to"),
        (
            lambda path: card_of(path, {"posterior": {"file": "x"}}),
            r"abmll.json is damaged \(posterior.sha256 is missing\)",
        ),
        (lambda path: card_of(path, {"posterior": 3}), r"abmll.json is damaged"),
    ],
    ids=["missing", "cut", "another-task", "lacks-a-tensor", "card-without-digest", "card-with-a-number"],
)
def test_a_posterior_that_does_not_belong_is_one_clear_error(damage, message, folders, tmp_path):
    folder = tmp_path / "adapted"
    shutil.copytree(folders("in-context")[1], folder)
    damage(folder / "posterior.safetensors")
    with pytest.raises(AbmllError, match=message):
        load(folder)


def foreign(path):
    tensors = load_file(path)
    tensors["demonstrations"] = tensors["demonstrations"].flip(0)
    save_file(tensors, path)


def without_a_tensor(path):
    """The card vouches for the file, but it is not what the method needs."""
    import hashlib

    save_file({key: value for key, value in load_file(path).items() if key != "demonstrations"}, path)
    card_of(path, {"posterior": {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}})


def card_of(path, fields):
    card = path.with_name(CARD)
    card.write_text(json.dumps(json.loads(card.read_text()) | fields))


def test_a_folder_that_is_written_over_keeps_nothing_of_the_old_posterior(folders, tmp_path):
    """Neither a posterior nor an exported mean of the method before."""
    folder = tmp_path / "adapted"
    for name, kept in (
        ("abmll-output", {"lora"}),
        ("laplace", {"posterior.safetensors"}),
        ("lora", set()),
        ("abmll-output", {"lora"}),
    ):
        learner = load(folders(name)[0])
        learner.save(folder, posterior=learner.adapt(tiny_task("new", 12).examples[:8]))
        assert {"lora", "posterior.safetensors"} & {path.name for path in folder.iterdir()} == kept, name
        assert type(load(folder).posterior().inner).__name__ == (
            "LaplacePosterior" if name == "laplace" else "AdapterPosterior"
        )
