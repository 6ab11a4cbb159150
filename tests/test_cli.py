"""The command line: what each command hands on, how it ends, and that help loads nothing heavy."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import abmll
from abmll.cli import app
from abmll.config import RunConfig, field_entries, load_config
from abmll.core.errors import AbmllError
from abmll.evaluation.predictions import Cell, append_cell
from abmll.pipeline.compare import Budget, Comparison
from abmll.pipeline.pool import Failure

COMMANDS = ("train", "adapt", "predict", "evaluate", "tune", "compare", "report", "demo", "config", "tasks")
HEAVY = ("torch", "transformers", "peft", "numpy", "matplotlib", "jinja2", "abmll.config")


class FakePipeline(types.ModuleType):
    """Records how it is called, and answers with the path it is told to write or raises what it is told to raise."""

    def __init__(self) -> None:
        super().__init__("abmll.pipeline")
        self.calls: list[tuple] = []
        self.failure: BaseException | None = None
        self.failures: list[Failure] = []
        self.Budget = Budget

    def _called(self, *call):
        self.calls.append(call)
        if self.failure is not None:
            raise self.failure

    def train_run(self, config, *, resume, progress):
        self._called("train", config, resume, progress)
        return config.output / "adapter"

    def adapt_run(self, adapter, task, out, *, support_size, seed, overrides, method, check, tell):
        self._called("adapt", adapter, task, out, support_size, seed, overrides, check)
        return out

    def predict_run(self, adapter, file, out, *, num_samples, overrides, method, tell):
        self._called("predict", adapter, file, out, num_samples, overrides)
        return out

    def evaluate_run(self, config, adapter, out, *, progress):
        self._called("evaluate", config, adapter, out, progress)
        predictions = out / "predictions.jsonl"
        append_cell(predictions, cell("abmll"))
        return predictions

    def tune_run(self, config, out, *, jobs, progress):
        self._called("tune", config, out, jobs, progress)
        return out / "tuned.toml", self.failures

    def compare_run(self, config, out, *, baseline, budget, jobs, progress):
        self._called("compare", config, out, baseline, budget, jobs, progress)
        return Comparison("THE TABLE\n", out / "comparison.md", out / "report.html", self.failures, 4)

    def demo_run(self, out, *, model, suite, seeds, progress, quick):
        self._called("demo", out, seeds, progress, quick)
        return SimpleNamespace(
            text="the table", table=out / "comparison.md", report=out / "report.html", failures=[], num_units=15
        )


def cell(method: str, seed: int = 0, task: str = "t", right: float = 0.9) -> Cell:
    log_probs = torch.tensor([[[right, 1 - right], [1 - right, right]]]).log()
    return Cell(method, seed, task, "f", 16, ("a", "b"), torch.tensor([0, 1]), log_probs)


@pytest.fixture
def pipeline(monkeypatch) -> FakePipeline:
    fake = FakePipeline()
    monkeypatch.setitem(sys.modules, "abmll.pipeline", fake)
    monkeypatch.setattr(abmll, "pipeline", fake, raising=False)
    return fake


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Commands run in a folder of their own, with a run file, an adapter and a task in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    # Commands quieten libraries for their own process: here that process is the tests'.
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "warning")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    Path("run.toml").write_text("[training]\nnum_steps = 5\n")
    Path("adapter").mkdir()
    Path("empty").mkdir()
    Path("adapter/adapter_config.json").write_text("{}")
    rows = [
        {"id": f"r{n}", "input": f"text {n}", "options": ["bad", "good"], "target": int(n % 3 == 0)} for n in range(6)
    ]
    Path("task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(*words: object) -> str:
    """Runs a command that must end as a user's mistake does, and returns its message."""
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    return result.stderr


