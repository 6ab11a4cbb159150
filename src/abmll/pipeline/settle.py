"""What a run leaves open, settled once by its tasks, so that every method, seed and process of it does the same:
answer = "auto", and how many LoRAs a method with one for each task has."""

from __future__ import annotations

from pathlib import Path

from abmll.card import read_card
from abmll.config import RunConfig, load_config
from abmll.config.methods import known_options
from abmll.data.suite import Suite
from abmll.language import PromptFormat
from abmll.methods import build_method
from abmll.methods.parts.no_model import needs_model
from abmll.pipeline.build import build_learner, join_ranks
from abmll.pipeline.preflight import Findings, places_of
from abmll.pipeline.run_record import RUN_FILE

AUTO = "auto"
ROOM = "num_loras"
"""The option of methods that have a LoRA for each task."""


def settled(config: RunConfig, suite: Suite, out: Path, adapter: Path | None = None) -> RunConfig:
    """The run with what its answer = "auto" comes to, and with room for a LoRA of every training task.

    Where it says something else, that holds. A run that goes on in `out` takes the answer that its run file there has,
    an adapter that is evaluated what its card has; else the model is asked, on training rows (`Learner.settle`), which
    loads it.
    """
    if adapter is None:
        config = with_room(config, len(suite.train))
    if config.prompt.answer != AUTO:
        return config
    ranks = join_ranks(config)
    answer = ranks.agree(lambda: _known(out, adapter))
    if answer == AUTO:
        methods = [build_method(name, **config.method.options_for(name)) for name in config.method.names]
        if not any(map(needs_model, methods)):
            return config
        learner = build_learner(config, "pretrained", seed=0)
        answer = learner.settle(suite.train or suite.validation or suite.test).answer
        # ranks on other hardware may differ in the last bits
        answer = ranks.agree(lambda: answer)
    config = config.model_copy(update={"prompt": config.prompt.model_copy(update={"answer": answer})})
    if answer == "letters":
        # listed choices make a prompt longer: whether each fits could not be asked before
        findings, tasks = Findings(), (*suite.train, *suite.validation, *suite.test)
        findings.of_rows(config.model, PromptFormat(**config.prompt.model_dump()), places_of(tasks))
        findings.raise_all()
    return config


def with_room(config: RunConfig, num_tasks: int) -> RunConfig:
    """The run, its methods that have a LoRA for each task with so many, unless it says how many they have."""
    short = [name for name in config.method.names if ROOM in known_options(name)]
    short = [name for name in short if num_tasks and ROOM not in config.method.options_for(name)]
    tables = {name: {**config.method.options.get(name, {}), ROOM: num_tasks} for name in short}
    method = config.method.model_copy(update={"options": {**config.method.options, **tables}})
    return config.model_copy(update={"method": method}) if tables else config


def _known(out: Path, adapter: Path | None) -> str:
    if adapter is not None:
        return read_card(adapter).prompt.answer
    return load_config(out / RUN_FILE).prompt.answer if (out / RUN_FILE).is_file() else AUTO
