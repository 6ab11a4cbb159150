"""A causal language model and its tokenizer by name, in the type that suits the device."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from abmll import default
from abmll.adapters.kind import check_kind
from abmll.core.errors import AbmllError, nearest, shown
from abmll.core.notices import tell
from abmll.models.precision import DTYPES, chosen_type
from abmll.models.registry import PREFIX, find, registered
from abmll.models.store import get
from abmll.models.tokenizer_check import check_tokenizer

EMBEDDED = ("default", default.NAME)
MOST_BLOCKS = 4096
"""Blocks, or experts of one block, of the largest model that is built."""
_COUNT = re.compile(r"(^|_)(layers?|blocks|experts|depth)$")


def load(
    name: str,
    *,
    dtype: str = "auto",
    device: str | torch.device = "auto",
    computes_on: torch.device | None = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
) -> tuple[Any, Any]:
    """The model, in evaluation mode on its device, and its tokenizer.

    Args:
        name: "default" for the small model in the package, a registered name (fetched on first use), the path of a
            folder with config.json, safetensors weights and a tokenizer, or a Hugging Face name.
        dtype: "float32", "bfloat16", "float16"; or "auto", the model's own type where the device computes in it and
            else float32, which is then told in a line.
        device: "auto" takes a GPU if there is one.
        computes_on: the device that decides about "auto", if the model will be moved from `device` afterwards.
        revision: as in transformers.
        attn_implementation: likewise.

    Weights come from safetensors only, and no code that lies beside them is run.

    Raises:
        AbmllError: If there is no such model, or it cannot be fetched or read.
    """
    if dtype not in DTYPES:
        raise AbmllError(f"dtype is {dtype!r}. Choose one of: {', '.join(DTYPES)}.")
    quiet_libraries()
    place = resolve_device(device)
    if name in EMBEDDED:
        model: Any
        model, tokenizer = default.model()
    else:
        model, tokenizer = _from_folder_or_hub(name, dtype, revision, attn_implementation)
    wanted = getattr(torch, dtype) if dtype != "auto" else _auto(model, name, computes_on or place)
    if getattr(model, "is_quantized", False) and dtype == "auto":
        return model.eval(), tokenizer  # its type and place are the quantisation's
    return model.to(device=place, dtype=wanted).eval(), tokenizer


def load_tokenizer(name: str, *, revision: str | None = None) -> Any:
    """The tokenizer of `load`. Raises: AbmllError likewise."""
    from transformers import AutoTokenizer

    quiet_libraries()
    source, options = _source(name, revision)
    with _told("the tokenizer of model", name):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
        check_tokenizer(tokenizer, name)
        return tokenizer


def load_config(name: str, *, revision: str | None = None) -> Any:
    """The transformers configuration of `load`'s model, without its weights. Raises: AbmllError likewise."""
    quiet_libraries()
    source, options = _source(name, revision)
    with _told("model", name):
        return _configuration(name, source, options)


def resolve_device(device: str | torch.device) -> torch.device:
    """ "auto" as a GPU if there is one, else the processor."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def quiet_libraries() -> None:
    """Keeps bars and notices of libraries out of a user's terminal: loading is fast, and nothing in them is theirs."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\.")


def _from_folder_or_hub(name: str, dtype: str, revision: str | None, attention: str | None) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM

    source, options = _source(name, revision)
    attending = {} if attention is None else {"attn_implementation": attention}
    own = dtype if dtype == "auto" else getattr(torch, dtype)
    with _told("model", name):
        check_kind(_configuration(name, source, options))
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=own,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
            **attending,
        )
    model, found = loaded
    if missing := sorted(found["missing_keys"]):  # which transformers fills with random numbers, and goes on
        raise AbmllError(
            f"the weights of model {shown(name)} ([model] name) lack {len(missing)} of its tensors, the first of them "
            f"{missing[0]!r}: they are of another model than its config.json, or a part is missing. Fetch it again."
        )
    if (row := find(name)) is not None:
        # Adapters record a name instead of a path in somebody's home.
        model.config._name_or_path = model.name_or_path = PREFIX + row.name
    return model, load_tokenizer(name, revision=revision)


def _configuration(name: str, source: str, options: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig, PretrainedConfig

    _check_counts(name, PretrainedConfig.get_config_dict(source, **options)[0])
    return AutoConfig.from_pretrained(source, trust_remote_code=False, **options)


def _check_counts(name: str, fields: Mapping[str, Any]) -> None:
    """Refuses a configuration of more blocks or experts than there are in any model, before it lists and builds them.

    Sizes need no bound: tensors are laid out without memory first, and compared with the file.

    Raises:
        AbmllError: For such a configuration; it names the field.
    """
    for key, value in fields.items():
        if isinstance(value, Mapping):
            _check_counts(name, value)
        elif _COUNT.search(key) and isinstance(value, int) and value > MOST_BLOCKS:
            raise AbmllError(
                f"the config.json of model {shown(name)} ([model] name) says {key} = {shown(value)}, and no model has "
                f"more than {MOST_BLOCKS:,}: it is damaged, or meant to do harm. Fetch it again."
            )


def _source(name: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    """What transformers is given for a name, and with what options."""
    if name in EMBEDDED:
        return str(default.MODEL_DIRECTORY), {"local_files_only": True}
    if find(name) is not None:
        if revision is not None:
            raise AbmllError(f"{name!r} is a registered model of one revision. Remove revision ([model]).")
        return str(get(name)), {"local_files_only": True}
    return name, {} if revision is None else {"revision": revision}


def _auto(model: Any, name: str, device: torch.device) -> torch.dtype:
    own = model.dtype
    chosen = chosen_type(own, device)
    what = str(chosen).removeprefix("torch.")
    if chosen != own:
        kept = str(own).removeprefix("torch.")
        tell(
            f"{name}: computing in {what}, because this {_noun(device)} has no arithmetic for the model's own {kept} "
            f"(model.dtype={kept} keeps it: half the memory, several times slower)."
        )
    elif chosen != torch.float32:
        tell(f"{name}: computing in {what}, the model's own type.")
    return chosen


def _noun(device: torch.device) -> str:
    return "processor" if device.type == "cpu" else "device"


@contextmanager
def _told(what: str, name: str) -> Iterator[None]:
    """Tells whatever transformers raises on the files of a model, which is any exception there is, in one line."""
    try:
        yield
    except (AbmllError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        first = str(error).strip().partition("\n")[0][:300]
        if "ignore_mismatched_sizes" in first:  # which nobody here has set
            first = "its weights have other sizes than its config.json says, so they are of another model"
        kind = "" if isinstance(error, (OSError, ValueError, ImportError)) and first else f"{type(error).__name__}: "
        known = ", ".join(f'"{one}"' for one in registered())
        near = nearest(name, [*registered(), *EMBEDDED], cutoff=0.75)
        hint = f"Did you mean {near!r}? " if near else ""
        raise AbmllError(
            f"cannot load {what} {shown(name)} ([model] name): {kind}{first.rstrip('.') or 'no reason given'}. {hint}"
            "Give a Hugging Face name, the path of a folder with config.json, safetensors weights and a tokenizer, a "
            f'registered name ({known}), or "default" for the model in the package.'
        ) from error
