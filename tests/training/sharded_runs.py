"""Jobs of several ranks on a tiny Llama, its base whole on each or laid over them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.distributed.tensor import DTensor

from tests.forked import run_ranks

HIDDEN = 256  # large enough for every matrix to be worth sharding


class Work(NamedTuple):
    """What the ranks of a job do: "train" or "evaluate", see below. `shard` ranks hold one copy of the base."""

    shard: int
    out: Path
    options: Mapping[str, Any] = {}
    what: str = "train"


def job(size: int, work: Work) -> list[Any]:
    """Each rank's result; "killed", or an error's message."""
    work.out.mkdir(parents=True, exist_ok=True)
    codes = run_ranks(size, run_sharded, size, work)
    return [
        "killed" if code == -signal.SIGKILL else torch.load(work.out / f"rank-{rank}.pt")
        for rank, code in enumerate(codes)
    ]


def run_sharded(rank: int, size: int, work: Work) -> None:
    from abmll.core.errors import AbmllError

    do: Callable[..., Any] = trained if work.what == "train" else evaluated
    try:
        result = do(rank, size, work.shard, work.out, **work.options)
    except AbmllError as error:
        result = str(error)
    torch.save(result, work.out / f"rank-{rank}.pt")


def learner_of(
    size: int, shard: int, method: str, checkpointing: bool = False, answer: Any = "auto", **options: Any
) -> Any:
    """A learner and the bytes of the base that this rank keeps."""
    from abmll.language import PromptFormat
    from abmll.learner import Learner
    from abmll.training.distributed import Ranks, connect
    from abmll.training.sharding import shard_base, sharing_ranks
    from tests.tiny import tiny_llama, tiny_tokenizer

    cpu = torch.device("cpu")
    ranks = connect(cpu, 90.0) if size > 1 else Ranks()
    mesh = sharing_ranks(ranks, shard, cpu)
    model = tiny_llama(hidden=HIDDEN)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    prompt = PromptFormat(answer=answer)
    learner = Learner(model, tiny_tokenizer(), method, prompt=prompt, r=2, lora_alpha=4, **options)
    shard_base(learner.model, mesh)
    return learner, base_bytes(learner.model)


def base_bytes(model: Any) -> int:
    """Bytes of the base model's own parameters that this rank keeps between passes."""
    from abmll.adapters import adapter_parameters
    from abmll.core.types import META, TASK

    adapters = {parameter for role in (META, TASK) for parameter in adapter_parameters(model, role).values()}
    own = [parameter for parameter in model.parameters() if parameter not in adapters]
    kept = [parameter.to_local() if isinstance(parameter, DTensor) else parameter for parameter in own]
    return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def trained(
    rank: int,
    size: int,
    shard: int,
    out: Path,
    sabotage: str = "",
    episode: int = 3,
    resume: bool = False,
    outer_steps: int = 3,
    episodes_per_step: int = 4,
    checkpoint_every: int = 100,
    **options: Any,
) -> dict[str, Any]:
    """META, the bytes of the base before and after, after episodes of several lengths; rank 0 saves the adapter."""
    from abmll.core.params import clone
    from abmll.core.types import META
    from abmll.data.episodes import EpisodeSampler
    from abmll.training.loop import train
    from abmll.training.settings import Training
    from tests.tiny_tasks import tiny_task

    learner, before = learner_of(size, shard, **{"method": "abmll-output"} | options)
    # Longer texts on some tasks: what ranks do at the same time differs in length and must not in order.
    tasks = [tiny_task(f"task-{number}", 12) for number in range(4)]
    for number, task in enumerate(tasks):
        rows = tuple(row._replace(prompt=row.prompt * (1 + number % 3)) for row in task.examples)
        tasks[number] = type(task)(task.name, rows)
    if sabotage and rank == size - 1:
        spoil(learner, sabotage, episode)
    train(
        learner.likelihood,
        learner.method,
        EpisodeSampler(tuple(tasks), 0, 4, 4),
        Training(outer_steps, episodes_per_step=episodes_per_step, checkpoint_every=checkpoint_every),
        directory=out / "run",
        resume=resume,
        progress=False,
    )
    if rank == 0:
        learner.save(out / "adapter")
    meta = clone(learner.likelihood.parameters(META))
    return {"meta": meta, "bytes": (before, base_bytes(learner.model))}


def evaluated(rank: int, size: int, shard: int, out: Path, methods: list[str]) -> dict[str, torch.Tensor]:
    """Predictions of every method on one task, from a random θ; all ranks make the same cells."""
    from abmll.core.types import META
    from tests.tiny_tasks import tiny_task

    predictions = {}
    for method in methods:
        learner, _ = learner_of(size, shard, method)
        generator = torch.Generator().manual_seed(0)
        for parameter in learner.likelihood.parameters(META).values():
            parameter.data.normal_(std=0.05, generator=generator)
        (cell,) = learner.evaluate([tiny_task("task", 12)], support_sizes=(4,), num_samples=2, num_query=5)
        predictions[method] = cell.log_probs
    return predictions


def spoil(learner: Any, how: str, episode: int) -> None:
    """The rank's episode of this number: "nan" is found after its passes, "error" and "death" happen within one."""
    learner_type = type(learner.method.meta_learner)
    intact, calls = learner_type.meta_gradient, []

    def spoiled(self: Any, likelihood: Any, given: Any) -> Any:
        calls.append(given.task)
        if len(calls) == episode and how == "error":
            raise RuntimeError("out of memory")
        if len(calls) == episode and how == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        metrics = intact(self, likelihood, given)
        return metrics | {"nll": float("nan")} if len(calls) == episode else metrics

    learner_type.meta_gradient = spoiled
