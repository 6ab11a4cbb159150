"""What the default tests do once, or not at all, because only other tests look at it; the slow tests do all of it.

In a profile of the whole suite the first four were a fifth of it.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jaxtyping
import peft
import pytest
import typer.testing

from abmll.language.packing.evidence import Bearing, Evidence
from abmll.models import loading
from tests.commands import command_group

SHAPES = {"core", "gaussian", "adapters", "evaluation"}
"""Folders whose tests check the shapes of all arguments and results; the others' go through the same functions."""
COMPARED = {"test_packing", "test_architectures", "test_loading"}
"""Files whose tests compare packed passes with plain ones for each model; elsewhere once for all of one build."""
PAGES = {"test_saved_folders"}
"""Files whose tests see the page that PEFT writes: it compiles a template for it, and elsewhere ours replaces it."""
READ = {"models", "language"}
"""Folders whose tests look at how a model's files are read; the others' read each folder of them once."""


class Shortcuts:
    """A plugin of pytest, registered for the default tests."""

    def __init__(self) -> None:
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(typer.testing, "_get_command", command_group)
        self._bearings: dict[tuple[object, ...], Bearing] = {}
        self._compare = Evidence._compare
        self._page = peft.PeftModel.create_or_update_model_card
        self._models: dict[tuple[object, ...], Any] = {}
        self._read = loading._from_folder_or_hub

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        path = Path(item.path)
        folder = path.parent.name
        jaxtyping.config.update("jaxtyping_disable", folder not in SHAPES)
        self._patch.setattr(Evidence, "_compare", self._compare if path.stem in COMPARED else self._compared_before())
        page = self._page if path.stem in PAGES else lambda *_: None
        self._patch.setattr(peft.PeftModel, "create_or_update_model_card", page)
        self._patch.setattr(loading, "_from_folder_or_hub", self._read if folder in READ else self._read_before)

    def _compared_before(self) -> object:
        def compare(evidence: Evidence, width: int) -> Bearing:
            model = evidence._model
            config = model.get_base_model().config
            key = (config.to_json_string(), config._attn_implementation, model.dtype, evidence._context, width)
            if key not in self._bearings:
                self._bearings[key] = self._compare(evidence, width)
            return self._bearings[key]

        return compare

    def _read_before(self, name: str, *options: Any) -> tuple[Any, Any]:
        files = sorted(Path(name).resolve().iterdir()) if Path(name).is_dir() else []
        stats = [(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
        if not stats:
            return self._read(name, *options)
        key = (name, *options, *stats)
        if key not in self._models:
            self._models[key] = self._read(name, *options)
        model, tokenizer = copy.deepcopy(self._models[key])
        return model, tokenizer

    def pytest_unconfigure(self) -> None:
        self._patch.undo()
