"""CrossFit's few-shot tasks from the hub: the rows that its scripts draw, in the lines that they write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from abmll.core.documents import read_toml
from abmll.core.errors import AbmllError
from abmll.data.formats.crossfit import K_IN_ALL, K_PER_CLASS, SEEDS, few_shot
from abmll.data.formats.format import CHOICES, INPUT, LABEL
from abmll.data.gathered import Rows
from abmll.data.hub.cache import require_files
from abmll.data.hub.crossfit_line import LEAVES_OUT, Line
from abmll.data.hub.spec import HubSpec, hub_spec, hub_specs

PREFIX = "crossfit-"
"""What stands before a CrossFit task's own name in its spec's."""
_SHUFFLE = 42
"""The seed by which CrossFit parts a set of one split, takes a share of the test rows, and deals chances to rows."""
_BATCH = 4096

Item = TypeVar("Item")


class Draw(NamedTuple):
    """The lines of one seed's files `<task>_<k>_<seed>_train.tsv` and `…_dev.tsv`."""

    train: list[Line]
    dev: list[Line]


class FewShot(NamedTuple):
    """A task's draws by seed, and the lines of its test file, which is the same for all."""

    draws: dict[int, Draw]
    test: list[Line]


def crossfit_spec(task: str) -> HubSpec | None:
    """The spec by which CrossFit's task of this name is made from the hub; None if there is none."""
    name = PREFIX + task
    return hub_spec(name) if name in hub_specs() else None


def left_out() -> dict[str, str]:
    """Why a task of CrossFit has no spec, by its name."""
    table = read_toml(Path(str(files("abmll.data"))) / "hub" / "crossfit_left_out.toml")
    return {task: reason["why"] for reason in table["reasons"] for task in reason["tasks"]}


def few_shot_task(spec: HubSpec, cache: Path | None = None) -> FewShot:
    """The published draws, from files that `abmll tasks fetch` has brought into the cache.

    A row is read whole only where a draw or the test file takes it.
    Raises AbmllError if a file is not in the cache, or holds what the spec does not know.
    """
    form, pool = spec.crossfit, spec.support
    assert form is not None
    assert pool is not None
    rows = {name: _Rows(spec, name, require_files(spec, name, cache)) for name in spec.used}
    places = list(range(len(rows[pool].numbers)))
    if form.carve is None:
        test = list(range(len(rows[spec.judge].numbers)))
    else:
        _shuffle(places)
        first, last = _cut(form.carve, len(places))
        places, test = places[:first], places[first:last]
    if form.test_share is not None:
        _shuffle(test)
        test = test[: int(form.test_share * len(test))]
    k = K_PER_CLASS if form.per_class else K_IN_ALL
    label: Callable[[int], str] | None = rows[pool].outputs.__getitem__ if form.per_class else None
    drawn = {seed: few_shot(places, seed, k=k, label=label) for seed in SEEDS}
    wanted: dict[str, set[int]] = {name: set() for name in rows}
    wanted[pool].update(place for parts in drawn.values() for part in parts for place in part)
    wanted[spec.judge].update(test)
    lines = {name: rows[name].lines(places) for name, places in wanted.items()}
    draws = {seed: Draw(*([lines[pool][place] for place in part] for part in parts)) for seed, parts in drawn.items()}
    return FewShot(draws, [lines[spec.judge][place] for place in test])


def crossfit_rows(spec: HubSpec, *, held_out: bool, cache: Path | None = None) -> Rows:
    """The rows of a task: those of all draws; or, held out, the test rows, and the draws' training rows to adapt on."""
    few, form = few_shot_task(spec, cache), spec.crossfit
    assert form is not None
    drawn = [line for draw in few.draws.values() for part in (draw[:1] if held_out else draw) for line in part]
    rows, pool = ([_fields(line) for line in lines if line.output] for lines in (few.test, drawn))
    words = tuple(dict.fromkeys(form.labels.values()))
    source = f"{spec.repo} ({spec.revision})"
    return Rows(rows, pool, source, words, spec.family) if held_out else Rows(pool, [], source, words, spec.family)