SERVER = """
import os, sys
import typer, abmll.cli
typer.main.get_command(abmll.cli.app)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(os.path.join(line.strip(), name), os.O_WRONLY | os.O_CREAT), number)
        exec(open(os.path.join(line.strip(), "code")).read(), {"__name__": "__main__"})
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Forks a process for each folder that it is told: it runs the code there and ends as an interpreter does."""


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> Iterator[Callable[[str], tuple[int, str, str]]]:
    """Runs code in a process of its own, in which the commands are known already: status, standard output and error."""
    words = [sys.executable, "-c", SERVER]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:

        def run_code(code: str) -> tuple[int, str, str]:
            folder = tmp_path_factory.mktemp("process")
            (folder / "code").write_text(code)
            print(folder, file=server.stdin, flush=True)
            status = int(server.stdout.readline())
            return status, (folder / "stdout").read_text(), (folder / "stderr").read_text()

        yield run_code
        server.stdin.close()


# Help


def test_help_loads_no_library():
    code = (
        "import sys\nfrom abmll.cli import app\n"
        f"for words in [[], *[[c] for c in {COMMANDS}], ['tasks', 'list'], ['tasks', 'validate']]:\n"
        "    app([*words, '--help'], standalone_mode=False)\n"
        f"print('LOADED', sorted(set({HEAVY}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_help_answers_at_once():
    resource = pytest.importorskip("resource")  # CPU seconds: a busy machine's wall clock says nothing

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "abmll.cli", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(seconds() < 0.5 for _ in range(3))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    first, _, rest = run(command, "--help").stdout.partition("\n\n")
    assert f"abmll {command}" in first.replace("root", "abmll")
    assert "..." not in next(line for line in run("--help").stdout.splitlines() if line.startswith(f"  {command} "))
    if command != "tasks":
        assert f"  abmll {command}" in rest, "an example"


def test_version():
    from importlib.metadata import version

    result = run("--version")
    assert (result.exit_code, result.stdout.strip()) == (0, f"abmll {version('abmll')}")


# What is handed on


def test_train_resolves_the_run_file_and_its_overrides(pipeline):
    result = run("train", "run.toml", "seed=3", "output=runs/x", "--resume", "--quiet")
    assert result.exit_code == 0, result.output
    expected = load_config("run.toml", ["seed=3", "output=runs/x"])
    assert pipeline.calls == [("train", expected, True, False)]
    assert expected.training.num_steps == 5
    assert "runs/x/adapter" in result.stdout
    assert "abmll adapt" in result.stdout


def test_train_shows_progress_and_starts_anew_by_default(pipeline):
    run("train", "run.toml")
    assert pipeline.calls[0][2:] == (False, True)


def test_adapt_and_predict(pipeline):
    words = ("adapt", "adapter", "task.jsonl", "-o", "out", "--support-size", 4, "--seed", 2, "model.name=m")
    assert run(*words).exit_code == 0
    assert run("predict", "adapter", "task.jsonl").exit_code == 0
    assert run("predict", "adapter", "task.jsonl", "-o", "p.jsonl", "--num-samples", 0).exit_code == 0
    adapter, task = Path("adapter"), Path("task.jsonl")
    assert pipeline.calls == [
        ("adapt", adapter, task, Path("out"), 4, 2, ["model.name=m"], True),
        ("predict", adapter, task, Path("task.predictions.jsonl"), 16, ()),
        ("predict", adapter, task, Path("p.jsonl"), 0, ()),
    ]


def test_a_run_folder_stands_for_the_adapter_in_it(pipeline, folder):
    (folder / "runs").mkdir()
    (folder / "adapter").rename("runs/adapter")
    assert run("adapt", "runs", "task.jsonl", "-o", "out").exit_code == 0
    assert pipeline.calls[0][1] == Path("runs/adapter")


def test_evaluate_writes_beside_the_run_and_prints_the_table(pipeline):
    Path("runs/run").mkdir(parents=True)
    result = run("evaluate", "run.toml", "--adapter", "adapter")
    assert result.exit_code == 0, result.output
    assert pipeline.calls == [("evaluate", load_config("run.toml"), Path("adapter"), Path("runs/run"), True)]
    assert "accuracy" in result.stdout.lower()
    assert "runs/run/predictions.jsonl" in result.stdout


def test_demo(pipeline):
    assert run("demo", "-o", "d", "--seeds", 2, "--quick").exit_code == 0
    assert run("demo").exit_code == 0
    assert pipeline.calls == [("demo", Path("d"), 2, True, True), ("demo", Path("runs/demo"), 3, True, False)]


# Reports


@pytest.fixture
def rendered(monkeypatch) -> list:
    """What the report was asked to show."""
    calls: list = []

    def write_report(cells, summary, aurocs, out, training_logs, run_info, queries):
        calls.append((cells, out, training_logs, run_info))
        return out

    module: Any = types.ModuleType("abmll.reports.report")
    module.write_report = write_report
    monkeypatch.setitem(sys.modules, "abmll.reports.report", module)
    return calls


def predictions(folder: str, *cells: Cell) -> Path:
    path = Path(folder, "predictions.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    for one in cells:
        append_cell(path, one)
    return path


def test_report_takes_what_lies_beside_the_predictions(rendered):
    path = predictions("runs/a", cell("abmll"), cell("lora"))
    Path("runs/a/train/abmll").mkdir(parents=True)
    Path("runs/a/train/abmll/training.jsonl").touch()
    Path("runs/a/provenance.json").write_text('{"commit": "abc"}')
    result = run("report", path, "-o", "r.html")
    assert result.exit_code == 0, result.output
    [(cells, out, logs, info)] = rendered
    assert [one.method for one in cells] == ["abmll", "lora"]
    assert out == Path("r.html")
    assert logs == {"runs/a/train/abmll": Path("runs/a/train/abmll/training.jsonl")}
    assert info == {"commit": "abc"}


def test_report_merges_evaluations_and_drops_repeated_cells(rendered):
    one = predictions("a", cell("abmll"), cell("lora"))
    two = predictions("b", cell("lora"), cell("reptile"))
    Path("b/provenance.json").write_text('{"commit": "abc"}')
    assert run("report", one, two).exit_code == 0
    [(cells, _, _, info)] = rendered
    assert [one.method for one in cells] == ["abmll", "lora", "reptile"]
    assert info == {"b/predictions.jsonl": {"commit": "abc"}}


def test_report_refuses_evaluations_that_contradict_each_other(rendered):
    one, two = predictions("a", cell("abmll")), predictions("b", cell("abmll", right=0.6))
    told = refused("report", one, two)
    assert "a/predictions.jsonl and b/predictions.jsonl hold different predictions" in told
    assert rendered == []


def test_report_takes_differences_to_what_is_named(rendered):
    path = predictions("a", cell("lora"), cell("reptile"))
    result = run("report", path, "--baseline", "reptile")
    assert result.exit_code == 0, result.output
    assert "difference to reptile on the same tasks and seeds" in result.stdout
    assert "unknown baseline 'reptil'. Did you mean 'reptile'? Choose one of: lora, reptile" in refused(
        "report", path, "--baseline", "reptil", "--overwrite"
    )
    assert len(rendered) == 1


@pytest.mark.parametrize("damage", ["{", "[1]", "3", "[" * 10_000, '{"a": NaN}'])
def test_report_is_made_without_a_damaged_provenance_file(rendered, damage):
    path = predictions(f"a{len(damage)}", cell("abmll"))
    Path(path).with_name("provenance.json").write_text(damage)
    result = run("report", path)
    assert result.exit_code == 0, result.output
    assert "Warning: the report is made without" in result.stderr
    assert "provenance.json" in result.stderr
    assert rendered[0][-1] == {}


def test_report_takes_no_text_of_a_provenance_file_for_its_own(rendered):
    path = predictions("a", cell("abmll"))
    Path("a/provenance.json").write_text('{"title": 3, "held_out_families": 5, "commit": {"a": [1]}}')
    assert run("report", path).exit_code == 0
    assert rendered[0][-1] == {"commit": {"a": [1]}}


# Configuration


def test_config_prints_every_field_explained_as_a_run_file_of_defaults():
    printed = run("config").stdout
    Path("printed.toml").write_text(printed)
    assert load_config("printed.toml") == RunConfig()
    flat = " ".join(line.removeprefix("# ") for line in printed.splitlines())
    for row in field_entries():
        assert f"{row.path.rpartition('.')[2]} =" in printed
        assert f"{row.description} ({row.rule})" in flat, row.path


def test_config_resolves_a_run_file():
    printed = tomllib.loads(run("config", "run.toml", "seed=9").stdout)
    assert (printed["seed"], printed["training"]["num_steps"], printed["adapter"]["r"]) == (9, 5, 8)


def test_config_lists_methods_with_their_options():
    from abmll.methods import METHODS

    blocks = {block.splitlines()[0]: block for block in run("config", "--methods").stdout.strip().split("\n\n")}
    assert list(blocks) == [*METHODS, "NAME+scale", "NAME+icl", "NAME+metaicl"]
    assert "weight_std" in blocks["abmll"]
    assert "support_weight" in blocks["abmll-adam"]


# Tasks


def test_tasks_show():
    shown = run("tasks", "show", "task.jsonl", "-n", 1).stdout
    assert "task: 6 rows" in shown
    assert "Classes: bad (4), good (2)" in shown
    assert "[r0] text 0\n    choices: bad | good\n    answer:  good" in shown
    assert "[r1]" not in shown


def test_tasks_list():
    Path("tasks").mkdir()
    for name in ("one", "two"):
        Path(f"tasks/{name}.jsonl").write_text(Path("task.jsonl").read_text().replace("text", name))
    lines = run("tasks", "list", "tasks").stdout.splitlines()
    assert lines[0].split() == ["split", "task", "family", "rows", "choices"]
    assert [line.split() for line in lines[1:3]] == [["train", "one", "6", "2"], ["train", "two", "6", "2"]]
    assert lines[-1] == "tasks: 2 to train on, 0 for validation, 0 held out"


def test_tasks_validate_names_the_row_and_fails():
    assert run("tasks", "validate", "task.jsonl").exit_code == 0
    with open("task.jsonl", "a") as file:
        file.write('{"id": "r9", "input": "x", "options": ["bad", "good"], "target": 5}\n')
    result = run("tasks", "validate", ".")
    assert result.exit_code == 1
    assert "task.jsonl:7 [target]: error:" in result.stdout
    assert result.stderr == ""
    assert "checked: 1 error, " in result.stdout


def test_tasks_validate_tells_errors_first_file_by_file_on_one_stream_and_json_to_machines():
    Path("a.csv").write_text("text;label\n" + "".join(f"row {n};{'xy'[n % 2]}\n" for n in range(40)) + ";x\n")
    result = run("tasks", "validate", "a.csv", "task.jsonl", "a.csv")
    assert result.exit_code == 1
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == "a.csv: 40 rows, 2 classes: x (20), y (20); the rows in error aside"
    assert lines[2].startswith("a.csv:42 [text]: error: the input is empty. Fill it")
    assert lines[3].startswith("a.csv: note: cells are separated by a semicolon")
    assert lines[4].startswith("task.jsonl: 6 rows, 2 classes: ")
    assert lines[-1] == "2 files checked: 1 error, 1 warning"
    found = json.loads(run("tasks", "validate", "a.csv", "--json").stdout)
    assert (found["errors"], found["warnings"], found["notes"]) == (1, 0, 1)
    (file,) = found["files"]
    assert file["classes"] == {"x": 20, "y": 20}
    assert file["problems"][0] | {"cure": ""} == {
        **{"file": "a.csv", "line": 42, "field": "text", "message": "the input is empty", "cure": ""},
        "severity": "error",
    }


def test_tasks_validate_tells_of_manifests_and_of_files_that_folders_pass_over():
    Path("tasks").mkdir()
    Path("tasks/one.jsonl").write_text(Path("task.jsonl").read_text())
    Path("tasks/other.json").write_text('[{"text": "a", "label": "x"}]')
    Path("tasks/manifest.json").write_text('{"tasks": [{"file": "gone.csv"}, {"file": "one.jsonl", "family": 3}]}')
    told = run("tasks", "validate", "tasks").stdout
    assert "manifest.json [file]: error: the manifest lists 'gone.csv', which is not in the folder. Restore it" in told
    assert "manifest.json [family]: error: 'family' of task 1 is 3. Write a text." in told
    assert "other.json: note: the file is passed over where a folder is read. Give it by itself" in told


def test_tasks_validate_asks_the_model_whether_choices_begin_alike(monkeypatch):
    class Letters:
        def encode(self, text, add_special_tokens):
            return [ord(letter) for letter in text.strip()]

    def load_tokenizer(name):
        if name != "by-letter":
            raise AbmllError(f"no tokenizer {name!r}")
        return Letters()

    monkeypatch.setattr("abmll.models.load_tokenizer", load_tokenizer)
    row = '{"input": "%s", "options": ["no", "not at all"], "target": %d}\n'
    Path("alike.jsonl").write_text(row % ("one", 0) + row % ("three", 1))
    result = run("tasks", "validate", "alike.jsonl", "--model", "by-letter")
    assert result.exit_code == 0, "a warning is no error"
    assert "alike.jsonl:1 [options]: warning: the choices 'no' and 'not at all' begin with the same" in result.stdout
    assert "\n  3-5 tokens (median 4) a text, 2-10 tokens (median 6) an answer\n" in result.stdout
    without = run("tasks", "validate", "alike.jsonl").output
    assert "begin with the same" not in without
    assert "tokens" not in without
    assert refused("tasks", "validate", "alike.jsonl", "--model", "absent") == "Error: no tokenizer 'absent'\n"


# How a command ends


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "absent.toml"], "no run file at absent.toml. Run files there: run.toml"),
        (["train", "run.toml", "training.num_stepz=3"], "Did you mean training.num_steps?"),
        (["train", "run.toml", 'method.name=["lora", "abmll"]'], "names 2 methods, but train takes one"),
        (["evaluate", "run.toml", 'method.name=["lora", "abmll"]', "--adapter", "adapter"], "an adapter has one"),
        (["evaluate", "run.toml", "--adapter", "absent"], "absent does not exist"),
        (["adapt", "empty", "task.jsonl", "-o", "out"], "empty is no adapter folder: it holds no adapter_config.json"),
        (["adapt", "adapter", "absent.jsonl", "-o", "out"], "no task file at absent.jsonl"),
        (["adapt", "adapter", "adapter", "-o", "out"], "adapter is a folder; give one task file"),
        (["adapt", "adapter", "task.jsonl", "-o", "."], "is a folder with other things in it"),
        (["adapt", "adapter", "task.jsonl", "-o", "adapter"], "already holds a result"),
        (["adapt", "adapter", "task.jsonl", "-o", "run.toml"], "run.toml is a file"),
        (["predict", "adapter", "task.jsonl", "-o", "run.toml"], "run.toml exists"),
        (["predict", "adapter", "task.jsonl", "-o", "adapter", "--overwrite"], "adapter is a folder"),
        (["report", "absent.jsonl"], "no predictions file at absent.jsonl"),
        (["demo", "-o", "run.toml"], "run.toml is a file"),
        (["tasks", "show", "absent.jsonl"], "no task file at absent.jsonl"),
        (["tasks", "validate", "empty"], "empty holds no task"),
        (["tasks", "list", "absent"], "unknown suite 'absent'"),
    ],
)
def test_a_mistake_is_one_message_and_nothing_runs(pipeline, words, told):
    message = refused(*words)
    assert message.startswith("Error: ")
    assert told in " ".join(message.split())
    assert pipeline.calls == []


