"""What stops a run is told before it begins; what ends it leaves nothing half-written."""

from __future__ import annotations

import collections
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

import abmll
from abmll.cli import app
from abmll.config import dump_toml
from abmll.core.errors import AbmllError
from abmll.core.types import Example
from abmll.data.task import Task
from abmll.pipeline import adapt_run, compare_run, evaluate_run, predict_run, train_run, tune_run
from abmll.pipeline.acquire import acquire_run
from tests.pipeline.stages import run_config, write_csv
from tests.tiny import tiny_llama, tiny_tokenizer
from tests.tiny_tasks import tiny_task

pytestmark = pytest.mark.usefixtures("undrawn")
MANY = tuple(f"label {n}" for n in range(77))


@pytest.fixture(scope="module")
def adapters(base, suite, tmp_path_factory):
    """A fresh adapter of each of some methods, by name."""

    def make(name, **options):
        output = tmp_path_factory.mktemp(name) / "run"
        return train_run(run_config(base, suite, output, method={"name": name, "options": options}), progress=False)

    return make


@pytest.fixture
def no_model(monkeypatch):
    """Whoever loads the weights fails."""

    def load(*_, **__):
        raise AssertionError("the model was loaded before everything was checked")

    monkeypatch.setattr("abmll.models.load", load)


@pytest.fixture
def bad_suite(tmp_path):
    """One task with more labels than letters, one with a row that cannot fit, and one to be evaluated on."""
    folder = tmp_path / "bad"
    folder.mkdir()
    write_csv(folder / "many.csv", Task("many", tuple(Example(f"t {n}", MANY, n % 77, id=f"m{n}") for n in range(80))))
    rows = list(tiny_task("fit", 40).examples)
    rows[30] = rows[30]._replace(choices=("good " * 90, "bad"), id="f30", prompt="x")
    write_csv(folder / "fit.csv", Task("fit", tuple(rows)))
    for name in ("held", "valid"):
        own = [row._replace(prompt=f"{row.prompt} {name}") for row in tiny_task(name, 40).examples]
        write_csv(folder / f"{name}.csv", Task(name, tuple(own)))
    (folder / "suite.toml").write_text('test_tasks = ["held"]\nvalidation_tasks = ["valid"]\n')
    return folder


RUNS = {
    "train": lambda config: train_run(config, progress=False),
    "evaluate": lambda config: evaluate_run(config, None, config.output, progress=False),
    "compare": lambda config: compare_run(config, config.output, baseline="abmll", progress=False),
    "tune": lambda config: tune_run(config, config.output, progress=False),
}


@pytest.mark.parametrize("run", RUNS)
def test_all_mistakes_of_rows_and_folder_are_told_at_once_before_the_model_is_loaded(
    run, base, bad_suite, tmp_path, no_model, monkeypatch
):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(10, 10, 1000))
    config = run_config(
        base, bad_suite, tmp_path / "run", prompt={"answer": "letters", "max_tokens": 64}, model={"device": "cuda"}
    )
    with pytest.raises(AbmllError) as refused:
        RUNS[run](config)
    text = str(refused.value)
    assert text.startswith("4 mistakes:\n")
    assert "finds no CUDA device" in text
    assert "run: 0 MiB are free there, and results need about 1 MiB" in text
    assert "many.csv), row 'm0': it has 77 choices, and letters name at most 26" in text
    assert "(79 more of its 80 rows: 'm1', 'm2', 'm3', …)" in text
    assert "fit.csv), row 'f30': " in text
    assert "max_tokens is 64" in text
    assert not (tmp_path / "run").exists()