def _fields(line: Line) -> dict[str, Any]:
    return {INPUT: line.prompt, LABEL: line.output} | ({CHOICES: list(line.choices)} if line.choices else {})


class _Rows:
    """The rows of a split that CrossFit makes lines of. numbers: of the rows, in order. outputs: if drawn by class."""

    def __init__(self, spec: HubSpec, split: str, paths: Sequence[Path]) -> None:
        form = spec.crossfit
        assert form is not None
        self._form, self._paths, self._columns = form, paths, list(spec.columns)
        self.where = f"{spec.name}:{split}"
        total = sum(_file(path).metadata.num_rows for path in paths)
        chances = np.random.RandomState(_SHUFFLE)
        self._chances = chances.random_sample(total).tolist() if form.prepare == "pair" else []
        self.numbers: Sequence[int] = range(total)
        self.outputs: list[str] = []
        if form.per_class or form.unless_blank or form.prepare in LEAVES_OUT:
            self._look(total)
        if form.prepare == "shuffled":
            self._chances = [_order(chances) for _ in self.numbers]

    def _look(self, total: int) -> None:
        form = self._form
        columns = self._columns if form.prepare or form.unless_blank else [form.output]
        numbers = []
        for number, fields in _rows(self._paths, columns, None):
            try:
                if form.unless_blank or form.prepare:
                    line = form.line(fields, self._chance(number))
                    output = None if line is None else line.output
                else:
                    output = form.label(fields)
            except AbmllError as error:
                raise AbmllError(f"{self.where}, row {number + 1}: {error}") from None
            if output is not None:
                numbers.append(number)
                self.outputs.append(output)
        self.numbers = numbers
        if not numbers:
            raise AbmllError(f"{self.where} has no row with a label among its {total}. The set was changed")

    def _chance(self, place: int) -> Any:
        return self._chances[place] if self._chances else [0, 1, 2, 3]

    def lines(self, places: Iterable[int]) -> dict[int, Line]:
        """The lines of some rows, by their place among `numbers`."""
        place_of = {self.numbers[place]: place for place in places}
        found = {}
        for number, fields in _rows(self._paths, self._columns, set(place_of)):
            try:
                place = place_of[number]
                line = self._form.line(fields, self._chance(place))
            except AbmllError as error:
                raise AbmllError(f"{self.where}, row {number + 1}: {error}") from None
            # A row that is drawn without a look at it may turn out to have no one answer: an empty one is no choice.
            found[place] = line or Line("", "", "")
        return found


def _rows(
    paths: Sequence[Path], columns: Sequence[str], numbers: set[int] | None
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows with their numbers from 0 over all files, their fields in the order of `columns`; all, or those wanted."""
    start = 0
    for path in paths:
        for batch in _file(path).iter_batches(batch_size=_BATCH, columns=list(columns)):
            here = [place for place in range(batch.num_rows) if numbers is None or start + place in numbers]
            if here:
                taken = batch if numbers is None else batch.take(here)
                for place, fields in zip(here, taken.to_pylist(), strict=True):
                    yield start + place, {name: fields[name] for name in columns}
            start += batch.num_rows


def _file(path: Path) -> Any:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise AbmllError("tasks of the hub need the library pyarrow: pip install 'abmll[parquet]'") from None
    try:
        return parquet.ParquetFile(path)
    except (arrow.ArrowException, OSError) as error:
        first = str(error).strip().partition("\n")[0]
        raise AbmllError(f"{path.name} is damaged ({first}). Delete it and fetch it again: {path}") from error


def _shuffle(items: list[Item]) -> None:
    np.random.RandomState(_SHUFFLE).shuffle(items)  # type: ignore[arg-type]


def _order(generator: np.random.RandomState) -> list[int]:
    order = [0, 1, 2, 3]
    generator.shuffle(order)
    return order


def _cut(carve: float | list[int], count: int) -> tuple[int, int]:
    """Where the rows to draw from end, and where those to judge on do."""
    return (int(carve * count), count) if isinstance(carve, float) else (carve[0], sum(carve))
