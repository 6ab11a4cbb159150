"""Units of work side by side on several processes, each free to fail alone.

A worker is a process that reads one JSON request a line from its standard input, does it, and answers with one JSON
line: {} or {"error": ..., "traceback": ...}. It stays for the next unit, since importing the libraries takes longer
than many units do; one that dies takes its own unit with it and is replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abmll.core.errors import AbmllError

Perform = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Unit:
    """A piece of work. `after` names a unit that must have ended, well or not, before this one begins."""

    name: str
    request: Mapping[str, Any]
    after: str | None = None


@dataclass(frozen=True)
class Failure:
    """A unit that did not succeed: one line for a person, and the traceback if there is one."""

    unit: str
    error: str
    traceback: str = ""


def run_here(units: Sequence[Unit], perform: Perform, on_end: Callable[[Unit], None]) -> list[Failure]:
    """Performs the units one after the other in this process; an error of one is kept and the next begins."""
    failures = []
    for unit in units:
        answer = attempt(perform, unit.request)
        if answer:
            failures.append(Failure(unit.name, **answer))
        on_end(unit)
    return failures


def attempt(perform: Perform, request: Mapping[str, Any]) -> dict[str, str]:
    """{} if it went well, else what there is to say."""
    try:
        perform(request)
    except AbmllError as error:
        return {"error": str(error)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    return {}


def run_workers(
    units: Sequence[Unit],
    command: Sequence[str],
    jobs: int,
    log_folder: Path,
    on_end: Callable[[Unit], None],
) -> list[Failure]:
    """Performs the units on `jobs` workers started by `command`; what they print goes to log_folder/worker-N.log.

    A unit whose `after` is none of the units does not wait. The processors are divided among the workers
    (OMP_NUM_THREADS), and several GPUs go to them in turn (CUDA_VISIBLE_DEVICES). Whatever ends this call ends the
    workers.
    """
    log_folder.mkdir(parents=True, exist_ok=True)
    queue = _Queue(units, on_end)
    workers = [_Worker(command, log_folder / f"worker-{n}.log", environment(n, jobs)) for n in range(jobs)]
    threads = [threading.Thread(target=_serve, args=(queue, worker), daemon=True) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for worker in workers:
            worker.stop()
    if queue.broken is not None:
        raise queue.broken
    return queue.failures


def environment(number: int, jobs: int) -> dict[str, str]:
    """The environment of worker `number` of `jobs`."""
    env = dict(os.environ)
    limit = env.get("OMP_NUM_THREADS", "")
    processors = (
        int(limit)
        if limit.isdigit()
        else len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1
    )
    env["OMP_NUM_THREADS"] = str(max(1, processors // jobs))
    devices = _visible_devices(env)
    if len(devices) > 1:
        env["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
    return env


def _visible_devices(env: Mapping[str, str]) -> list[str]:
    if "CUDA_VISIBLE_DEVICES" in env:
        return [name for name in env["CUDA_VISIBLE_DEVICES"].split(",") if name]
    import torch

    return [str(n) for n in range(torch.cuda.device_count())]


class _Queue:
    """The units that wait, shared by the threads."""

    def __init__(self, units: Sequence[Unit], on_end: Callable[[Unit], None]) -> None:
        self._waiting, self._open = list(units), {unit.name for unit in units}
        self._on_end = on_end
        self._changed = threading.Condition()
        self.failures: list[Failure] = []
        self.broken: BaseException | None = None

    def take(self) -> Unit | None:
        """The first unit that may begin, waiting for one if need be; None when there is nothing left to do."""
        with self._changed:
            while True:
                if not self._waiting or self.broken is not None:
                    return None
                for place, unit in enumerate(self._waiting):
                    if unit.after not in self._open:
                        return self._waiting.pop(place)
                self._changed.wait()

    def end(self, unit: Unit, answer: Mapping[str, str]) -> None:
        with self._changed:
            self._open.discard(unit.name)
            if answer:
                self.failures.append(Failure(unit.name, **answer))
            try:
                self._on_end(unit)
            except BaseException as error:  # raised again in the caller's thread
                self.broken = error
            self._changed.notify_all()


def _serve(queue: _Queue, worker: _Worker) -> None:
    while (unit := queue.take()) is not None:
        queue.end(unit, worker.perform(unit.request))


class _Worker:
    """One process, started when it is first needed and again after it died."""

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self._command, self._log, self._env = list(command), log, dict(env)
        self._process: subprocess.Popen[str] | None = None

    def perform(self, request: Mapping[str, Any]) -> dict[str, str]:
        try:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if line:
                return dict(json.loads(line))
            code = process.wait()
        except (OSError, ValueError) as error:
            self.stop()
            return {"error": f"the worker could not be reached ({error}); its output is in {self._log}"}
        self._process = None
        how = f"by signal {-code}" if code < 0 else f"with status {code}"
        cure = " Out of memory? Run fewer --jobs." if code == -9 else ""
        return {"error": f"the worker ended {how} in the middle; its output is in {self._log}.{cure}"}

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            with self._log.open("a", encoding="utf-8") as log:
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=self._env, text=True
                )
        return self._process

    def stop(self) -> None:
        """Ends the process: by closing its input, and by force if it is in the middle of something."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