def test_a_result_is_replaced_when_asked_for(pipeline):
    Path("p.jsonl").write_text("old")
    assert run("adapt", "adapter", "task.jsonl", "-o", "adapter", "--overwrite").exit_code == 0
    assert run("predict", "adapter", "task.jsonl", "-o", "p.jsonl", "--overwrite").exit_code == 0
    assert len(pipeline.calls) == 2


def test_a_mistake_found_later_is_told_the_same_way(pipeline):
    pipeline.failure = AbmllError("task 'x' has 3 rows, 32 are needed. Add rows.")
    assert refused("train", "run.toml") == "Error: task 'x' has 3 rows, 32 are needed. Add rows.\n"


def test_an_interruption_says_how_to_resume(pipeline, monkeypatch):
    pipeline.failure = KeyboardInterrupt()
    monkeypatch.setattr(sys, "argv", ["/somewhere/abmll", "train", "run.toml", "output=my runs"])
    result = run("train", "run.toml", "output=my runs")
    assert result.exit_code == 130
    assert "abmll train run.toml 'output=my runs' --resume" in result.stderr
    monkeypatch.setattr(sys, "argv", ["/somewhere/abmll", "demo"])
    result = run("demo")
    assert result.exit_code == 130
    assert "The same command goes on from there:\n  abmll demo\n" in result.stderr


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_scheduler_that_ends_a_command_is_told_how_to_resume(name, ended):
    code = (
        "import os, signal, sys, types\n"
        "signal.signal(signal.{name}, signal.SIG_DFL)\n"  # which nohup ignores, and so would the command
        "fake = types.ModuleType('abmll.pipeline')\n"
        "def demo_run(*_, **__):\n"
        "    try: os.kill(os.getpid(), signal.{name})\n"
        "    finally: os.kill(os.getpid(), signal.{name}); print('tidied up', flush=True)\n"
        "fake.demo_run = demo_run\nsys.modules['abmll.pipeline'] = fake\n"
        "import abmll; abmll.pipeline = fake\n"
        "from abmll.cli import app; sys.argv = ['abmll', 'demo']; app()"
    )
    status, out, told = ended(code.format(name=name))
    assert status == 128 + signal.Signals[name], told
    assert out == "tidied up\n", "a second signal does not cut off the tidying up"
    assert told == f"\nEnded by {name}. What is finished is kept. The same command goes on from there:\n  abmll demo\n"


