"""device_of: each process of a machine takes a GPU of its own."""

from __future__ import annotations

import pytest
import torch

from abmll.config import ModelConfig
from abmll.core.errors import AbmllError
from abmll.pipeline.build import device_of


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_every_process_takes_its_own_gpu(name, monkeypatch):
    assert device_of(ModelConfig(device=name)) == torch.device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "4")
    for local_rank in (0, 1):
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))
        assert device_of(ModelConfig(device=name)) == torch.device("cuda", local_rank)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(AbmllError, match=r"process 3 .* finds only 2 GPUs\. .* torchrun --nproc-per-node 2"):
        device_of(ModelConfig(device=name))


@pytest.mark.usefixtures("two_gpus")
def test_one_gpu_for_all_is_refused(monkeypatch):
    assert device_of(ModelConfig(device="cuda:1")) == torch.device("cuda:1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(AbmllError, match=r'device is \'cuda:1\', but 2 processes need a GPU each. Use "cuda"'):
        device_of(ModelConfig(device="cuda:1"))


def test_the_cpu_is_shared(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert device_of(ModelConfig(device="cpu")) == torch.device("cpu")
