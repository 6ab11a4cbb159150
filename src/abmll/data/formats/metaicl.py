"""CrossFit tasks as MetaICL's preprocessing writes them, under the filters of the published ABMLL runs.

`<folder>/<task>/<task>_<k>_<seed>_<split>.jsonl`, with split train, dev or test and rows {task, input,
output, options}.
Source: Min et al. 2022 (MetaICL); the filters are those of the published ABMLL data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from abmll.core.errors import AbmllError
from abmll.core.example import Example
from abmll.data.columns import CHOICES_NAMES
from abmll.data.formats.container import read_container
from abmll.data.formats.format import CHOICES, INPUT, LABEL, Format, Options, Reading, reshape
from abmll.data.formats.unifiedqa import lettered_choices
from abmll.data.layout import Layout
from abmll.data.overlap import normalised
from abmll.data.placing import place_examples
from abmll.data.problems import errors, raise_errors
from abmll.data.rows import Row, read_rows
from abmll.data.task import Task
from abmll.data.toml_file import Schema

INSTRUCTION = "Return only the label of the correct answer for the question below."
"""The sentence that opens the published prompts; it counts towards their 500 characters."""


class MetaICLFormat(Schema):
    """Which of MetaICL's files to read, and which of their rows to keep.

    Attributes:
        train_k: the files of training tasks, `<task>_<train_k>_<train_seed>_train.jsonl`.
        train_seed: likewise.
        target_k: the files of validation and test tasks; those of all seeds are pooled, repeated rows once.
        target_seeds: likewise.
        support_split: the split that held-out tasks adapt on; they are evaluated on their test split.
        max_prompt_chars: rows whose whole published prompt (instruction, input, choices) is longer are left out.
        max_options: rows with more choices are left out.
        max_train_rows: training tasks keep their first rows only, as in the published runs with limited data.
        name_in_input: prompts begin "<task>: ", as the published ones do.
    """

    train_k: int = 16384
    train_seed: int = 100
    target_k: int = 16
    target_seeds: list[int] = Field(default=[100, 13, 21, 42, 87], min_length=1)
    support_split: Literal["train", "dev"] = "dev"
    max_prompt_chars: int = 500
    max_options: int = 4
    max_train_rows: int | None = Field(default=None, ge=1)
    name_in_input: bool = True


def train_files(folder: Path, task: str, form: MetaICLFormat) -> list[Path]:
    """The one file of a training task."""
    return [folder / task / f"{task}_{form.train_k}_{form.train_seed}_train.jsonl"]


def target_files(folder: Path, task: str, form: MetaICLFormat, split: str) -> list[Path]:
    """The files of a held-out task's split, one a seed."""
    return [folder / task / f"{task}_{form.target_k}_{seed}_{split}.jsonl" for seed in form.target_seeds]


def require_files(folder: Path, train: Sequence[str], held_out: Sequence[str], form: MetaICLFormat) -> None:
    """Raises one AbmllError that lists every task whose files are absent and says how to make them."""
    needed = [(task, train_files(folder, task, form)) for task in train]
    for split in (form.support_split, "test"):
        needed += [(task, target_files(folder, task, form, split)) for task in held_out]
    missing = {task: files[0] for task, files in needed if not any(file.is_file() for file in files)}
    if missing:
        lines = "".join(f"\n  {task}: no {file.relative_to(folder)}" for task, file in sorted(missing.items()))
        raise AbmllError(
            f"{folder} lacks {len(missing)} of the suite's {len({*train, *held_out})} tasks:{lines}\n"
            "They come from MetaICL's preprocessing of CrossFit: in preprocess/ of a checkout of MetaICL, run "
            "`python _build_gym.py --build --n_proc=40 --do_test` and the same with --do_train, and give the data "
            "folder that it writes as `folder`. Other sizes and seeds: under [metaicl] in a suite TOML of your own."
        )


def read_train_task(folder: Path, task: str, form: MetaICLFormat) -> Task:
    """A training task: all rows that pass the filters. Raises AbmllError if none does, or a row is broken."""
    rows = _read(train_files(folder, task, form), task, form)
    return _task(folder, task, rows[: form.max_train_rows], ())


def read_target_task(folder: Path, task: str, form: MetaICLFormat) -> Task:
    """A held-out task: its test rows, with the support split as the pool that it adapts on."""
    rows = _read(target_files(folder, task, form, "test"), task, form)
    tested = {normalised(row.prompt) for row in rows}
    pool = _read(target_files(folder, task, form, form.support_split), task, form)
    return _task(folder, task, rows, [row for row in pool if normalised(row.prompt) not in tested])


def published_prompt(task: str, text: str, choices: Sequence[str], form: MetaICLFormat) -> str:
    """The prompt whose length the 500-character filter measures."""
    name = f"{task}: " if form.name_in_input else ""
    listed = "".join(f"{chr(ord('A') + number)}) {choice}\n" for number, choice in enumerate(choices))
    return f"{INSTRUCTION}\n\n{name}{text}\nChoices:\n{listed}Answer:"


def _task(folder: Path, name: str, rows: Sequence[Example], pool: Sequence[Example]) -> Task:
    if not rows:
        raise AbmllError(
            f"no row of task {name!r} in {folder / name} passes the filters: raise max_prompt_chars or max_options "
            "under [metaicl] in a suite TOML of your own, or leave the task out"
        )
    return Task(name, tuple(rows), source=str(folder / name), support_pool=tuple(pool))


def _read(files: Sequence[Path], task: str, form: MetaICLFormat) -> list[Example]:
    kept: dict[tuple[str, tuple[str, ...]], Example] = {}
    for file in files:
        if not file.is_file():
            continue  # a task may be there for some of the seeds only; `require_files` saw to one at least
        rows, problems = read_rows(file)
        placed, found = place_examples(
            file.name, [_with_options(row) for row in rows], Layout(), table=False, name=file.stem
        )
        raise_errors(file, errors([*problems, *found]))
        for _, row in placed:
            if len(row.choices) > form.max_options:
                continue
            if len(published_prompt(task, row.prompt, row.choices, form)) > form.max_prompt_chars:
                continue
            named = row._replace(prompt=f"{task}: {row.prompt}") if form.name_in_input else row
            kept.setdefault((row.prompt, row.choices), named)
    return list(kept.values())


def _with_options(row: Row) -> Row:
    """Multiple-choice rows whose options stand in the input only, as "(A) … (B) …", get them as a list."""
    if any(row.fields.get(name) for name in CHOICES_NAMES) or not isinstance(row.fields.get("input"), str):
        return row
    before, choices = lettered_choices(row.fields["input"])
    return Row(row.line, row.fields | {"input": before, "options": list(choices)}) if choices else row


def _fits(rows: Sequence[Mapping[str, Any]]) -> bool:
    return bool(rows) and all({"task", "input", "output", "options"} <= set(row) for row in rows)


def _read_file(path: Path, options: Options) -> Reading:
    return reshape(path, read_container(path, options), _shape)


def _shape(fields: Mapping[str, Any]) -> dict[str, Any]:
    found = _with_options(Row(0, dict(fields))).fields
    made = {INPUT: found.get("input"), CHOICES: found.get("options"), LABEL: found.get("output")}
    return {name: value for name, value in made.items() if value not in (None, [])}


FORMAT = Format("one file of MetaICL's preprocessing (task, input, output, options)", _read_file, _fits)