# Tune and compare


def test_tune_hands_on_and_says_what_is_next(pipeline):
    result = run("tune", "run.toml", "tune.trials=3", "-o", "tuned", "--jobs", "2")
    assert result.exit_code == 0, result.output
    (_, config, out, jobs, progress) = pipeline.calls[0]
    assert (config.tune.trials, out, jobs, progress) == (3, Path("tuned"), 2, True)
    assert "abmll compare default --run run.toml --tuned tuned/tuned.toml" in result.stdout


def test_compare_puts_the_command_line_into_the_run(pipeline):
    Path("tuned.toml").write_text("[method.options.lora]\nlearning_rate = 0.5\n[method.options.reptile]\n")
    words = "compare my_tasks --methods lora,abmll --seeds 5 --support 4,16 -o out --budget steps=7 --jobs 3 -q"
    result = run(
        *words.split(), "--run", "run.toml", "--tuned", "tuned.toml", "training.num_steps=9", "--baseline", "lora"
    )
    assert result.exit_code == 0, result.output
    (_, config, out, baseline, budget, jobs, progress) = pipeline.calls[0]
    assert (config.data.suite, config.method.names, config.training.num_steps) == ("my_tasks", ("lora", "abmll"), 9)
    assert (config.evaluation.seeds, config.evaluation.support_sizes) == ((0, 1, 2, 3, 4), (4, 16))
    assert config.method.options_for("lora") == {"learning_rate": 0.5}
    assert (out, baseline, budget, jobs, progress) == (Path("out"), "lora", Budget("steps", 7), 3, False)
    assert result.stdout.startswith("THE TABLE\n\nTable:  out/comparison.md\nReport: out/report.html")


