"""The outer loop against a plain re-computation: steps, noise, resume, and every refusal's message."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.core.params import add_to_grad, clone
from abmll.core.seeds import derive_seed
from abmll.core.types import META, TASK, AdapterSpec, Episode, Method, OuterOptimizer
from abmll.methods import METHODS
from abmll.training import optimizer
from abmll.training.checkpoint import read
from abmll.training.log import read_log
from abmll.training.loop import Training, train
from tests.parameters import few_of
from tests.toy import GaussianToy, ToyEpisodes, toy_for
from tests.training.training_runs import assert_same_run, final_state, log_without_clock, persistent_method, run


class Linear:
    """A meta-learner with a known gradient: θ - t(task), plus noise from the global generator."""

    def __init__(self, noise: float = 0.0, **metrics: float) -> None:
        self.noise, self.metrics = noise, metrics
        self.episodes: list[str] = []

    def meta_gradient(self, likelihood: GaussianToy, episode: Episode) -> dict[str, float]:
        self.episodes.append(episode.task)
        theta = likelihood.parameters(META)
        target = float(episode.task.removeprefix("toy-"))
        noise = {name: self.noise * torch.randn_like(value) for name, value in theta.items()}
        add_to_grad(theta, {name: value - target + noise[name] for name, value in theta.items()})
        return {"nll": target, **self.metrics}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        assert not state


def method(learner: Any, **outer: Any) -> Method:
    return Method(AdapterSpec("abmll"), METHODS["abmll-output"]().adaptation, learner, OuterOptimizer(**outer))


def alike(one: Method, other: Method) -> bool:
    """Whether the outer loop does the same with both."""
    return (one.adapter, one.meta_learner, one.outer) == (other.adapter, other.meta_learner, other.outer)


def theta(likelihood: GaussianToy) -> torch.Tensor:
    return torch.cat([value.detach() for value in likelihood.parameters(META).values()])


def fit(learner: Any, num_steps: int, outer: dict[str, Any] | None = None, **training: Any) -> torch.Tensor:
    likelihood = GaussianToy()
    train(likelihood, method(learner, **outer or {}), ToyEpisodes(), Training(num_steps, **training), progress=False)
    return theta(likelihood)


def test_sgd_is_the_mean_of_the_episodes() -> None:
    expected = theta(GaussianToy())
    for step in range(3):
        target = sum((2 * step + j) % 5 for j in range(2)) / 2
        expected = expected - 0.1 * (expected - target)
    found = fit(Linear(), 3, {"name": "sgd", "learning_rate": 0.1}, episodes_per_step=2)
    assert torch.allclose(found, expected, atol=1e-15)


def test_adamw_without_weight_decay() -> None:
    value = theta(GaussianToy())
    first = second = torch.zeros_like(value)
    for step in range(1, 5):
        gradient = value - (step - 1) % 5
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        value = value - 0.05 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    assert torch.allclose(fit(Linear(), 4, {"learning_rate": 0.05}), value, atol=1e-13)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("cosine", [1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]),
    ],
)
def test_schedule(schedule: str, factors: list[float], tmp_path: Path) -> None:
    options = OuterOptimizer(name="sgd", learning_rate=0.2, schedule=schedule)  # type: ignore[arg-type]
    rates = [optimizer.learning_rate(options, step, 4) for step in range(4)]
    assert rates == pytest.approx([0.2 * factor for factor in factors], abs=1e-15)
    rows = method(Linear())._replace(outer=options)
    likelihood, expected = GaussianToy(), theta(GaussianToy())
    train(likelihood, rows, ToyEpisodes(), Training(4), directory=tmp_path, progress=False)
    for step, rate in enumerate(rates):
        expected = expected - rate * (expected - step)
    assert torch.allclose(theta(likelihood), expected, atol=1e-15)
    assert [record["learning_rate"] for record in read_log(tmp_path)] == rates


def test_clipping_shortens_the_step_and_logs_the_norm_before(tmp_path: Path) -> None:
    likelihood = GaussianToy()
    start = theta(likelihood)
    rows = method(Linear(), name="sgd", learning_rate=1.0, max_grad_norm=0.25)
    train(likelihood, rows, ToyEpisodes(), Training(1), directory=tmp_path, progress=False)
    assert torch.allclose(theta(likelihood), start - 0.25 * start / start.norm(), atol=1e-14)
    assert read_log(tmp_path)[0]["grad_norm"] == pytest.approx(float(start.norm()))


def test_unknown_optimizer_and_schedule_are_told_with_the_choices() -> None:
    # Duck-typed, because under pytest the checked dataclass refuses the word before the trainer sees it.
    outer = SimpleNamespace(name="adam", schedule="constant", learning_rate=0.1, log_var_rate=1.0)
    with pytest.raises(AbmllError, match=r"unknown outer optimizer 'adam'. Did you mean 'adamw'"):
        optimizer.build(outer, GaussianToy().parameters(META))  # type: ignore[arg-type]
    outer = SimpleNamespace(name="sgd", schedule="cos", learning_rate=0.1)
    with pytest.raises(AbmllError, match=r"unknown learning-rate schedule 'cos'.*constant, cosine, linear"):
        optimizer.build(outer, GaussianToy().parameters(META))  # type: ignore[arg-type]


def test_noise_is_a_function_of_seed_and_episode_alone() -> None:
    draws: dict[int, list[torch.Tensor]] = {}

    class Recorder(Linear):
        def meta_gradient(self, likelihood: GaussianToy, episode: Episode) -> dict[str, float]:
            draws.setdefault(count, []).append(torch.rand(2))
            torch.rand(len(draws[count]))  # drawing more must not shift the next episode
            return super().meta_gradient(likelihood, episode)

    for count in (1, 3):
        fit(Recorder(), 6 // count, episodes_per_step=count, seed=7)
    assert torch.equal(torch.stack(draws[1]), torch.stack(draws[3]))
    assert len({float(draw[0]) for draw in draws[1]}) == 6
    torch.manual_seed(derive_seed("train", 7, 4))
    assert torch.equal(draws[1][4], torch.rand(2))
    assert not torch.equal(fit(Linear(1.0), 2, seed=1), fit(Linear(1.0), 2, seed=2))


def test_callers_random_state_and_gradients_are_left_alone() -> None:
    likelihood = GaussianToy()
    torch.manual_seed(9)
    before = torch.get_rng_state()
    train(likelihood, persistent_method(), ToyEpisodes(), Training(2), progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(value.grad is None for value in likelihood.parameters(META).values())


def test_gradient_from_before_training_is_not_used() -> None:
    likelihood, clean = GaussianToy(), GaussianToy()
    add_to_grad(likelihood.parameters(META), clone(likelihood.parameters(META)))
    for toy in (likelihood, clean):
        train(toy, method(Linear(), name="sgd"), ToyEpisodes(), Training(1), progress=False)
    assert torch.equal(theta(likelihood), theta(clean))


def test_log_record(tmp_path: Path) -> None:
    learner = Linear(num_tokens=6, kl=0.5)
    rows = method(learner)
    seen: list[dict[str, Any]] = []
    train(
        GaussianToy(),
        rows,
        ToyEpisodes(),
        Training(5, 2, log_every=3),
        directory=tmp_path,
        progress=True,
        on_step=seen.append,
    )
    log = read_log(tmp_path)
    assert [record["step"] for record in log] == [1, 3, 5]
    assert [record["step"] for record in seen] == [1, 2, 3, 4, 5]
    assert log[1] == seen[2]
    record = log[1]
    assert record["tasks"] == ["toy-4", "toy-0"]
    assert (record["nll"], record["kl"], record["num_tokens"]) == (2.0, 0.5, 6.0)
    assert record["tokens_per_second"] == pytest.approx(12 / record["seconds"])
    assert record["peak_memory_bytes"] > 1e6
    assert learner.episodes[:3] == ["toy-0", "toy-1", "toy-2"]


def test_no_bar_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    run(None, 2)
    assert capfd.readouterr() == ("", "")


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    run(None, 3)
    shown = capfd.readouterr().err
    assert "meta-training" in shown
    assert "3/3" in shown
    assert "nll" in shown


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if row().meta_learner is None])
def test_nothing_to_train(name: str, tmp_path: Path) -> None:
    result = train(GaussianToy(), METHODS[name](), ToyEpisodes(), Training(3), directory=tmp_path / "run")
    assert result.num_steps == 0
    assert "nothing to train" in result.message
    assert not (tmp_path / "run").exists()


LEARNING = [name for name, row in METHODS.items() if row().meta_learner is not None]
LIKE_MULTITASK = {name for name in LEARNING if alike(METHODS[name](), METHODS["multitask"]())} - {"multitask"}
"""What differs from multi-task LoRA in its adaptation alone: training it is the same, call by call."""


@pytest.mark.parametrize("name", few_of(LEARNING, set(LEARNING) - LIKE_MULTITASK))
def test_every_method_resumes_bit_identically(name: str, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 3:
            raise Stop

    def go(directory: Path, **options: Any) -> None:
        row = METHODS[name]()
        train(
            toy_for(row.adapter), row, ToyEpisodes(), Training(4, 2, checkpoint_every=2), directory=directory, **options
        )

    go(tmp_path / "whole")
    with pytest.raises(Stop):
        go(tmp_path / "parts", on_step=stop)
    go(tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert read_log(tmp_path / "parts")[0] != read_log(tmp_path / "whole")[0]  # the clocks: really two runs


def test_a_scheduled_divergence_resumes_bit_identically_and_only_at_its_length(tmp_path: Path) -> None:
    def go(directory: Path, num_steps: int = 8, stop_after: int | None = None, **options: Any) -> None:
        row = METHODS["abmll-output"](kl_weight=0.3, kl_schedule="warmup")
        row = row._replace(outer=OuterOptimizer("adamw", 1e-2, "constant"))

        def stop(record: dict[str, Any]) -> None:
            if record["step"] == stop_after:
                raise KeyboardInterrupt

        train(
            toy_for(row.adapter),
            row,
            ToyEpisodes(),
            Training(num_steps, checkpoint_every=2),
            directory=directory,
            on_step=stop,
            **options,
        )

    go(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "parts", stop_after=3)
    with pytest.raises(AbmllError, match=r"training\.num_steps was 8 and is now 9"):
        go(tmp_path / "parts", num_steps=9, resume=True)
    go(tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_persistent_task_parameters_come_back(tmp_path: Path) -> None:
    """A learner that never re-initialises φ: φ is part of the run's state."""

    class Persistent(Linear):
        def meta_gradient(self, likelihood: GaussianToy, episode: Episode) -> dict[str, float]:
            phi = likelihood.parameters(TASK)
            with torch.no_grad():
                for value in phi.values():
                    value.mul_(0.9).add_(torch.randn_like(value))
            add_to_grad(likelihood.parameters(META), phi)
            return {"nll": 0.0}

    def go(directory: Path, num_steps: int, resume: bool = False) -> GaussianToy:
        toy = GaussianToy()
        training = Training(num_steps, checkpoint_every=2)
        train(toy, method(Persistent()), ToyEpisodes(), training, directory=directory, resume=resume)
        return toy

    whole = go(tmp_path / "whole", 6)
    go(tmp_path / "parts", 4)  # a constant schedule may run on
    parts = go(tmp_path / "parts", 6, resume=True)
    assert torch.equal(theta(whole), theta(parts))
    assert all(torch.equal(whole.parameters(TASK)[k], parts.parameters(TASK)[k]) for k in ("mean", "log_var"))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_complete_run_resumes_to_itself(tmp_path: Path) -> None:
    meta, first = run(tmp_path / "run", 4)
    state = final_state(tmp_path / "run")
    again, result = run(tmp_path / "run", 4)
    assert all(torch.equal(meta[name], again[name]) for name in meta)
    assert final_state(tmp_path / "run") == state
    assert result.first_step == result.num_steps == 4
    assert "already complete" in result.message
    assert result.record == first.record
    assert result.checkpoint == first.checkpoint == tmp_path / "run" / "checkpoints" / "step-00000004"


