"""A base model laid over ranks: the same θ and predictions as a whole one, 1/N of its bytes, no rank left waiting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.learner import Learner
from abmll.methods import METHODS, build_method
from abmll.training import loop, sharding
from abmll.training.distributed import Ranks
from abmll.training.settings import Training
from tests.tiny import tiny_llama, tiny_tokenizer
from tests.toy import GaussianToy, ToyEpisodes
from tests.training.sharded_runs import HIDDEN, Work, job

# Both KLs in the inner and the outer loop: their backward passes begin inside a block, not at its output.
EVERY_KL = {"kl_weight": 0.1, "prior_weight": 0.01, "inner_kl_weight": 0.1, "inner_sample": True, "adapts": "all"}
EVERY_KL |= {"learning_rate": 0.01}


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert max(float((one[name] - other[name]).abs().max()) for name in one) <= 1e-6


def assert_sharded_equals_whole(size: int, shard: int, folder: Path, **options: Any) -> None:
    # As many ranks in both: AdamW makes much of the last bit in which a mean over other numbers of ranks differs.
    whole = job(size, Work(1, folder / "whole", options))[0]
    ranks = job(size, Work(shard, folder / "sharded", options))
    assert [rank for rank in (whole, *ranks) if isinstance(rank, str)] == []
    for rank in ranks:
        assert_close(rank["meta"], whole["meta"])
        kept, everything = rank["bytes"][0], whole["bytes"][0]
        assert everything / shard <= kept < 1.02 * everything / shard, "the norms stay whole, and nothing else does"
        assert rank["bytes"] == (kept, kept), "nothing that a pass gathered is kept"
    norms = 2 * 2 + 1
    assert ranks[0]["bytes"][0] == (whole["bytes"][0] - 4 * HIDDEN * norms) // shard + 4 * HIDDEN * norms


@pytest.mark.parametrize(
    "steps",
    [
        {"outer_steps": 2, "episodes_per_step": 2, "num_steps": 2, "answer": "text"},
        pytest.param({}, marks=pytest.mark.slow),
    ],
    ids=["few", "many"],
)
def test_a_sharded_base_gives_the_same_adapter(steps: dict[str, Any], tmp_path: Path, forkserver: None) -> None:
    assert_sharded_equals_whole(2, 2, tmp_path, checkpointing=True, **steps, **EVERY_KL)
    # What was saved is an ordinary adapter folder.
    Learner.load(tmp_path / "sharded" / "adapter", tiny_llama(hidden=HIDDEN), tiny_tokenizer())
    saved, whole = ((tmp_path / name / "adapter" / "lora").iterdir() for name in ("sharded", "whole"))
    assert sorted(path.name for path in saved) == sorted(path.name for path in whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "size", "shard"),
    [("abmll-output", 4, 2), ("abmll-output", 4, 4)]
    + [(name, 2, 2) for name in ("abmll-paper", "reptile", "fomaml", "metaicl")],
)
def test_every_first_order_method_can_be_sharded(method, size, shard, tmp_path: Path, forkserver: None) -> None:
    """4 ranks with 2 for a copy: two copies, whose ranks take different episodes as well."""
    assert_sharded_equals_whole(size, shard, tmp_path, method=method, checkpointing=size == 4)


@pytest.mark.slow
def test_every_method_predicts_the_same_from_a_sharded_base(tmp_path: Path, forkserver: None) -> None:
    methods = {"methods": sorted(METHODS)}
    (whole,) = job(1, Work(1, tmp_path / "whole", methods, "evaluate"))
    for rank in job(2, Work(2, tmp_path / "sharded", methods, "evaluate")):
        assert_close(rank, whole)


def test_a_loss_that_is_not_finite_is_told_by_all_ranks(tmp_path: Path, forkserver: None) -> None:
    told = job(2, Work(2, tmp_path, {"sabotage": "nan", "episode": 1, "num_steps": 1, "answer": "text"}))
    assert told[1].startswith("outer step 1, task 'task-")
    assert "nll is nan" in told[1]
    assert told[0] == f"rank 1 stopped: {told[1]}"


@pytest.mark.slow
@pytest.mark.parametrize(("how", "own"), [("error", "out of memory"), ("death", "killed")])
def test_a_rank_that_ends_within_a_pass_ends_the_job(how, own, tmp_path: Path, forkserver: None) -> None:
    told = job(2, Work(2, tmp_path, {"sabotage": how}))
    assert told[1] == own
    assert told[0].startswith("lost contact with another rank: it was killed")
    assert "start the job again" in told[0]


@pytest.mark.slow
def test_a_run_may_resume_on_more_ranks_with_and_without_sharding(tmp_path: Path, forkserver: None) -> None:
    options = {"method": "reptile", "checkpointing": True, "outer_steps": 4}
    (whole,) = job(1, Work(1, tmp_path / "whole", options))
    for name, first, second in (("a", (2, 2), (4, 2)), ("b", (4, 4), (1, 1)), ("c", (2, 1), (2, 2))):
        # The last rank dies in its third episode; a checkpoint lies behind every step.
        (size, shard), folder = first, tmp_path / name
        assert "killed" in job(size, Work(shard, folder, {**options, "checkpoint_every": 1, "sabotage": "death"}))
        size, shard = second
        ended = job(size, Work(shard, folder, {**options, "resume": True}))
        assert_close(ended[0]["meta"], whole["meta"])


def test_ranks_must_divide_into_copies() -> None:
    with pytest.raises(AbmllError, match=r"model\.shard is 8, .* this job has 12\. Start a multiple of 8 \(torchrun"):
        sharding.sharing_ranks(Ranks(0, 12), 8)
    assert sharding.sharing_ranks(Ranks(0, 16), 8) is None


@pytest.mark.parametrize("name", ["maml", "abml"])
def test_methods_with_other_passes_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "is_sharded", lambda likelihood: True)
    with pytest.raises(
        AbmllError, match=r"does not promise to take the same passes .*\(abmll, reptile.*model\.shard=1"
    ):
        loop.train(GaussianToy(), build_method(name), ToyEpisodes(), Training(1), progress=False)


def test_validation_on_one_rank_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "is_sharded", lambda likelihood: True)
    with pytest.raises(AbmllError, match=r"validate runs on rank 0 alone, which holds only a part of the model"):
        loop.train(
            GaussianToy(), build_method("reptile"), ToyEpisodes(), Training(1), progress=False, validate=lambda _: {}
        )