def test_compare_without_a_run_file_has_the_defaults(pipeline):
    assert run("compare", "default").exit_code == 0
    (_, config, out, baseline, budget, jobs, progress) = pipeline.calls[0]
    assert config == RunConfig()
    assert (out, baseline, budget, jobs, progress) == (config.output, None, None, 1, True)


def test_what_failed_is_named_at_the_end_with_status_1(pipeline):
    pipeline.failures = [Failure("lora, seed 1", "the loss is NaN")]
    result = run("compare", "default", "--methods", "lora,abmll", "--seeds", "2")
    assert result.exit_code == 1
    assert "THE TABLE" in result.stdout
    assert result.stderr == (
        "1 of 4 failed; the others are done. The same command tries these again:\n  lora, seed 1: the loss is NaN\n"
    )
    assert run("tune", "run.toml").exit_code == 1


def test_mistakes_on_the_command_line_of_compare(pipeline):
    assert "no such method. Did you mean 'reptile'?" in refused("compare", "default", "--methods", "reptil")
    assert "give whole numbers with commas" in refused("compare", "default", "--support", "4;16")
    assert "give steps, steps=20, seconds" in refused("compare", "default", "--budget", "fast")
    told = refused("compare", "default", "--tuned", "absent.toml")
    assert 'method.tuned = "absent.toml": cannot be used (there is no file absent.toml)' in told
    Path("wrong.toml").write_text("[lora]\nlearning_rate = 1\n")
    assert "it holds no tables [method.options.NAME]" in refused("compare", "default", "--tuned", "wrong.toml")
    assert pipeline.calls == []


