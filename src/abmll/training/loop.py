"""The outer loop, the same for every method.

One outer step: for each of the step's episodes the meta-learner adds a gradient to META's `.grad`; the trainer
averages, clips, and lets the outer optimiser step. It alone owns the optimiser, the schedule, the checkpoints and
the log. Episode i and its noise are pure functions of i, so the position of a run is one number, its step, and
neither an interruption nor the number of ranks changes what is computed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.folders import hold, require_room
from abmll.core.memory import peak_memory_bytes, reset_peak_memory
from abmll.core.params import assign, clone, zero_grad
from abmll.core.seeds import derive_seed, seeded
from abmll.core.types import META, TASK, Episode, Likelihood, MetaLearner, Method, Metrics
from abmll.training import checkpoint, optimizer
from abmll.training.distributed import Ranks, Unheard, connect, together
from abmll.training.finite import require_finite_gradient, require_finite_metrics, require_finite_parameters
from abmll.training.log import FILE_NAME, Record, TrainingLog, read_log
from abmll.training.progress import progress_bar
from abmll.training.settings import Training, fingerprint, require_equal
from abmll.training.sharding import is_sharded, require_equal_passes
from abmll.training.state import pack, unpack

__all__ = ["Episodes", "Training", "TrainingResult", "train"]

CHECKPOINTS = "checkpoints"
"""Name of the folder of checkpoints inside a run's directory."""


class Episodes(Protocol):
    """Endless training episodes: `episodes[i]` is a pure function of i."""

    def __getitem__(self, index: int, /) -> Episode: ...


@dataclass(frozen=True)
class TrainingResult:
    """What `train` did.

    Attributes:
        num_steps: outer steps done in all;
        first_step: how many of them came from the resumed checkpoint.
        seconds: wall time of this call.
        checkpoint: the last one, if a directory was given.
        record: the last step's log record.
        message: one line for a person.
    """

    num_steps: int
    first_step: int
    seconds: float
    checkpoint: Path | None
    record: Record
    message: str


