"""Workers: every unit once, in an order that dependencies allow, and no failure that takes others along."""

from __future__ import annotations

import json
import sys

import pytest

from abmll.core.errors import AbmllError
from abmll.pipeline.pool import Unit, environment, run_here, run_workers

WORKER = """
import json, os, sys, time
print("hello from a library", file=sys.stderr)
for line in sys.stdin:
    request = json.loads(line)
    with open(sys.argv[1], "a") as log:
        log.write(json.dumps({**request, "pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}) + "\\n")
    time.sleep(request.get("sleep", 0))
    if request["do"] == "die":
        os.kill(os.getpid(), request["signal"])
    print(json.dumps({"error": "it is broken", "traceback": "here"} if request["do"] == "fail" else {}), flush=True)
"""


@pytest.fixture
def run(tmp_path):
    script, log = tmp_path / "worker.py", tmp_path / "log"
    script.write_text(WORKER)

    def run(units, jobs):
        ended: list[Unit] = []
        failures = run_workers(units, [sys.executable, script, log], jobs, tmp_path / "out", ended.append)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return failures, [unit.name for unit in ended], lines

    return run


def unit(name, do="work", after=None, **request):
    return Unit(name, {"do": do, "name": name, **request}, after)


def test_every_unit_once_side_by_side(run):
    failures, ended, lines = run([unit(str(n), sleep=0.1) for n in range(6)], jobs=3)
    assert failures == []
    assert sorted(ended) == sorted(line["name"] for line in lines) == list("012345")
    assert len({line["pid"] for line in lines}) > 1, "several workers, each for several units"


def test_a_failure_and_a_death_cost_their_own_unit_only(run, tmp_path):
    units = [
        unit("a"),
        unit("b", "fail"),
        unit("c", "die", signal=9),
        unit("d"),
        unit("e", "die", signal=15),
        unit("f"),
    ]
    failures, ended, lines = run(units, jobs=1)
    assert ended == list("abcdef")
    assert [line["name"] for line in lines] == list("abcdef")
    told = {failure.unit: failure for failure in failures}
    assert set(told) == set("bce")
    assert (told["b"].error, told["b"].traceback) == ("it is broken", "here")
    assert "by signal 9" in told["c"].error
    assert "Run fewer --jobs" in told["c"].error
    assert "by signal 15" in told["e"].error
    assert "--jobs" not in told["e"].error
    assert (tmp_path / "out" / "worker-0.log").read_text().count("hello") == 3, "one worker, and two after a death"


def test_a_unit_waits_for_the_one_it_builds_on_even_if_that_fails(run):
    units = [unit("late", after="slow"), unit("later", after="late"), unit("slow", "fail", sleep=0.3), unit("free")]
    _, ended, lines = run([*units, unit("alone", after="nobody here")], jobs=2)
    order = [line["name"] for line in lines]
    assert order.index("slow") < order.index("late") < order.index("later")
    assert ended.index("slow") < ended.index("late")
    assert len(order) == 5


def test_processors_and_gpus_are_divided(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    found = [environment(number, 4) for number in range(4)]
    assert {env["OMP_NUM_THREADS"] for env in found} == {"2"}
    assert [env["CUDA_VISIBLE_DEVICES"] for env in found] == ["2", "5", "7", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert environment(1, 4)["CUDA_VISIBLE_DEVICES"] == "5"
    assert environment(1, 100)["OMP_NUM_THREADS"] == "1"


def test_an_error_while_a_result_is_noted_ends_everything(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)

    def on_end(unit):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run_workers([unit("a"), unit("b")], [sys.executable, script, tmp_path / "log"], 1, tmp_path, on_end)
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def test_a_command_that_cannot_start_is_a_failure_of_every_unit(tmp_path):
    failures = run_workers([unit("a"), unit("b")], [str(tmp_path / "absent")], 1, tmp_path, lambda unit: None)
    assert [failure.unit for failure in failures] == ["a", "b"]
    assert "could not be reached" in failures[0].error


def test_in_this_process():
    def perform(request):
        if request["do"] == "mistake":
            raise AbmllError("too few rows")
        if request["do"] == "bug":
            raise ZeroDivisionError("by zero")

    failures = run_here([unit("a"), unit("b", "mistake"), unit("c", "bug"), unit("d")], perform, lambda unit: None)
    assert [(f.unit, f.error) for f in failures] == [("b", "too few rows"), ("c", "ZeroDivisionError: by zero")]
    assert failures[0].traceback == ""
    assert failures[1].traceback.startswith("Traceback")
