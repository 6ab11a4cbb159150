"""The training log: one line a step, cut back on resume, read without its torn end."""

from __future__ import annotations

import builtins
import json
import math
from pathlib import Path
from typing import Any

import pytest

from abmll.core.errors import AbmllError
from abmll.training.log import TrainingLog, read_log


def fill(directory: Path, *steps: int, start: int = 0) -> None:
    log = TrainingLog(directory, start)
    for step in steps:
        log.write({"step": step, "nll": step / 3})
    log.sync()
    log.close()


def test_lines_are_json_with_exact_numbers(tmp_path: Path) -> None:
    fill(tmp_path / "new" / "run", 1, 2)
    lines = (tmp_path / "new" / "run" / "training.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 1, "nll": 1 / 3}, {"step": 2, "nll": 2 / 3}]
    assert read_log(tmp_path / "new" / "run") == read_log(tmp_path / "new" / "run" / "training.jsonl")


def test_resume_drops_later_steps_and_the_torn_line(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2, 3, 4)
    with (tmp_path / "training.jsonl").open("a") as file:
        file.write('{"step": 5, "nl')
    assert [record["step"] for record in read_log(tmp_path)] == [1, 2, 3, 4]
    fill(tmp_path, 3, 4, 5, start=2)
    assert [record["step"] for record in read_log(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("torn", ["", "{", '{"step": 1', '{"step": 1}', '{"step": 1}\n{"st'])
def test_any_torn_end_is_cut(tmp_path: Path, torn: str) -> None:
    (tmp_path / "training.jsonl").write_text(torn)
    fill(tmp_path, *range(1 + torn.count("\n"), 4), start=1)
    assert [record["step"] for record in read_log(tmp_path)] == [1, 2, 3]


def test_not_finite_becomes_null(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path)
    log.write({"step": 1, "kl": math.nan, "nll": math.inf, "tasks": ["é"]})
    log.close()
    assert read_log(tmp_path) == [{"step": 1, "kl": None, "nll": None, "tasks": ["é"]}]


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "training.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(AbmllError, match=r"training.jsonl, line 2: not JSON"):
        read_log(tmp_path)


def test_missing_or_unwritable_is_told(tmp_path: Path) -> None:
    with pytest.raises(AbmllError, match=r"cannot read the training log .*nowhere: No such file"):
        read_log(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(AbmllError, match=r"cannot write the training log .*: Not a directory. Free some space, or"):
        TrainingLog(tmp_path / "file" / "run")


def test_full_disk_is_told(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    log = TrainingLog(tmp_path)
    log.close()
    log._file = open("/dev/full", "ab")  # noqa: SIM115
    with pytest.raises(AbmllError, match=r"No space left on device\. Free some space"):
        log.write({"step": 1})


def test_tensorboard_mirror(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = TrainingLog(tmp_path, tensorboard=True)
    for step in (1, 2):
        log.write({"step": step, "nll": step / 4, "tasks": ["a"]})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/nll")] == [(1, 0.25), (2, 0.5)]
    assert events.Tags()["scalars"] == ["train/nll"]


def test_tensorboard_missing_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> object:
        if name.startswith(("tensorboard", "torch.utils.tensorboard")):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(AbmllError, match=r"pip install 'abmll\[tensorboard\]'"):
        TrainingLog(tmp_path, tensorboard=True)
