"""Ranks: several processes that work together, each on its own episodes of a step or cells of an evaluation.

Started by `torchrun --nproc-per-node N`, which tells every process its rank in the environment; without it there is
one rank and nothing here communicates. There is no wrapper around the model: inner loops are local, and a step
needs one sum of META's gradient over ranks. Everything else (metrics, errors, states) travels as bytes.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from abmll.core.errors import AbmllError

T = TypeVar("T")


class Ranks:
    """This process among `size` processes; `rank` 0 alone writes files. Make one with `connect`."""

    def __init__(self, rank: int = 0, size: int = 1, control: dist.ProcessGroup | None = None) -> None:
        self.rank = rank
        self.size = size
        self._control = control

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> None:
        """Replaces `tensor` by its sum over ranks, in place, the same bits on every rank."""
        if self.size > 1:
            _communicate(lambda: dist.all_reduce(tensor))

    def exchange(self, payload: bytes, failure: Exception | None = None) -> list[bytes]:
        """Every rank's payload, by rank, on every rank.

        If any rank brings a failure instead, every rank raises: its own, or an AbmllError that tells the first one.
        """
        if self.size == 1:
            if failure is not None:
                raise failure
            return [payload]
        message = b"" if failure is None else (str(failure) or type(failure).__name__).encode()
        answers = self._all_gather(b"\0" + payload if failure is None else b"\1" + message)
        if failure is not None:
            raise failure
        for rank, answer in enumerate(answers):
            if answer[0] == 1:
                raise AbmllError(f"rank {rank} stopped: {answer[1:].decode()}")
        return [answer[1:] for answer in answers]

    def gather(self, payload: bytes) -> list[bytes] | None:
        """Every rank's payload on rank 0, None elsewhere; one rank at a time, so that large ones fit."""
        if self.size == 1:
            return [payload]
        if self.is_first:
            return [payload] + [self._receive(rank) for rank in range(1, self.size)]
        self._send(payload, 0)
        return None

    def scatter(self, payloads: Sequence[bytes] | None) -> bytes:
        """The payload that rank 0 holds for this rank; `payloads` is None elsewhere."""
        if not self.is_first:
            return self._receive(0)
        assert payloads is not None
        for rank in range(1, self.size):
            self._send(payloads[rank], rank)
        return payloads[0]

    def first(self, work: Callable[[], T]) -> T | None:
        """Does `work` on rank 0 while the others wait; its error stops every rank. None on the others."""
        result, failure = None, None
        if self.is_first:
            try:
                result = work()
            except Exception as error:
                failure = error
        self.exchange(b"", failure)
        return result

    def in_turns(self, work: Callable[[], T]) -> T:
        """Does `work` on every rank, those of one machine one after the other; an error of one stops all."""
        place = f"{local_rank()} {int(os.environ.get('LOCAL_WORLD_SIZE', '1'))}"
        turns = max(int(answer.split()[1]) for answer in self.exchange(place.encode()))
        results: list[T] = []
        for turn in range(turns):
            failure = None
            if turn == local_rank() % turns:
                try:
                    results.append(work())
                except Exception as error:
                    failure = error
            self.exchange(b"", failure)
        return results[0]

    def agree(self, work: Callable[[], Any]) -> Any:
        """What `work` returns on rank 0, a plain JSON value, on every rank: files are read where they are written."""
        result, failure = b"", None
        if self.is_first:
            try:
                result = json.dumps(work()).encode()
            except Exception as error:
                failure = error
        return json.loads(self.exchange(result, failure)[0])

    def _all_gather(self, payload: bytes) -> list[bytes]:
        def all_gather() -> list[bytes]:
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(sizes, torch.tensor([len(payload)]), group=self._control)
            longest = max(int(size) for size in sizes)
            buffers = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
            dist.all_gather(buffers, _to_tensor(payload.ljust(longest, b"\0")), group=self._control)
            return [_to_bytes(buffer[: int(size)]) for buffer, size in zip(buffers, sizes, strict=True)]

        return _communicate(all_gather)

    def _send(self, payload: bytes, to: int) -> None:
        def send() -> None:
            dist.send(torch.tensor([len(payload)]), to, group=self._control)
            dist.send(_to_tensor(payload), to, group=self._control)

        _communicate(send)

    def _receive(self, source: int) -> bytes:
        def receive() -> bytes:
            size = torch.zeros(1, dtype=torch.int64)
            dist.recv(size, source, group=self._control)
            buffer = torch.zeros(int(size), dtype=torch.uint8)
            dist.recv(buffer, source, group=self._control)
            return _to_bytes(buffer)

        return _communicate(receive)


_connected: Ranks | None = None


def num_ranks() -> int:
    """How many processes `torchrun` started; 1 without it. Asks the environment, and connects to nobody."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's number among those of its machine, from 0: which of its GPUs it takes."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def connect(device: torch.device, timeout: float) -> Ranks:
    """Joins the ranks that `torchrun` started (gloo on the CPU, NCCL on CUDA), or is the only one.

    Args:
        device: where META lies.
        timeout: seconds after which a silent rank counts as lost. A process group that the caller has already made is
            used as it is.
    """
    global _connected
    if _connected is not None:
        return _connected
    if not dist.is_initialized():
        if num_ranks() == 1:
            return Ranks()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        _communicate(lambda: dist.init_process_group(backend, timeout=timedelta(seconds=timeout)))
        atexit.register(_disconnect)
    # Bytes go over gloo whatever the gradient goes over: they lie in ordinary memory.
    control = _communicate(lambda: dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout)))
    # None goes on, to end with an error perhaps, while another still connects to it.
    _communicate(lambda: dist.barrier(group=control))
    _connected = Ranks(dist.get_rank(), dist.get_world_size(), control)
    return _connected


def _disconnect() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


class Unheard(AbmllError):
    """An error inside a pass that other ranks take part in: they wait for this one, and cannot be told."""


@contextmanager
def together(sharded: bool) -> Iterator[None]:
    """A block of passes through a model, which, if it is sharded, communicate by themselves.

    Raises:
        Unheard: In place of any error in a sharded model. The process must then end; that is what others notice.
    """
    try:
        yield
    except Exception as error:
        if not sharded:
            raise
        lost = isinstance(error, dist.DistBackendError) or "gloo" in str(error)
        what = _lost(error) if lost else str(error) or type(error).__name__
        raise Unheard(what) from error


def _communicate(call: Callable[[], T]) -> T:
    try:
        return call()
    except RuntimeError as error:
        raise AbmllError(_lost(error)) from error


def _lost(error: Exception) -> str:
    return (
        f"lost contact with another rank: it was killed, or was silent for too long ({_first_line(error)}). "
        "Look for its own message above; then start the job again (train with --resume): it goes on from what is "
        "on disk."
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _to_tensor(payload: bytes) -> Tensor:
    return torch.frombuffer(bytearray(payload), dtype=torch.uint8) if payload else torch.zeros(0, dtype=torch.uint8)


def _to_bytes(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()
