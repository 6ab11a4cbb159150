"""The two adapters of one model: META holds the meta-learned parameters θ, TASK the current task's parameters φ."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from abmll.adapters.blocks import unlike_linear, within_trunk
from abmll.adapters.kind import check_kind
from abmll.adapters.names import LORA_FOLDER, adaptable_layers, check_adapter_name, check_target_modules, expert_weights
from abmll.adapters.sorted_json import sorted_json
from abmll.core.documents import read_json
from abmll.core.errors import AbmllError, Unreadable, printable
from abmll.core.files import sync_folder
from abmll.core.notices import tell
from abmll.core.params import assign
from abmll.core.types import META, TASK, Role

NOTHING: Mapping[str, bytes | None] = {}
_SHAPING = (
    *("peft_type", "r", "lora_alpha", "log_var_offset", "log_var_bound", "space", "use_rslora", "use_dora"),
    *("bias", "rank_pattern", "alpha_pattern"),
)
"""What decides how an adapter's tensors are read: a folder in which one of these differs would load wrong.

Not fan_in_fan_out, which says how a base layer holds its own weight: PEFT sets it when it meets GPT-2's layers, for the
first adapter only."""

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def attach_roles(base_model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """Wraps `base_model` with the adapters META and TASK, equal to each other at first; TASK is the active one.

    Works for `AbmllConfig` and `peft.LoraConfig`. A float16 or bfloat16 base gets float32 adapters. The base model
    is changed in place, as PEFT does, and its own parameters are frozen.

    Raises:
        AbmllError: If the model already has adapters, has not the target modules, or is no causal language model.
    """
    if isinstance(base_model, PeftModel) or any(isinstance(m, BaseTunerLayer) for m in base_model.modules()):
        raise AbmllError(
            "the model already has PEFT adapters: pass the plain model, or make it plain first with "
            "model.merge_and_unload() (keeps what they learned) or model.unload() (drops it)."
        )
    check_kind(getattr(base_model, "config", None), base_model)
    for role in (META, TASK):
        check_adapter_name(base_model, role)
    check_target_modules(base_model, config)
    unlike = unlike_linear(base_model)
    config = within_trunk(base_model, config, unlike)
    if not adaptable_layers(base_model):
        raise AbmllError(f"this {type(base_model).__name__} has no linear layer that could be adapted: is it whole?")
    try:
        model = get_peft_model(base_model, copy.deepcopy(config), adapter_name=META)
    except AbmllError:
        raise
    except ValueError as error:  # of PEFT, where no layer is left: a stack without blocks, say
        reason = printable(str(error).strip().partition("\n")[0].rstrip("."))
        raise AbmllError(
            f"no layer of this {type(base_model).__name__} can be adapted as asked ({reason}). Is the model whole? "
            "Else name other layers in target_modules."
        ) from error
    model.add_adapter(TASK, copy.deepcopy(config))
    transposed = getattr(model.peft_config[META], "fan_in_fan_out", None)
    if transposed is not None:
        setattr(model.peft_config[TASK], "fan_in_fan_out", transposed)  # noqa: B010
    model.set_adapter(TASK)
    if getattr(config, "target_modules", None) == "all-linear" and (skipped := expert_weights(base_model)):
        tell(
            f"target_modules = 'all-linear' leaves out the experts of this {type(base_model).__name__} ({skipped[0]!r} "
            f"and {len(skipped) - 1} more), whose weights are no linear layers: attention and what all tokens pass is "
            "adapted."
        )
    if getattr(config, "target_modules", None) == "all-linear" and unlike:
        tell(
            f"target_modules = 'all-linear' leaves out {unlike[0]!r} and {len(unlike) - 1} more layers of this "
            f"{type(base_model).__name__}, which do not answer as linear layers do (routers, layers in groups)."
        )
    copy_adapter(model, META, TASK)
    return model


def adapter_parameters(model: PeftModel, role: str) -> dict[str, nn.Parameter]:
    """The parameters of one adapter by name, with the adapter's name removed: both roles have the same keys.

    The keys are those of the adapter's saved file.

    Raises:
        AbmllError: If the model has no such adapter.
    """
    if role not in model.peft_config:
        raise AbmllError(
            f"the model has no adapter {role!r}, only {sorted(model.peft_config)}: make it with attach_roles()."
        )
    return dict(_named_parameters(model, role))


def _named_parameters(model: PeftModel, role: str) -> Iterator[tuple[str, nn.Parameter]]:
    containers = {"modules_to_save"}
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            containers.update(module.adapter_layer_names)
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        for i in range(1, len(parts)):
            if parts[i] == role and parts[i - 1] in containers:
                kept = parts[: i - 1] if parts[i - 1] == "modules_to_save" else parts[:i]
                yield ".".join(kept + parts[i + 1 :]), parameter
                break


def copy_adapter(model: PeftModel, source: Role, target: Role) -> None:
    """Copies one adapter's parameters into the other's, in place."""
    assign(adapter_parameters(model, target), adapter_parameters(model, source))


def save_adapter(
    model: PeftModel, role: Role, directory: str | Path, *, sidecars: Mapping[str, bytes | None] = NOTHING
) -> None:
    """Writes one adapter as a PEFT folder: its two files directly in `directory`, and `lora/` for an ABMLL adapter.

    Written whole or not at all: everything goes to a temporary sibling, is flushed to disk, and takes the place of
    `directory` by renaming. Other files in `directory` stay (they are linked into the new folder).

    Args:
        sidecars: further files of the folder, by name; None removes one that an earlier adapter left there.

    Raises:
        AbmllError: For parameters that are not finite, and if the folder cannot be written; what was there before is
            still there then.
    """
    directory = Path(os.path.abspath(directory))
    parameters = adapter_parameters(model, role)  # raises for an unknown role before anything is written
    for name, parameter in parameters.items():
        if not torch.isfinite(parameter).all():
            raise AbmllError(f"{name!r} of the adapter holds nan or infinity: {directory} is not written.")
    try:
        _save(model, role, directory, sidecars)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AbmllError(
            f"cannot write {directory}: {reason}. Free some space, make it writable, or choose another folder."
        ) from error


def _save(model: PeftModel, role: Role, directory: Path, sidecars: Mapping[str, bytes | None]) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        model.save_pretrained(str(temporary), selected_adapters=[role], save_embedding_layers=False)
        new = temporary / role
        config = new / CONFIG_NAME  # PEFT writes sets in an order that changes from process to process
        config.write_text(sorted_json(json.loads(config.read_text(encoding="utf-8"))), encoding="utf-8")
        for name, content in sidecars.items():
            if content is not None:
                (new / name).write_bytes(content)
        if directory.is_dir():
            _link_others(directory, new, leave={name for name, content in sidecars.items() if content is None})
        _flush(new)
        if directory.exists():
            directory.rename(temporary / "replaced")
        try:
            new.rename(directory)
        except OSError:
            if (temporary / "replaced").exists():
                (temporary / "replaced").rename(directory)
            raise
        sync_folder(directory.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_adapter(model: PeftModel, role: Role, directory: str | Path) -> None:
    """Copies a saved adapter into one of the model's, in place. Reads safetensors only, never a pickle.

    Raises:
        AbmllError: If a file is missing or damaged, holds nan or infinity, or does not fit the model's adapter; the
            model is then unchanged.
    """
    directory = Path(directory)
    parameters = adapter_parameters(model, role)
    config = read_adapter_config(directory)
    tensors = read_adapter_tensors(directory)
    ours = model.peft_config[role].to_dict()
    for key in _SHAPING:
        if key in config and key in ours and config[key] != ours[key]:
            raise AbmllError(
                f"the adapter in {directory} has {key}={config[key]!r}, the model's adapter {role!r} has "
                f"{ours[key]!r}: build the model with the configuration in {directory / CONFIG_NAME}."
            )
    _check_fit(directory, tensors, parameters)
    assign(parameters, tensors)


def read_adapter_config(directory: Path) -> dict[str, Any]:
    """The content of a PEFT folder's configuration file. Raises: AbmllError if it is missing or no JSON object."""
    path = directory / CONFIG_NAME
    if not path.is_file():
        raise AbmllError(f"no adapter in {directory}: {CONFIG_NAME} is missing. Give the folder that holds it.")
    try:
        config = read_json(path)
    except Unreadable as error:
        reason = error.found.removeprefix(f"{path}: ")
        raise AbmllError(f"{path} is damaged ({reason}): restore it from a backup or train again.") from error
    if not isinstance(config, dict):
        raise AbmllError(f"{path} is damaged (not a JSON object): restore it from a backup or train again.")
    return config