def test_damaged_newest_checkpoint_costs_only_time(tmp_path: Path) -> None:
    run(tmp_path / "whole", 8)
    run(tmp_path / "parts", 8, keep_checkpoints=2)
    newest = tmp_path / "parts" / "checkpoints" / "step-00000008"
    (newest / "shared.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"step-00000008 is damaged: shared.safetensors has 0 bytes"):
        _, result = run(tmp_path / "parts", 8)
    assert result.first_step == 6
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert (newest.parent / "damaged-00000008").is_dir()


def test_resume_without_a_checkpoint_begins(tmp_path: Path) -> None:
    run(tmp_path / "whole", 4)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "training.jsonl").write_text('{"step": 1}\n{"step"')
    _, result = run(tmp_path / "parts", 4)
    assert result.first_step == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_resume_with_other_settings_names_each_difference(tmp_path: Path) -> None:
    run(tmp_path, 4)
    where = r"cannot resume from .*step-00000004: it was written with other settings: "
    with pytest.raises(AbmllError, match=where + r"training.seed was 0 and is now 1\. Set them back"):
        run(tmp_path, 4, seed=1)
    with pytest.raises(AbmllError, match=where + r"training.num_steps was 4 and is now 6\."):
        run(tmp_path, 6)
    training = Training(4, 2, checkpoint_every=2)
    rows = persistent_method(learning_rate=0.04, max_grad_norm=None)
    with pytest.raises(
        AbmllError, match=r"learning_rate was 0.03 and is now 0.04; .*max_grad_norm was 1.0 and is now None"
    ):
        train(GaussianToy(), rows, ToyEpisodes(), training, directory=tmp_path, resume=True)
    with pytest.raises(AbmllError, match=r"meta_learner.persistent_optimizer was True and is now False"):
        train(GaussianToy(), persistent_method(False), ToyEpisodes(), training, directory=tmp_path, resume=True)
    with pytest.raises(AbmllError, match=r"episodes was .* and is now "):
        train(GaussianToy(), persistent_method(), ToyEpisodes(seed=1), training, directory=tmp_path, resume=True)
    with pytest.raises(AbmllError, match=r"meta parameters was .*; task parameters was "):
        train(GaussianToy(4), persistent_method(), ToyEpisodes(4), training, directory=tmp_path, resume=True)
    run_with: dict[str, Any] = {"settings": {"model": {"name": "other"}}}
    with pytest.raises(AbmllError, match=r"model.name was None and is now 'other'"):
        train(GaussianToy(), persistent_method(), ToyEpisodes(), training, directory=tmp_path, resume=True, **run_with)