def test_adapt_and_predict_check_their_rows_too(adapters, tmp_path, no_model, monkeypatch):
    monkeypatch.undo()
    adapter = adapters("lora")
    monkeypatch.setattr("abmll.models.load", lambda *_, **__: pytest.fail("loaded too early"))
    lines = [
        {"id": row.id, "input": row.prompt, "options": ["good " * 600, "bad"], "target": row.target}
        for row in tiny_task("new", 8).examples
    ]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    too_long = r"new.jsonl\)?, row .new/0.: does not fit: .*\(7 more of its 8"
    for run in (adapt_run, predict_run, acquire_run):
        with pytest.raises(AbmllError, match=too_long):
            run(adapter, tmp_path / "new.jsonl", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_try_checks_its_rows_and_device_at_once_before_the_model_is_loaded(adapters, base, tmp_path, monkeypatch):
    adapter = adapters("lora")
    monkeypatch.setattr("abmll.models.load", lambda *_, **__: pytest.fail("loaded too early"))
    rows = [row._replace(choices=("good " * 600, "bad")) for row in tiny_task("new", 24).examples]
    path = write_csv(tmp_path / "new.csv", Task("new", tuple(rows)))
    named = [f"model.name={base}", "prompt.answer=text", "adapter.r=2"]
    for words in (["--adapter", str(adapter)], named):
        result = CliRunner().invoke(app, ["try", str(path), *words, "model.device=cuda", "--support", "8"])
        assert result.exit_code == 2
        told = " ".join(result.stderr.split())
        assert "2 mistakes:" in told
        assert "finds no CUDA device" in told
        assert "new.csv), row 'new/0': does not fit: " in told
        assert "(23 more of its 24 rows" in told
    result = CliRunner().invoke(app, ["try", str(path), *named, "--method", "lora", "method.options.num_step=3"])
    assert "num_step" in result.stderr


def test_acquire_checks_rows_and_folder_at_once(adapters, tmp_path, monkeypatch):
    adapter = adapters("lora")
    monkeypatch.setattr("abmll.models.load", lambda *_, **__: pytest.fail("loaded too early"))
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(10, 10, 1000))
    rows = [row._replace(choices=("good " * 600, "bad")) for row in tiny_task("new", 8).examples]
    pool = write_csv(tmp_path / "pool.csv", Task("pool", tuple(rows)))
    result = CliRunner().invoke(
        app, ["acquire", str(adapter), str(pool), "-o", str(tmp_path / "results" / "next.jsonl")]
    )
    assert result.exit_code == 2
    told = " ".join(result.stderr.split())
    assert "2 mistakes:" in told
    assert "0 MiB are free there" in told
    assert "row 'new/0': does not fit: " in told
    assert not (tmp_path / "results").exists()


def test_an_adapter_is_not_saved_into_a_folder_in_use(tmp_path):
    from filelock import FileLock

    from abmll.core.folders import LOCK, hold

    learner = abmll.Learner(tiny_llama(), tiny_tokenizer(), "lora", r=2)
    (tmp_path / "a").mkdir()
    with FileLock(tmp_path / "a" / LOCK), pytest.raises(AbmllError, match="a is in use by another process"):
        learner.save(tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] in ([], [LOCK])
    with hold(tmp_path / "a"):  # by the run that saves
        learner.save(tmp_path / "a")
        assert (tmp_path / "a" / LOCK).exists()
    learner.save(tmp_path / "b")
    names = [{path.name for path in (tmp_path / folder).iterdir()} for folder in "ab"]
    assert names[0] == names[1]
    assert not any("lock" in name for name in names[0])


def test_an_adaptation_that_overflows_stops_and_writes_nothing(adapters, tmp_path):
    adapter = adapters("lora", learning_rate=1e20, num_steps=3)
    task = write_csv(tmp_path / "new.csv", tiny_task("new", 12))
    with pytest.raises(AbmllError, match=r"adapting to .* overflowed: .* is not finite .* Lower .*learning_rate"):
        adapt_run(adapter, task, tmp_path / "adapted")
    assert not (tmp_path / "adapted").exists()
    result = CliRunner().invoke(app, ["adapt", str(adapter), str(task), "-o", str(tmp_path / "adapted")])
    assert result.exit_code == 2
    assert not (tmp_path / "adapted").exists()


