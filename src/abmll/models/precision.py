"""dtype = "auto": a model's own type where the device computes in it, else float32."""

from __future__ import annotations

from functools import cache
from typing import Literal, get_args

import torch

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES: tuple[str, ...] = get_args(Dtype)


def chosen_type(own: torch.dtype, device: torch.device) -> torch.dtype:
    """The type to compute in: `own` where `device` has arithmetic for it, else float32.

    Elsewhere a half type is emulated: SmolLM2 takes five times as long in bfloat16 as in float32 on a processor with
    AVX2 alone. Adapters are float32 in any case.
    """
    if own in (torch.bfloat16, torch.float16):
        return own if computes(own, device) else torch.float32
    return own


def computes(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the device has arithmetic of its own for a half type.

    Told by what the hardware says of itself and not by a timing, so that all processes of a run, and tomorrow's on the
    same machine, choose alike. A processor does for bfloat16 if it has AMX or AVX512-BF16; no processor is taken to do
    for float16, whose range is too small to train in without care.
    """
    if device.type == "cuda":
        # torch counts emulation as support unless asked not to
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return dtype == torch.bfloat16 and _processor_has_bfloat16()
    return dtype == torch.float16


@cache
def _processor_has_bfloat16() -> bool:
    # Private in torch, and the only place where it tells; a version that lacks one is taken as "no".
    flags = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, flag, lambda: False)()) for flag in flags)
