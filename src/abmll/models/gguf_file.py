"""From a GGUF file to an ordinary model folder: safetensors weights, configuration, tokenizer."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from abmll.core.errors import AbmllError

FORGOTTEN = ("quantization_config", "_name_or_path", "_model_name_or_path", "transformers_version", "dtype")
"""Fields of the read configuration that speak of the file it came from."""


def require_reader(extra: str) -> None:
    """Raises: AbmllError if the package that reads GGUF files is not installed; extra: what of ours brings it."""
    if importlib.util.find_spec("gguf") is None:
        raise AbmllError(
            f'reading the model\'s file needs the small package gguf. Install it: pip install "abmll[{extra}]", or '
            "pip install --no-deps gguf."
        )


def convert(gguf: Path, target: Path, dtype: str) -> None:
    """Writes the model of a GGUF file to the folder `target`, its weights in `dtype`.

    The weights are taken as the file's quantised numbers say; a model of 135 million parameters takes about a gigabyte
    of memory for a few seconds.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, local_files_only=True)
    read: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32, local_files_only=True)
    fields = {key: value for key, value in read.config.to_dict().items() if key not in FORGOTTEN}
    # A model that was read from GGUF refuses to be saved; one that was built from its configuration does not.
    with torch.device("meta"):
        fresh = type(read)(type(read.config)(**fields))
    fresh.load_state_dict(read.to(getattr(torch, dtype)).state_dict(), assign=True)
    fresh.tie_weights()
    fresh.generation_config = read.generation_config
    fresh.save_pretrained(target)
    tokenizer.save_pretrained(target)
