"""Ten thousand damaged files for the readers of tasks, specs, manifests, run files and predictions.

Each gives a value or one clear error, no traceback, no hang. Seeded: the number of the mutation finds it again.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from abmll.config import load_config
from abmll.core.errors import AbmllError
from abmll.data.manifest import read_manifest
from abmll.data.validate import check_task
from abmll.evaluation.predictions import decode_cell

MUTATIONS, SECONDS = 10_000, 60
PIECES = (
    *(b'"', b"'", b"\\", b",", b";", b"\t", b"\n", b"\r", b"\0", b"|", b"{", b"}", b"[", b"]", b":", b"=", b"#", b"."),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xe9", b"\xc3", b"\xe2\x80\x8b", b"\xed\xa0\x80", b"\\ud83d", b"\\u0000"),
    *(b"NaN", b"-Infinity", b"1e999", b"9" * 400, b"null", b"true", b"nan", b"-0", b"0x1", b"1_0", b"1979-05-27"),
    *(b"[" * 200, b"{" * 200, b'{"a":' * 100, b'"' * 3, b"'''", b"a.b.c.d" * 40, b"\x1b[31m", b"\xf0\x9f\x98\x80"),
    *(b"text", b"label", b"options", b"target", b"id", b"split", b"{text}", b"{", b"{text.x}", b"sep=;\n"),
)
CELL = {
    **{"version": 1, "method": "lora", "seed": 0, "task": "t", "support_size": 4, "family": "f", "seconds": 0.5},
    **{"extra": {"x": 1}, "ids": ["a", "b"], "targets": [0, 1]},
    "log_probs": [[[math.log(p), math.log(1 - p)] for p in sample] for sample in ((0.9, 0.5), (0.8, 0.6))],
}
SPEC = """file = "rows.csv"
question = "Is it good?"
input = "{text}"
label = "label"
columns = ["text", "label"]
[labels]
negative = "bad"
positive = "good"
"""
RUN = """output = "runs/x"
[data]
suite = "default"
[model]
name = "default"
dtype = "float32"
[method]
name = ["abmll", "lora"]
options = {num_steps = 4}
[training]
num_steps = 10
learning_rate = 1e-3
"""


def table(mark: str) -> str:
    lines = [f'"It broke, after {n} days."{mark}{("negative", "positive")[n % 2]}{mark}train' for n in range(12)]
    return "\n".join([f"text{mark}label{mark}split", *lines]) + "\n"


def seeds() -> list[tuple[str, bytes]]:
    """Files in order, by the name under which they are read."""
    labelled = [{"text": f"text {n}", "label": ("no", "yes")[n % 2]} for n in range(8)]
    chosen = [{"id": f"r{n}", "input": f"text {n}", "options": ["no", "yes"], "target": n % 2} for n in range(8)]
    manifest = {"tasks": [{"name": "a", "file": "rows.csv", "question": "?", "shares_rows_with": ["b"]}]}
    files = {
        **{"t.csv": table(","), "t.tsv": table("\t"), "t2.csv": table(";"), "t.toml": SPEC, "run.toml": RUN},
        "t.jsonl": "\n".join(map(json.dumps, labelled)),
        "t2.jsonl": "\n".join(map(json.dumps, chosen)),
        "t3.jsonl": json.dumps(chosen, indent=1),
        "t.json": json.dumps({"data": labelled}),
        "manifest.json": json.dumps(manifest),
        "cell.jsonl": json.dumps(CELL),
    }
    whole = [(name, text.encode()) for name, text in files.items()]
    return [*whole, ("t.csv.gz", gzip.compress(table(",").encode(), mtime=0))]


def mutate(draw: random.Random, data: bytes) -> bytes:
    """One to four changes: bytes inserted, replaced, cut, doubled, swapped."""
    for _ in range(draw.randint(1, 4)):
        place, length = draw.randrange(len(data) + 1), draw.choice((1, 1, 2, 5, 20, 200))
        piece = draw.choice(PIECES) if draw.random() < 0.8 else bytes([draw.randrange(256)])
        kind = draw.randrange(5)
        if kind == 0:
            data = data[:place] + piece + data[place:]
        elif kind == 1:
            data = data[:place] + piece + data[place + length :]
        elif kind == 2:
            data = data[:place] + data[place + length :]
        elif kind == 3:
            data = data[:place] + data[place : place + length] * draw.choice((2, 3, 50)) + data[place + length :]
        else:
            data = data[place:] + data[:place] if draw.random() < 0.1 else data[:place]
    return data


def reader(folder: Path, name: str) -> Callable[[bytes], object]:
    """What reads the file of that name; it may raise AbmllError and nothing else."""
    path = folder / name

    def read(data: bytes) -> object:
        if name == "cell.jsonl":
            return decode_cell(data)
        path.write_bytes(data)
        if name == "run.toml":
            return load_config(path)
        if name == "manifest.json":
            return read_manifest(folder)
        checked = check_task(path)
        list(checked.told())
        return [str(problem).encode() for problem in checked.problems], checked.profile and checked.profile.lines()

    return read


@pytest.mark.slow
def test_ten_thousand_damaged_files(tmp_path):
    (tmp_path / "rows.csv").write_text(table(",").replace("text,label,split\n", ""))
    files = seeds()
    readers = {name: reader(tmp_path, name) for name, _ in files}
    for name, data in files:
        readers[name](data)  # in order
    start, slowest = time.process_time(), (0.0, 0)
    outcomes = {"read": 0, "told": 0}
    for number in range(MUTATIONS):
        draw = random.Random(number)
        name, data = draw.choice(files)
        data = mutate(draw, data)
        began = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                readers[name](data)
            outcomes["read"] += 1
        except AbmllError as error:
            str(error).encode()  # no lone surrogate in it
            outcomes["told"] += 1
        except Exception as error:
            raise AssertionError(f"mutation {number} of {name}: {error!r} from {data[:300]!r}") from error
        slowest = max(slowest, (time.process_time() - began, number))
    assert time.process_time() - start < SECONDS
    assert slowest[0] < 5, f"mutation {slowest[1]} took {slowest[0]:.1f} s"
    assert min(outcomes.values()) > MUTATIONS / 20