def test_an_evaluation_that_overflows_names_the_task_and_keeps_what_is_finished(base, suite, tmp_path):
    method = {"name": "lora", "options": {"learning_rate": 1e20, "num_steps": 3}}
    with pytest.raises(AbmllError, match=r"adapting to task 'task-4' by lora from 4 examples overflowed"):
        evaluate_run(run_config(base, suite, tmp_path / "run", method=method), None, tmp_path / "run", progress=False)
    assert "NaN" not in "".join(path.read_text() for path in (tmp_path / "run").glob("*.json*"))


def test_a_disk_that_fills_up_while_an_adapter_is_written(adapters, tmp_path, monkeypatch):
    adapter = adapters("abmll-adam")
    learner = abmll.Learner.load(adapter, tiny_llama(layers=1), tiny_tokenizer())
    before = {path: path.read_bytes() for path in adapter.rglob("*") if path.is_file()}

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(AbmllError, match=r"cannot write .*: No space left on device"):
        learner.save(adapter)
    assert {path: path.read_bytes() for path in adapter.rglob("*") if path.is_file()} == before
    with pytest.raises(AbmllError, match="No space left on device"):
        learner.save(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_nan_is_never_saved(adapters, tmp_path):
    learner = abmll.Learner.load(adapters("lora"), tiny_llama(layers=1), tiny_tokenizer())
    next(iter(learner.likelihood.parameters("meta").values())).data.fill_(float("nan"))
    with pytest.raises(AbmllError, match=r"holds nan or infinity: .* is not written"):
        learner.save(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_the_readme_says_which_folder_is_for_whom(adapters, tmp_path):
    meta = (adapters("abmll-adam") / "README.md").read_text(encoding="utf-8")
    assert "method: `abmll-adam` of abmll 0." in meta
    assert "`lora/`: the mean as an ordinary LoRA, for plain PEFT" in meta
    assert 'PeftModel.from_pretrained(base_model, "THIS_FOLDER/lora")' in meta
    learner = abmll.Learner.load(adapters("laplace", num_steps=1), tiny_llama(layers=1), tiny_tokenizer())
    task = Task("a `name`\n# heading", tiny_task("new", 8).examples, "good or bad?")
    learner.save(tmp_path / "new", posterior=learner.adapt(task.examples), task=task)
    text = (tmp_path / "new" / "README.md").read_text(encoding="utf-8")
    assert "- task: `a 'name'\\n# heading`" in text
    assert "- question: `good or bad?`" in text
    assert "- answers: `negative`, `positive`" in text
    assert "it is also an ordinary LoRA (the mean), for plain PEFT" in text
    assert "`posterior.safetensors`: the rest of the posterior" in text
    assert "base_model:" not in text, "the path of a folder is no name on a hub"
    (tmp_path / "new" / "README.md").write_text("my own words")
    learner.save(tmp_path / "new", posterior=learner.adapt(task.examples), task=task)
    assert (tmp_path / "new" / "README.md").read_text() == "my own words"
    assert load_file(tmp_path / "new" / "posterior.safetensors")


def test_versions_of_a_file_get_predictions_of_their_own(adapters, tmp_path):
    adapter = adapters("lora")
    for name in ("x.v1.csv", "x.v2.csv"):
        write_csv(tmp_path / name, tiny_task("new", 4), labelled=False)
        result = CliRunner().invoke(app, ["predict", str(adapter), str(tmp_path / name)])
        assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.glob("*.predictions.jsonl")) == [
        "x.v1.predictions.jsonl",
        "x.v2.predictions.jsonl",
    ]


def test_a_folder_in_use_is_refused_by_every_command(base, suite, tmp_path, monkeypatch):
    config = run_config(base, suite, tmp_path / "run")
    (tmp_path / "run.toml").write_text(dump_toml(config))
    from filelock import FileLock

    from abmll.core.folders import LOCK

    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / LOCK):
        for command in (["train"], ["evaluate"], ["compare", str(suite), "--run"]):
            result = CliRunner().invoke(app, [*command, str(tmp_path / "run.toml"), "-q"])
            assert result.exit_code == 2
            assert "run is in use by another process. Wait until that ends" in " ".join(result.stderr.split())