def test_harmless_settings_may_change(tmp_path: Path) -> None:
    run(tmp_path / "whole", 8)
    run(tmp_path / "parts", 8, checkpoint_every=3, keep_checkpoints=3)
    (tmp_path / "parts" / "checkpoints" / "step-00000008").rename(tmp_path / "gone")
    _, result = run(tmp_path / "parts", 8, checkpoint_every=1, keep_checkpoints=1, tensorboard=False)
    assert result.first_step == 6
    assert final_state(tmp_path / "whole") == final_state(tmp_path / "parts")


def test_directory_in_use_is_never_overwritten(tmp_path: Path) -> None:
    run(tmp_path, 4)
    before = final_state(tmp_path), (tmp_path / "training.jsonl").read_bytes()
    with pytest.raises(
        AbmllError, match=r"already holds a run \(checkpoints up to step 4\). Resume it \(--resume.*another"
    ):
        run(tmp_path, 4, resume=False)
    assert (final_state(tmp_path), (tmp_path / "training.jsonl").read_bytes()) == before
    (tmp_path / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(AbmllError, match=r"already holds a run \(a training.jsonl\)"):
        run(tmp_path, 4, resume=False)


def test_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AbmllError, match=r"cannot write to .*Not a directory. Make it writable"):
        run(tmp_path / "file" / "run", 1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("")
    with pytest.raises(AbmllError, match=r"cannot write checkpoint .*: File exists"):
        run(tmp_path / "run", 1)


def test_resume_needs_a_directory() -> None:
    with pytest.raises(AbmllError, match="resume needs the directory"):
        train(GaussianToy(), method(Linear()), ToyEpisodes(), Training(1), resume=True)


class Breaks(Linear):
    """Goes wrong in its seventh episode, in the way it is told."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def meta_gradient(self, likelihood: GaussianToy, episode: Episode) -> dict[str, float]:
        metrics = super().meta_gradient(likelihood, episode)
        if len(self.episodes) == 7:
            if self.how == "loss":
                metrics["kl"] = math.nan
            elif self.how == "infinite loss":
                metrics["nll"] = math.inf
            elif self.how == "gradient":
                likelihood.parameters(META)["log_var"].grad[1] = math.inf
            elif self.how == "step":
                likelihood.parameters(META)["mean"].grad.fill_(1.7e308)
            elif self.how == "task":
                with torch.no_grad():
                    likelihood.parameters(TASK)["mean"][0] = math.nan
        return metrics


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("loss", r"outer step 7, task 'toy-1': kl is nan\. Lower the learning rate .*The last checkpoint is untouched"),
        ("infinite loss", r"outer step 7, task 'toy-1': nll is inf\. Lower"),
        ("gradient", r"task 'toy-1': the gradient of meta parameter 'log_var' is not finite \(1 of 3 values\)\. Lower"),
        ("step", r"outer step 7, after toy-1: meta parameter 'mean' is not finite \(3 of 3 values\)\. Lower"),
    ],
)
def test_not_finite_stops_with_step_task_and_remedy(how: str, message: str, tmp_path: Path) -> None:
    rows = method(Breaks(how), name="sgd", learning_rate=10.0 if how == "step" else 0.1)
    with pytest.raises(AbmllError, match=message):
        train(GaussianToy(), rows, ToyEpisodes(), Training(9, checkpoint_every=3), directory=tmp_path)
    good = tmp_path / "good"
    train(GaussianToy(), method(Linear(), **vars_of(rows.outer)), ToyEpisodes(), Training(6), directory=good)
    assert final_state(tmp_path) == final_state(good)
    assert log_without_clock(tmp_path) == log_without_clock(good)


def vars_of(outer: OuterOptimizer) -> dict[str, Any]:
    return {"name": outer.name, "learning_rate": outer.learning_rate}


def test_task_parameters_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    with pytest.raises(AbmllError, match=r"outer step 8.*task parameter 'mean' is not finite \(1 of 3"):
        train(GaussianToy(), method(Breaks("task")), ToyEpisodes(), Training(9, checkpoint_every=4), directory=tmp_path)
    assert read(max((tmp_path / "checkpoints").iterdir())).step == 4


def test_validation_is_logged_and_changes_nothing(tmp_path: Path) -> None:
    calls: list[torch.Tensor] = []

    def validate(likelihood: GaussianToy) -> dict[str, float]:
        calls.append(torch.rand(1))
        with torch.no_grad():
            likelihood.parameters(TASK)["mean"].fill_(99.0)
        return {"accuracy": 0.75}

    def go(directory: Path, **options: Any) -> None:
        training = Training(5, checkpoint_every=2, validate_every=2)
        train(GaussianToy(), persistent_method(), ToyEpisodes(), training, directory=directory, **options)

    go(tmp_path / "with", validate=validate)
    go(tmp_path / "without")
    assert final_state(tmp_path / "with") == final_state(tmp_path / "without")
    log = read_log(tmp_path / "with")
    assert [record["step"] for record in log if record.get("validation_accuracy") == 0.75] == [2, 4, 5]
    assert len({float(draw) for draw in calls}) == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_steps", 0),
        ("episodes_per_step", 1.5),
        ("checkpoint_every", -1),
        ("keep_checkpoints", True),
        ("log_every", 0),
        ("validate_every", 0),
        ("rank_timeout", 0.0),
    ],
)
def test_bad_settings_name_field_value_and_rule(field: str, value: Any) -> None:
    with pytest.raises(AbmllError, match=rf"{field} = {str(value).lower()}: must be a "):
        replace(Training(1), **{field: value})


def test_no_parameters_to_train() -> None:
    likelihood = GaussianToy()
    likelihood._params[META] = {}
    with pytest.raises(AbmllError, match="no META parameters: attach an adapter"):
        train(likelihood, method(Linear()), ToyEpisodes(), Training(1))
