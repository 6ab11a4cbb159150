"""A run as one file: what may stand in it, reading it, writing it, and what ran beside it."""

from abmll.config.about import about_run
from abmll.config.fields import FieldEntry, field_entries
from abmll.config.provenance import provenance
from abmll.config.read import load_config, parse_config, parse_overrides
from abmll.config.schema import (
    AdapterConfig,
    DataConfig,
    EpisodesConfig,
    EvaluationConfig,
    MethodConfig,
    ModelConfig,
    PromptConfig,
    RunConfig,
    TrainingConfig,
    TuneConfig,
)
from abmll.config.write import dump_toml

__all__ = [
    "AdapterConfig",
    "DataConfig",
    "EpisodesConfig",
    "EvaluationConfig",
    "FieldEntry",
    "MethodConfig",
    "ModelConfig",
    "PromptConfig",
    "RunConfig",
    "TrainingConfig",
    "TuneConfig",
    "about_run",
    "dump_toml",
    "field_entries",
    "load_config",
    "parse_config",
    "parse_overrides",
    "provenance",
]