def test_a_bug_keeps_its_traceback_and_a_mistake_has_none(ended):
    code = (
        "import sys, types\nfrom abmll.core.errors import AbmllError\n"
        "fake = types.ModuleType('abmll.pipeline')\n"
        "def demo_run(*_, **__): raise {error}\n"
        "fake.demo_run = demo_run\nsys.modules['abmll.pipeline'] = fake\n"
        "import abmll; abmll.pipeline = fake\n"
        "from abmll.cli import app; app(['demo'])"
    )

    def end(error: str) -> tuple[int, str]:
        status, _, told = ended(code.format(error=error))
        return status, told

    status, told = end("RuntimeError('a bug')")
    assert status == 1
    assert told.startswith("Traceback")
    assert told.rstrip().endswith("RuntimeError: a bug")
    assert end("AbmllError('too few rows')") == (2, "Error: too few rows\n")
    assert end("KeyboardInterrupt()")[0] == 130


def test_red_only_where_it_is_wanted(pipeline, monkeypatch):
    def message() -> str:
        return CliRunner().invoke(app, ["train", "absent.toml"], color=True).stderr

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert message().startswith("\x1b[31mError: ")
    monkeypatch.setenv("NO_COLOR", "1")
    assert message().startswith("Error: ")


def test_completion_offers_the_fields_of_a_run_file(ended):
    environment = {
        "_ABMLL_COMPLETE": "complete_bash",
        "COMP_WORDS": "abmll train run.toml training.num",
        "COMP_CWORD": "3",
    }
    _, out, told = ended(
        f"import os, runpy, sys\nos.environ |= {environment}\nsys.argv = ['abmll']\n"
        "runpy.run_module('abmll.cli', run_name='__main__')"
    )
    assert out.split() == ["training.num_steps="], told


@pytest.mark.parametrize("words", [["tune", "run.toml"], ["compare", "default"], ["demo"]])
def test_commands_that_do_not_share_their_work_are_refused_under_torchrun(words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "4")
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert f"{words[0]} does not share its work over the 4 processes of torchrun" in result.stderr
    assert sorted(tmp_path.rglob("*")) == before
