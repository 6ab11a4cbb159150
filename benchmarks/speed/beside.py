"""The steps and predictions of a whole language model, beside PEFT's LoRA in plain transformers on the same rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from abmll import default
from abmll.adapters import attach_roles
from abmll.adapters.blocks import below
from abmll.adapters.spec import peft_config
from abmll.core.params import train_only
from abmll.core.types import TASK, AdapterSpec, Example
from abmll.language import CausalLMLikelihood, PromptFormat
from abmll.language.prompt import encode
from benchmarks.speed.measure import Case, Clock, compare

LORA, FORWARD = "PEFT's LoRA", "plain forward pass"
SAMPLES = 16
PROMPT = PromptFormat(answer="letters")


def beside(
    config: Any, rows: int, repeats: int, clock: Clock, *, upper: int, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Ratios to a LoRA step, and of predictions to a forward pass without adapters.

    config: of a Llama, with random weights. rows: how many, of 19 to 60 tokens. upper: how many blocks the variants of
    the upper layers adapt.

    The plain ones are as quick as plain transformers can be: left-padded, the head at the last column alone, and the
    cross-entropy over the letters' logits.
    """
    plain = _Plain(config, dtype)
    examples = rows_of(rows)
    ids, mask, letters = plain.encoded(examples)
    lora = _likelihood(config, dtype, AdapterSpec())
    abmll = _likelihood(config, dtype, AdapterSpec("abmll", -8.0, log_var_bound=4.0))
    unbounded = _likelihood(config, dtype, AdapterSpec("abmll", -8.0))
    over_weights = _likelihood(config, dtype, AdapterSpec("abmll", -8.0, space="weight"))
    upper_abmll = _likelihood(config, dtype, AdapterSpec("abmll", -8.0, log_var_bound=4.0), upper)

    def step(likelihood: CausalLMLikelihood, **asked: Any) -> Case:
        def run() -> None:
            with likelihood.terms(examples, **asked) as terms:
                (terms.nll.sum() + 1e-6 * terms.kl).backward()

        return Case(run, tuple(likelihood.model.parameters()))

    def prediction(likelihood: CausalLMLikelihood, samples: int = 0) -> Case:
        return Case(
            lambda: _drop(likelihood.choice_log_probs(examples, num_samples=samples)),
            tuple(likelihood.model.parameters()),
        )

    outer: dict[str, Any] = {"sample": True, "kl": "closed_form"}
    steps = {
        LORA: Case(lambda: plain.step(ids, mask, letters), tuple(plain.adapted.parameters())),
        "LoRA's step": step(lora),
        "inner step": step(abmll),
        "with noise": step(abmll, sample=True),
        "with noise and KL": step(unbounded, **outer),
        "with noise and KL, bounded": step(abmll, **outer),
        "with noise and KL, weight": step(over_weights, **outer),
        f"inner step, upper {upper}": step(upper_abmll),
        f"with noise and KL, upper {upper}": step(upper_abmll, **outer),
    }
    predictions = {
        FORWARD: Case(lambda: plain.forward(ids, mask), tuple(plain.adapted.parameters())),
        "at the mean": prediction(abmll),
        f"{SAMPLES} samples": prediction(abmll, SAMPLES),
        f"at the mean, upper {upper}": prediction(upper_abmll),
        f"{SAMPLES} samples, upper {upper}": prediction(upper_abmll, SAMPLES),
    }
    return {
        "layers": config.num_hidden_layers,
        "vocabulary": config.vocab_size,
        "rows": rows,
        "tokens": int(mask.sum()),
        "places": mask.numel(),
        "dtype": str(dtype).removeprefix("torch."),
        "steps": compare(steps, repeats, LORA, clock),
        "predictions": compare(predictions, repeats, FORWARD, clock),
    }


class _Plain:
    """A causal LM of transformers with a LoRA of PEFT."""

    def __init__(self, config: Any, dtype: torch.dtype) -> None:
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        self.adapted: Any = get_peft_model(_model(config, dtype), lora)
        self.tokenizer = default.model()[1]

    def encoded(self, examples: list[Example]) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids and mask of the prompts, left-padded, and the ids of the two letters."""
        prompts = [encode(example, self.tokenizer, PROMPT) for example in examples]
        width = max(len(prompt.prefix) for prompt in prompts)
        ids = torch.tensor([[0] * (width - len(prompt.prefix)) + prompt.prefix for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt.prefix)) + [1] * len(prompt.prefix) for prompt in prompts])
        return ids, mask, torch.tensor([choice[0] for choice in prompts[0].choices])

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        last = torch.tensor([ids.shape[1] - 1])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return self.adapted(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=last
        ).logits[:, 0]

    def step(self, ids: Tensor, mask: Tensor, letters: Tensor) -> None:
        self.adapted.train()
        targets = torch.arange(len(ids)) % len(letters)
        nn.functional.cross_entropy(self.logits(ids, mask)[:, letters].float(), targets, reduction="sum").backward()

    @torch.no_grad()
    def forward(self, ids: Tensor, mask: Tensor) -> None:
        self.adapted.eval()
        with self.adapted.disable_adapter():
            self.logits(ids, mask)


def _likelihood(config: Any, dtype: torch.dtype, spec: AdapterSpec, upper: int | None = None) -> CausalLMLikelihood:
    model = _model(config, dtype)
    adapter = peft_config(spec, exclude_modules=None if upper is None else below(model, upper))
    likelihood = CausalLMLikelihood(attach_roles(model, adapter), default.model()[1], PROMPT)
    train_only(likelihood, TASK)
    return likelihood


def _model(config: Any, dtype: torch.dtype) -> Any:
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config)
    return model.to(dtype)


def _drop(_: Tensor) -> None:
    """A step returns nothing."""


def rows_of(count: int) -> list[Example]:
    """Questions whose words are log-normal in number (median 20, σ = 0.5, at most 100): short texts of one batch."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randn(count, generator=generator).mul(0.5).exp().mul(20).clamp(2, 100).int().tolist()
    return [Example(" ".join(["good"] * number), ("yes", "no"), i % 2, id=str(i)) for i, number in enumerate(words)]
