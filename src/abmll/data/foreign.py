"""Files of other people as tasks: what they are, how their columns are read, and a spec that says so."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from abmll.core.errors import AbmllError
from abmll.core.toml_text import toml_key, toml_value
from abmll.data.columns import CHOICES_NAMES, ID_NAMES, INPUT_NAMES, LABEL_NAMES, TARGET_NAMES
from abmll.data.formats import TABLE, find_format, format_names
from abmll.data.formats.container import container_format, read_container
from abmll.data.formats.datasets import is_dataset, splits
from abmll.data.formats.format import Options, Reading
from abmll.data.formats.json import read_document
from abmll.data.guess import Given, Guess, guess_columns
from abmll.data.manifest import MANIFEST, described
from abmll.data.problems import Problem, errors
from abmll.data.readers import ParsedTask, parse_spec
from abmll.data.rows import task_name
from abmll.data.spec import TaskSpec

LOOKED_AT = 50
"""Rows by which a shape is recognised."""
_SIDE = re.compile(r"(?P<stem>.*?)[ ._-]?(?P<side>train|training|test|dev|validation|valid|val)", re.IGNORECASE)
NOT_TASKS = (".toml", ".md", ".txt", ".py", ".sh", ".html", ".pdf", ".log", ".lock", ".cfg", ".ini")


@dataclass(frozen=True)
class Source:
    """One task to be: its file, and the file of the support sets where the data come in two."""

    path: Path
    name: str
    support: Path | None = None


@dataclass(frozen=True)
class Found:
    """What was made of a source. spec: None where it cannot be read; problems then say why."""

    source: Source
    format: str
    guesses: tuple[Guess, ...] = ()
    spec: TaskSpec | None = None
    parsed: ParsedTask | None = None
    problems: tuple[Problem, ...] = ()


def sources(path: Path) -> tuple[list[Source], list[str]]:
    """The tasks to be in a file, a saved data set or a folder of such; and the names of files that are none.

    A file of training rows and one of test rows of the same name make one task; so do two such files alone in a folder
    of the task's name.
    Raises AbmllError if there is nothing at `path`.
    """
    if not path.exists():
        raise AbmllError(f"there is no file or folder {path}: check the path")
    if is_dataset(path):
        return [_of_dataset(path)], []
    if not path.is_dir():
        return [Source(path, task_name(path))], []
    members = sorted(member for member in path.iterdir() if not member.name.startswith("."))
    taken, passed = [], []
    for member in members:
        if member.is_dir() and is_dataset(member):
            taken.append(_of_dataset(member))
        elif member.is_dir():
            taken += _named_by_folder(member)
        elif member.is_file() and (container_format(member) or member.suffix.lower() in (".yaml", ".yml")):
            if member.name != MANIFEST:
                taken.append(Source(member, task_name(member)))
        elif member.is_file() and member.suffix.lower() not in NOT_TASKS:
            passed.append(member.name)
    return _paired(path, taken), passed


def recognise(path: Path) -> tuple[str, Reading]:
    """The format of a file, and its rows as that format or, for plain tables, its container reads them."""
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return "promptfoo", find_format("promptfoo").read(path, Options())
    formats = {name: find_format(name) for name in format_names()}
    if container_format(path) == "json":
        document, problems = read_document(path)
        if document is None:
            return "json", Reading([], problems)
        for name, form in formats.items():
            if form.fits_document is not None and form.fits_document(document):
                return name, form.read(path, Options())
    reading = read_container(path, Options())
    looked_at = [row.fields for row in reading.rows[:LOOKED_AT]]
    for name, form in formats.items():
        if form.fits is not None and form.fits(looked_at):
            return name, form.read(path, Options())
    if reading.table:  # MMLU's files have no header line
        headless = find_format("letters").read(path, Options())
        if headless.rows and not errors(headless.problems):
            return "letters", headless
    return TABLE, reading


def propose(source: Source, given: Given, *, question: str = "", family: str = "") -> Found:
    """A spec for one source, with what was guessed and the task that it gives; nothing is written."""
    form, reading = recognise(source.path)
    if not reading.rows:
        return Found(source, form, problems=tuple(reading.problems))
    try:
        guesses = _guesses(form, reading, given)
    except AbmllError as error:
        message, _, cure = str(error).rstrip(".").partition(". ")
        return Found(source, form, problems=(Problem(source.path.name, 0, "", message, cure or "Say which"),))
    said = [guess for guess in guesses if guess.key in TaskSpec.model_fields and not _usual(guess, reading)]
    keys = {guess.key: guess.value for guess in said}
    spec = TaskSpec(
        file=str(source.path.resolve()),
        support_file=None if source.support is None else str(source.support.resolve()),
        name=source.name,
        question=question or reading.question,
        family=family,
        format=form,
        **keys,
    )
    parsed = parse_spec(source.path, spec, [file for file in (source.path, source.support) if file is not None])
    if errors(parsed.problems):
        return Found(source, form, tuple(guesses), None, parsed, parsed.problems)
    return Found(source, form, tuple(guesses), spec, parsed, parsed.problems)


def propose_all(path: Path, given: Given, *, question: str = "", family: str = "") -> tuple[list[Found], list[str]]:
    """`propose` for all that `path` holds; a manifest.json in a folder gives names, questions and families."""
    found, passed = sources(path)
    entries = described(path) if path.is_dir() and not is_dataset(path) else {}
    proposals = []
    for source in found:
        entry = entries.get(source.path.name, {})
        named = replace(source, name=entry.get("name", source.name))
        said = question or entry.get("question", "")
        proposals.append(propose(named, given, question=said, family=family or entry.get("family", "")))
    return proposals, passed


def spec_text(found: Found, folder: Path) -> str:
    """The TOML of a spec to be written into `folder`, with the reason beside each guess."""
    assert found.spec is not None
    lines = [f"# Written by `abmll tasks import` for {found.source.path.name}. Change what it guessed wrong."]
    reasons = {guess.key: guess.why for guess in found.guesses}
    table = found.spec.model_dump(exclude_defaults=True)
    for key in ("file", "support_file"):
        if key in table:
            table[key] = _placed(Path(table[key]), folder)
    labels = table.pop("labels", None)
    for key, value in table.items():
        reason = f"  # {reasons[key]}" if key in reasons else ""
        lines.append(f"{key} = {toml_value(value)}{reason}")
    if labels:
        lines += ["", f"[labels]  # {reasons.get('labels', '')}"]
        lines += [f"{toml_key(name)} = {toml_value(value)}" for name, value in labels.items()]
    return "\n".join(lines) + "\n"


def _guesses(form: str, reading: Reading, given: Given) -> list[Guess]:
    """What must be guessed: for tables all columns, for known shapes only what they leave open."""
    if form != TABLE:
        known = reading.columns
        said = [
            Guess(key, value, "you said so", given=True)
            for key, value in (("input", given.input), ("label", given.label), ("choices", given.choices))
            if value is not None
        ]
        said = [replace(guess, value=list(guess.value)) if guess.key == "choices" else guess for guess in said]
        if known.input is not None or given.input is not None:
            return said
        return [*said, *(g for g in guess_columns(reading.rows, table=reading.table, given=given) if g.key == "input")]
    return guess_columns(reading.rows, table=reading.table, given=given)


def _usual(guess: Guess, reading: Reading) -> bool:
    """Whether a reader would find this column without a word, so that the spec need not say it."""
    names = {
        "input": INPUT_NAMES,
        "choices": CHOICES_NAMES,
        "target": TARGET_NAMES,
        "label": LABEL_NAMES,
        "id": ID_NAMES,
    }
    present = {name for row in reading.rows[:LOOKED_AT] for name in row.fields}
    usual = [name for name in names.get(guess.key, ()) if name in present]
    return usual == [guess.value]


def _of_dataset(path: Path) -> Source:
    named = splits(path)
    if not named:
        return Source(path, path.name)
    test = next((name for name in ("test", "validation", "dev") if name in named), named[-1])
    support = path / "train" if "train" in named and test != "train" else None
    return Source(path / test, path.name, support)


def _named_by_folder(folder: Path) -> list[Source]:
    """The task of a folder that holds no more than its training and test files, as LegalBench's do."""
    tables = [member for member in folder.iterdir() if member.is_file() and container_format(member)]
    pair = _paired(folder, [Source(table, task_name(table)) for table in sorted(tables)])
    return pair if len(pair) == 1 and pair[0].support is not None else []


def _paired(folder: Path, found: Sequence[Source]) -> list[Source]:
    """The sources with a task's training and test files put together."""
    by_stem: dict[tuple[str, str], dict[str, Source]] = {}
    result = []
    for source in found:
        mark = _SIDE.fullmatch(source.name)
        if mark is None or source.support is not None:
            result.append(source)
            continue
        side = mark["side"].casefold()
        kind = "train" if side.startswith("train") else "test" if side == "test" else "validation"
        by_stem.setdefault((mark["stem"], source.path.suffix), {})[kind] = source
    for (stem, _), sides in by_stem.items():
        evaluated = sides.get("test") or sides.get("validation")
        if evaluated is None or "train" not in sides:
            result += sides.values()
        else:
            result.append(Source(evaluated.path, stem or folder.resolve().name, sides["train"].path))
    return sorted(result, key=lambda source: source.name)


def _placed(path: Path, folder: Path) -> str:
    """A data file's path as a spec in `folder` names it: relative where it lies below, absolute elsewhere."""
    resolved = folder.resolve()
    return os.path.relpath(path, resolved) if path.is_relative_to(resolved) else str(path)
