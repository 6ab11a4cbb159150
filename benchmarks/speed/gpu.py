"""Training at the size of Llama-3-8B on one CUDA GPU: tokens a second, peak memory, and share of the GPU's speed."""

from __future__ import annotations

import gc
from typing import Any

import torch

from abmll.gaussian import triton_layer
from benchmarks.speed.cases import BASELINE, PROJECTIONS, attach
from benchmarks.speed.measure import timed

NEEDS = (
    "this part trains a model of Llama-3-8B's shape (32 layers of width 4096, bfloat16, random weights) and needs a "
    "CUDA GPU with about 40 GB of free memory and torch built for CUDA; torch.cuda.is_available() says there is none. "
    "Run the same command there, or try it here at a tiny size: python -m benchmarks.speed gpu --small"
)
LLAMA_3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 224,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "vocab_size": 256,
}


def train(shape: dict[str, Any], device: str, batch: int, tokens: int, repeats: int) -> dict[str, Any]:
    """LoRA, triton on CUDA, fused, weight space and naive, one after the other, on one base model's shape.

    Checkpointing is on and the base in bfloat16.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    results: dict[str, Any] = {"batch": batch, "tokens": tokens, "peak_flops": matrix_flops(device), "shape": shape}
    kernels = ["triton"] if device == "cuda" and triton_layer.installed() else []
    for variant in (BASELINE, *kernels, "fused", "weight", "naive"):
        torch.manual_seed(0)
        with torch.device(device):
            default = torch.get_default_dtype()
            torch.set_default_dtype(torch.bfloat16)
            try:
                model = LlamaForCausalLM(LlamaConfig(**shape, use_cache=False))
            finally:
                torch.set_default_dtype(default)
        # 2 for forward, 2 for the gradient of the inputs, 2 for the recomputation; frozen weights have no gradient
        linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        adapted = attach(model, variant, PROJECTIONS)
        adapted.enable_input_require_grads()
        ids = torch.randint(shape["vocab_size"], (batch, tokens), device=device)
        try:
            seconds, peak = _steps(adapted, variant, ids, repeats)
        except torch.cuda.OutOfMemoryError:
            results[variant] = {"out_of_memory": True}
        else:
            rate = batch * tokens / seconds
            results[variant] = {
                "seconds": seconds,
                "tokens_per_second": rate,
                "peak_bytes": peak,
                "share_of_peak_flops": 6 * linear * rate / results["peak_flops"],
            }
        del model, adapted
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    return results


def _steps(adapted: Any, variant: str, ids: torch.Tensor, repeats: int) -> tuple[float, int]:
    from abmll.gaussian.layer_output import implementation
    from abmll.gaussian.stochastic_pass import stochastic_pass

    def step() -> None:
        if variant == BASELINE:
            adapted(input_ids=ids, labels=ids).loss.backward()
            return
        with (
            implementation("auto" if variant == "weight" else variant),
            stochastic_pass(sample=True, prior="meta") as record,
        ):
            (adapted(input_ids=ids, labels=ids).loss + 1e-6 * record.kl()).backward()

    step()
    if ids.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = sorted(timed(step) for _ in range(repeats))
    return seconds[len(seconds) // 2], torch.cuda.max_memory_allocated() if ids.is_cuda else 0


def matrix_flops(device: str) -> float:
    """Floating-point operations a second of a large bfloat16 matrix product: the peak that can be measured."""
    size = 8192 if device == "cuda" else 256
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    timed(lambda: a @ b)
    return 2 * size**3 / min(timed(lambda: a @ b) for _ in range(5))
