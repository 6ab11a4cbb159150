"""A model folder, a folder of CSV tasks and a run file's content: what a user brings."""

from __future__ import annotations

import os

import pytest

from tests.pipeline.stages import write_tasks
from tests.reports.undrawn import planned_only
from tests.tiny import tiny_llama, tiny_tokenizer

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A folder with a tiny Llama and its tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    tiny_llama(layers=1).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def undrawn():
    """As the fixture of this name for all tests, also for what a module computes once."""
    with planned_only():
        yield


@pytest.fixture(scope="session")
def suite(tmp_path_factory):
    """Six tasks, each a CSV file; a suite TOML holds two out."""
    return write_tasks(tmp_path_factory.mktemp("tasks"))