def read_adapter_tensors(directory: Path) -> dict[str, Tensor]:
    """The tensors of a PEFT folder, from safetensors only. Raises: AbmllError if they are missing or damaged."""
    path = directory / SAFETENSORS_WEIGHTS_NAME
    if not path.is_file():
        hint = ""
        if (directory / "adapter_model.bin").exists():
            hint = " There is an adapter_model.bin, which can run code when read: convert it to safetensors first."
        raise AbmllError(f"no adapter weights in {directory}: {SAFETENSORS_WEIGHTS_NAME} is missing.{hint}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise AbmllError(f"{path} is damaged ({error}): restore it from a backup or train again.") from error


def _check_fit(directory: Path, tensors: dict[str, Tensor], parameters: dict[str, nn.Parameter]) -> None:
    path = directory / SAFETENSORS_WEIGHTS_NAME
    for problem, names in (
        ("lacks", sorted(parameters.keys() - tensors.keys())),
        ("has, and the model has not,", sorted(tensors.keys() - parameters.keys())),
    ):
        if names:
            raise AbmllError(
                f"{path} {problem} {len(names)} tensors, the first of them {names[0]!r}: it was made for another "
                "model or other target_modules."
            )
    for name, tensor in tensors.items():
        if tensor.shape != parameters[name].shape:
            raise AbmllError(
                f"{path}: {name!r} has shape {tuple(tensor.shape)}, the model needs {tuple(parameters[name].shape)}"
                ": it was made for another base model."
            )
        if tensor.dtype not in _DTYPES:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise AbmllError(
                f"{path}: {name!r} holds {kind}, and an adapter is of real numbers. Save the adapter again."
            )
        if not torch.isfinite(tensor).all():
            raise AbmllError(f"{path}: {name!r} holds nan or infinity. Use an earlier checkpoint.")


def _link_others(old: Path, new: Path, leave: Collection[str]) -> None:
    """Brings other files along. Links, not copies: a log that is open for appending stays the same file."""
    for path in old.iterdir():
        # the export is the old adapter's: left beside one that exports nothing, servers would go on serving it
        if path.name != LORA_FOLDER and path.name not in leave and not (new / path.name).exists():
            if path.is_dir():
                shutil.copytree(path, new / path.name, copy_function=_link, symlinks=True)
            else:
                _link(path, new / path.name)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target, follow_symlinks=False)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for path in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
        sync_folder(path)
