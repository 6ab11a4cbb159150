"""LoRAs that were trained with PEFT, read from their folders: one for each task, all on the same layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft.utils import CONFIG_NAME
from torch import Tensor

from abmll.adapters.names import LORA_FOLDER
from abmll.adapters.roles import read_adapter_config, read_adapter_tensors
from abmll.core.errors import AbmllError
from abmll.gaussian.lora_prior import Lora

_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq")
"""Starts that move a part of the base weights into the LoRA, which then means nothing without that base."""
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "use_dora": (None, False),
    "bias": (None, "none"),
    "lora_bias": (None, False),
    "modules_to_save": (None, []),
    "alpha_pattern": (None, {}),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
}
"""What a configuration may say of these fields, for a LoRA that is nothing but two factors a layer."""


class LoraFolders(NamedTuple):
    """LoRAs on the same layers, of the same rank.

    Attributes:
        folders: where they were read, in order.
        rank: of all of them.
        layers: by the layer's name (as in PEFT's files, without `.lora_A.weight`) one LoRA for each folder.
        base_models: what they name as their base model, each name once.
    """

    folders: tuple[Path, ...]
    rank: int
    layers: dict[str, list[Lora]]
    base_models: tuple[str, ...]

    @property
    def target_modules(self) -> list[str]:
        """The leaf names of the layers, sorted: what `target_modules` would be."""
        return sorted({name.rpartition(".")[2] for name in self.layers})


def read_lora_folders(given: Iterable[str | PathLike[str]]) -> LoraFolders:
    """Reads the LoRAs of several tasks.

    Args:
        given: PEFT's folders, or folders that hold such folders. Of an adapter that this package wrote, the mean is
            taken, which lies in its `lora/`. Weights are safetensors only.

    Raises:
        AbmllError: If there are fewer than two, one is damaged or no plain LoRA of linear layers, or they differ in
            rank or layers; all of it at once.
    """
    folders = [folder for one in given for folder in _adapters_in(Path(one))]
    wrong, found = [], []
    for folder in folders:
        try:
            found.append((folder, *_read(folder)))
        except AbmllError as error:
            wrong.append(str(error))
    wrong += _differences([(folder, layers) for folder, layers, _ in found])
    if len(folders) < 2:
        wrong.append(
            f"{len(folders)} LoRA found: a prior over tasks needs those of two at least. Give more folders, or one "
            "that holds them."
        )
    if wrong:
        raise AbmllError("; ".join(wrong))
    first = found[0][1]
    return LoraFolders(
        tuple(folder for folder, _, _ in found),
        next(iter(first.values())).A.shape[0],
        {name: [layers[name] for _, layers, _ in found] for name in first},
        tuple(dict.fromkeys(base for _, _, base in found if base)),
    )


def _adapters_in(folder: Path) -> list[Path]:
    if (folder / CONFIG_NAME).is_file():
        return [folder]
    within = sorted(path.parent for path in folder.glob(f"*/{CONFIG_NAME}")) if folder.is_dir() else []
    if not within:
        what = f"it holds no {CONFIG_NAME}, nor does a folder in it" if folder.is_dir() else "no such folder"
        raise AbmllError(f"no adapter in {folder}: {what}. Give the folder that PEFT's save_pretrained wrote.")
    return within


def _read(folder: Path) -> tuple[dict[str, Lora], str]:
    config = read_adapter_config(folder)
    if config.get("peft_type") == "ABMLL" and (folder / LORA_FOLDER / CONFIG_NAME).is_file():
        return _read(folder / LORA_FOLDER)
    if config.get("peft_type") != "LORA":
        raise AbmllError(f"{folder} is of PEFT's type {config.get('peft_type')!r}: only LoRAs are read")
    said = [f"{key} = {config[key]!r}" for key, plain in _PLAIN.items() if key in config and config[key] not in plain]
    start = str(config.get("init_lora_weights", True)).lower()
    if start.startswith(_CHANGES_THE_BASE):
        said.append(f"init_lora_weights = {start!r}, which changes the base weights")
    if said:
        raise AbmllError(f"{folder} is no plain LoRA of linear layers ({', '.join(said)})")
    layers = _layers(folder, config, read_adapter_tensors(folder))
    return layers, str(config.get("base_model_name_or_path") or "")


def _layers(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Lora]:
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise AbmllError(f"{folder / CONFIG_NAME}: lora_alpha = {alpha!r} is no number")
    names = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    other = sorted(tensors.keys() - {f"{name}.lora_{part}.weight" for name in names for part in "AB"})
    lacking = sorted(name for name in names if f"{name}.lora_B.weight" not in tensors)
    if other or lacking or not names:
        what = repr(other[0]) if other else f"no lora_B of {lacking[0]!r}" if lacking else "no layer"
        raise AbmllError(f"{folder} is no plain LoRA of linear layers: its file holds {what}")
    layers = {}
    for name in sorted(names):
        A, B = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
        if A.dim() != 2 or B.dim() != 2 or A.shape[0] != B.shape[1]:
            raise AbmllError(f"{folder}: {name!r} has factors {tuple(A.shape)} and {tuple(B.shape)}, no LoRA's")
        if not (torch.isfinite(A).all() and torch.isfinite(B).all()):
            raise AbmllError(f"{folder}: {name!r} holds nan or infinity")
        layers[name] = Lora(A, B, alpha / (A.shape[0] ** (0.5 if config.get("use_rslora") else 1)))
    return layers


def _differences(found: Sequence[tuple[Path, Mapping[str, Lora]]]) -> list[str]:
    """What keeps LoRAs from having one prior: other layers, sizes or ranks than the first has."""
    if not found:
        return []
    where, first = found[0]
    ranks = {lora.A.shape[0] for lora in first.values()}
    said = [f"{where} has ranks {sorted(ranks)} in different layers, and a prior has one"] if len(ranks) > 1 else []
    for folder, layers in found[1:]:
        only = sorted(layers.keys() ^ first.keys())
        if only:
            who = folder if only[0] in layers else where
            said.append(
                f"{folder} and {where} adapt different layers: {len(only)} are in one alone, the first of them "
                f"{only[0]!r} in {who}"
            )
            continue
        for name, lora in layers.items():
            theirs = first[name]
            if lora.A.shape[0] != theirs.A.shape[0]:
                said.append(f"{folder} has rank {lora.A.shape[0]}, {where} has {theirs.A.shape[0]}")
                break
            if lora.A.shape != theirs.A.shape or lora.B.shape != theirs.B.shape:
                said.append(f"{folder} and {where} are of different base models: {name!r} has other sizes")
                break
    return said