def train(
    likelihood: Likelihood,
    method: Method,
    episodes: Episodes,
    training: Training,
    *,
    directory: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    on_step: Callable[[Record], None] | None = None,
    validate: Callable[[Likelihood], Metrics] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Meta-trains META in place, `training.num_steps` outer steps in all.

    Args:
        directory: gets `training.jsonl` and `checkpoints/`; without it nothing is kept.
        resume: go on from the newest checkpoint in `directory`, or begin if there is none yet.
        on_step: called on rank 0 with every step's record, after its checkpoint.
        validate: called on rank 0 every `training.validate_every` steps, with noise seeded by the step; its numbers
            join the record as `validation_…`. It may change TASK, which is put back, but not META.
        settings: further facts that a resumed run must share, such as the name of the base model.

    Started by `torchrun`, every rank calls this alike and ends with the same META. A meta-learner that keeps
    anything from one episode to the next, TASK included, must return a non-empty `state_dict()`: that state belongs
    to its rank, so the run can then be resumed on the same number of ranks only.

    Raises AbmllError for settings that differ from the checkpoint's, a directory in use, a full disk, a lost rank,
    and for a loss, gradient or parameter that is not finite.
    """
    learner = method.meta_learner
    if learner is None:
        return TrainingResult(0, 0, 0.0, None, {}, "this method learns nothing across tasks: nothing to train")
    meta = likelihood.parameters(META)
    if not meta:
        raise AbmllError("the likelihood has no META parameters: attach an adapter before training.")
    if resume and directory is None:
        raise AbmllError("resume needs the directory of the run to go on with.")
    begun = time.perf_counter()
    device = next(iter(meta.values())).device
    ranks = connect(device, training.rank_timeout)
    if training.episodes_per_step % ranks.size:
        raise AbmllError(
            f"training.episodes_per_step is {training.episodes_per_step}, the number over all ranks, and does not "
            f"divide by the {ranks.size} ranks of this job. Set it to a multiple of {ranks.size}."
        )
    if is_sharded(likelihood):
        require_equal_passes(learner)
        if validate:
            raise AbmllError(
                "validate runs on rank 0 alone, which holds only a part of the model (model.shard). Evaluate the "
                "checkpoints' adapters instead, or set model.shard=1."
            )
    run = _Run(likelihood, learner, method, episodes, training, directory, ranks, device)
    with ExitStack() as held:
        if directory is not None:
            ranks.first(lambda: _take(directory, run, held))
        first_step = run.restore(resume, settings or {})
        log: TrainingLog | None = None
        if directory is not None:
            log = ranks.first(lambda: TrainingLog(directory, first_step, tensorboard=training.tensorboard))
        record: Record = {}
        try:
            visible = progress and ranks.is_first
            with progress_bar(first_step, training.num_steps, visible=visible) as show:
                for step in range(first_step + 1, training.num_steps + 1):
                    record = run.outer_step(step)
                    last = step == training.num_steps
                    if validate and training.validate_every and (step % training.validate_every == 0 or last):
                        record |= run.validate(validate, step)
                    if log is not None and (step % training.log_every == 0 or step == 1 or last):
                        log.write(record)
                    if directory is not None and (step % training.checkpoint_every == 0 or last):
                        run.save(step, log)
                    if on_step is not None and ranks.is_first:
                        on_step(record)
                    show(record)
        finally:
            zero_grad(meta.values())
            if log is not None:
                log.close()
    if directory is not None and log is not None and not record:
        record = read_log(directory)[-1]
    seconds = time.perf_counter() - begun
    done = max(training.num_steps, first_step)
    message = f"{done - first_step} outer steps in {seconds:.1f} s"
    if first_step:
        message += f", resumed after step {first_step}" if done > first_step else ": the run was already complete"
    return TrainingResult(done, first_step, seconds, run.last_checkpoint, record, message)


class _Run:
    """One run on one rank: the pieces that a step, a checkpoint and a resume share."""

    def __init__(
        self,
        likelihood: Likelihood,
        learner: MetaLearner,
        method: Method,
        episodes: Episodes,
        training: Training,
        directory: Path | None,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        self.likelihood = likelihood
        self.learner = learner
        self.method = method
        self.episodes = episodes
        self.training = training
        self.directory = directory
        self.ranks = ranks
        self.device = device
        self.meta = likelihood.parameters(META)
        self.task = likelihood.parameters(TASK)
        self.optimizer = optimizer.build(method.outer, self.meta)
        self.sharded = is_sharded(likelihood)
        self.settings: dict[str, Any] = {}
        self.last_checkpoint: Path | None = None
        reset_peak_memory(device)

    def outer_step(self, step: int) -> Record:
        """Does outer step `step` (from 1) and returns its record."""
        begun = time.perf_counter()
        count = self.training.episodes_per_step
        zero_grad(self.meta.values())
        reports: list[tuple[int, str, Metrics]] = []
        failure: Exception | None = None
        for index in range((step - 1) * count + self.ranks.rank, step * count, self.ranks.size):
            try:
                reports.append(self._episode(index, step))
            except Unheard:
                raise
            except Exception as error:
                failure = error
            if self.sharded:
                # Ranks that share a model go on together: one that stopped alone would leave the others waiting.
                self.ranks.exchange(b"", failure)
            elif failure is not None:
                break
        answers = self.ranks.exchange(json.dumps(reports).encode(), failure)
        everyone = sorted(report for answer in answers for report in json.loads(answer))
        tasks = [task for _, task, _ in everyone]

        parts = [_gradient(parameter).flatten().to(self.device) for parameter in self.meta.values()]
        gradient = torch.cat(parts).div_(count)
        self.ranks.sum_(gradient)
        grad_norm = optimizer.clip_(gradient, self.method.outer.max_grad_norm)
        sizes = [parameter.numel() for parameter in self.meta.values()]
        for parameter, part in zip(self.meta.values(), gradient.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter)
        learning_rate = optimizer.learning_rate(self.method.outer, step - 1, self.training.num_steps)
        optimizer.set_learning_rate(self.optimizer, learning_rate)
        self.optimizer.step()
        zero_grad(self.meta.values())
        require_finite_parameters(self.meta, META, step, ", ".join(tasks))

        record: Record = {"step": step, "seconds": time.perf_counter() - begun, "tasks": tasks}
        record |= {"learning_rate": learning_rate, "grad_norm": grad_norm}
        record |= _mean_metrics([metrics for _, _, metrics in everyone])
        num_tokens = sum(metrics.get("num_tokens", 0.0) for _, _, metrics in everyone)
        if num_tokens:
            record["tokens_per_second"] = num_tokens / record["seconds"]
        record["peak_memory_bytes"] = peak_memory_bytes(self.device)
        return record

    def _episode(self, index: int, step: int) -> tuple[int, str, Metrics]:
        """Adds one episode's gradient to META's; its noise is a function of (training.seed, index) alone."""
        episode = self.episodes[index]._replace(progress=(step - 1) / self.training.num_steps)
        with seeded(derive_seed("train", self.training.seed, index)), together(self.sharded):
            metrics = self.learner.meta_gradient(self.likelihood, episode)
        metrics = {name: float(value) for name, value in metrics.items()}
        require_finite_metrics(metrics, step, episode.task)
        require_finite_gradient(self.meta, step, episode.task)
        return index, episode.task, metrics

    def validate(self, validate: Callable[[Likelihood], Metrics], step: int) -> Record:
        """The validation metrics on rank 0, nothing elsewhere; leaves TASK and the random state as they were."""

        def measure() -> Record:
            task = clone(self.task)
            try:
                with seeded(derive_seed("validate", self.training.seed, step)):
                    metrics = validate(self.likelihood)
            finally:
                assign(self.task, task)
                zero_grad(self.meta.values())
            return {f"validation_{name}": float(value) for name, value in metrics.items()}

        return self.ranks.first(measure) or {}

    def save(self, step: int, log: TrainingLog | None) -> None:
        """Writes the checkpoint of `step`; the log is on disk before it."""
        assert self.directory is not None
        folder = self.directory / CHECKPOINTS
        failure: Exception | None = None
        own = b""
        try:
            require_finite_parameters(self.task, TASK, step, "the step's episodes")
            state = self.learner.state_dict()
            # Without a state of its own a rank's φ is begun anew in every episode: one copy of it says enough.
            kept = self.task if state or self.ranks.is_first else {}
            own = pack({"task": kept, "meta_learner": state})
        except Exception as error:
            failure = error
        self.ranks.exchange(b"", failure)
        everyone = self.ranks.gather(own)

        def write() -> Path:
            assert log is not None
            assert everyone is not None
            log.sync()
            shared = pack({"meta": self.meta, "optimizer": self.optimizer.state_dict()})
            keep = self.training.keep_checkpoints
            return checkpoint.save(folder, step, self.settings, shared, everyone, keep)

        self.last_checkpoint = self.ranks.first(write)

    def restore(self, resume: bool, extra: Mapping[str, Any]) -> int:
        """Brings every rank to the newest checkpoint, or to rank 0's initial state. Returns the step reached."""
        found = self.ranks.first(lambda: self._find(resume, extra))
        step = int(self.ranks.exchange(b"" if found is None else str(found.step).encode())[0] or b"0")
        if step == 0 and self.ranks.size == 1:
            return 0
        shared: list[bytes] | None = None
        own: list[bytes] | None = None
        if found is not None:
            self.last_checkpoint = found.path
            shared = [found.shared] * self.ranks.size
            own = list(found.ranks)
            if found.world_size != self.ranks.size:
                own = [found.ranks[0]] * self.ranks.size
        elif self.ranks.is_first:
            start = {"meta": self.meta, "optimizer": self.optimizer.state_dict()}
            shared = [pack(start)] * self.ranks.size
            own = [pack({"task": self.task, "meta_learner": {}})] * self.ranks.size
        common = unpack(self.ranks.scatter(shared), self.device)
        assign(self.meta, common["meta"])
        self.optimizer.load_state_dict(common["optimizer"])
        local = unpack(self.ranks.scatter(own), self.device)
        if local["task"]:
            assign(self.task, local["task"])
        if local["meta_learner"] or self.learner.state_dict():
            self.learner.load_state_dict(local["meta_learner"])
        return step

    def _find(self, resume: bool, extra: Mapping[str, Any]) -> checkpoint.Checkpoint | None:
        """On rank 0: the checkpoint to go on from, after every check that could refuse it."""
        if self.directory is None:
            return None
        first_episode = self.episodes[0]
        self.settings = fingerprint(self.likelihood, self.method, first_episode, self.training, extra)
        folder = self.directory / CHECKPOINTS
        if not resume:
            require_unused(self.directory)
            return None
        found = checkpoint.latest(folder)
        if found is not None:
            require_equal(found.settings, self.settings, found.path)
            self._require_same_ranks(found)
        checkpoint.clear_after(folder, 0 if found is None else found.step)
        return found

    def _require_same_ranks(self, found: checkpoint.Checkpoint) -> None:
        if found.world_size != self.ranks.size and any(unpack(own)["meta_learner"] for own in found.ranks):
            raise AbmllError(
                f"cannot resume from {found.path} on {self.ranks.size} ranks: it was written by "
                f"{found.world_size}, and this method keeps state of its own on each rank (such as a persistent "
                f"inner optimiser). Start {found.world_size} processes."
            )


def _take(directory: Path, run: _Run, held: ExitStack) -> None:
    """Holds the directory for this run, and checks that its checkpoints will fit, before anything is computed."""
    held.enter_context(hold(directory))
    parameters = sum(parameter.numel() * parameter.element_size() for parameter in run.meta.values())
    # META, TASK and two moments of the outer optimiser, in every checkpoint that is kept, in a new one and the adapter
    require_room(directory, 4 * parameters * (run.training.keep_checkpoints + 2), "the checkpoints and the adapter")


def require_unused(directory: Path) -> None:
    """Raises AbmllError if the directory holds a run already."""
    steps = checkpoint.steps(directory / CHECKPOINTS)
    log = directory / FILE_NAME
    if steps or (log.is_file() and log.stat().st_size):
        what = f"checkpoints up to step {steps[-1]}" if steps else f"a {FILE_NAME}"
        raise AbmllError(
            f"{directory} already holds a run ({what}). Resume it (--resume, in Python resume=True) "
            "or choose another directory; nothing is overwritten."
        )


def _gradient(parameter: Tensor) -> Tensor:
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    # The mean over ranks and its norm need more digits than bfloat16 has.
    return gradient if gradient.dtype == torch.float64 else gradient.float()


def _mean_metrics(metrics: list[Metrics]) -> Record:
    """Each metric's mean over the episodes that report it, summed in their order whatever the ranks."""
    names = dict.fromkeys(name for episode in metrics for name in episode)
    means = {}
    for name in names:
        values = [episode[name] for episode in metrics if name in episode]
        means[name] = sum(values) / len(values)
    return means
