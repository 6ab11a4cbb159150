"""Softmax regression through the same door as a language model, with C classes and a LoRA-shaped adapter.

An example's prompt holds its features x; its choices are the class numbers. The logits are (W0 + B A) x, so they are
linear in A and in B alone but not in both, and the Jacobians are known in closed form. Dropout hides in `terms`, as it
does in a language model in training mode.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch

from abmll.core.types import META, TASK, Example, Terms
from tests.toy import observation

LAYER = "layers.0.proj"
LORA_A, LORA_B = f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"


class ClassifierToy:
    """logits = (W0 + B A) x. Parameters: A (rank, features) and B (classes, rank), named as LoRA's are.

    dropout: of x, in `terms` only. extra: names of biases to have besides.
    """

    def __init__(self, features=3, classes=3, rank=2, *, seed=0, dropout=0.0, extra=()):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.base, self.dropout = draw(classes, features), dropout
        theta = {LORA_A: draw(rank, features), LORA_B: 0.7 * draw(classes, rank)}
        theta |= {name: draw(classes) for name in extra}  # biases
        self._params = {
            role: {name: value.clone().requires_grad_() for name, value in theta.items()} for role in (META, TASK)
        }

    def parameters(self, role):
        return dict(self._params[role])

    def logits(self, examples, params=None, *, train=False):
        params = params or self._params[TASK]
        x = torch.stack([observation(example.prompt) for example in examples])
        if train and self.dropout:
            x = torch.nn.functional.dropout(x, self.dropout)
        bias = sum(value for name, value in params.items() if name not in (LORA_A, LORA_B))
        return x @ (self.base + params[LORA_B] @ params[LORA_A]).mT + bias

    @contextmanager
    def terms(self, examples, *, sample=False, kl=None, hyper_prior=False, prior_only=False):
        targets = torch.tensor([example.target for example in examples])
        nll = torch.nn.functional.cross_entropy(self.logits(examples, train=True), targets, reduction="none")
        yield Terms(nll, nll.new_zeros(()), nll.new_zeros(()), len(examples))

    @contextmanager
    def choice_graph(self, examples):
        yield self.logits(examples).log_softmax(-1)

    @torch.no_grad()
    def choice_log_probs(self, examples, *, num_samples=0):
        return self.logits(examples).log_softmax(-1).expand(max(1, num_samples), -1, -1)


def make_questions(count, features=3, classes=3, *, seed=0):
    """Random features and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, features, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (count,), generator=generator)
    names = tuple(f"class {c}" for c in range(classes))
    return [
        Example(" ".join(f"{v:.17g}" for v in row.tolist()), names, int(label), id=f"row-{i}")
        for i, (row, label) in enumerate(zip(x, y, strict=True))
    ]
