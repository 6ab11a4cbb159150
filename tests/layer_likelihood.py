"""One real ABMLL layer behind the `Likelihood` door, in float64, and fixed noise for it."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import nn

from abmll.core.types import META, TASK, Example, Terms
from abmll.gaussian import noise
from abmll.gaussian.stochastic_pass import stochastic_pass


class OneLayer(nn.Module):
    def __init__(self, in_features, out_features, seed):
        super().__init__()
        self.proj = nn.Linear(in_features, out_features, dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))

    def forward(self, x):
        return self.proj(x)


class LayerLikelihood:
    """A linear layer with the adapters META and TASK; an example's prompt holds one token's features a line.

    nll: from the layer's output (tokens, out_features) of one example, and the example, to its NLL in nats.
    spread: standard deviation of META's factors; 0 leaves them as PEFT makes them (every B zero).
    """

    def __init__(self, in_features, out_features, nll, *, r, offset, spread=0.0, seed=0):
        from abmll.adapters import AbmllConfig, adapter_parameters, attach_roles

        config = AbmllConfig(r=r, lora_alpha=2 * r, log_var_offset=offset, target_modules=["proj"])
        torch.manual_seed(seed)
        self.model = attach_roles(OneLayer(in_features, out_features, seed), config)  # type: ignore[arg-type]
        self.nll = nll
        self._parameters = {role: dict(adapter_parameters(self.model, role)) for role in (META, TASK)}
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for name, tensor in self._parameters[META].items():
                assert tensor.dtype == torch.float64
                if spread:
                    tensor.copy_(spread * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
                self._parameters[TASK][name].copy_(tensor)

    def parameters(self, role):
        return dict(self._parameters[role])

    @contextmanager
    def terms(self, examples, *, sample=False, kl=None, hyper_prior=False, prior_only=False):
        x, mask = padded(examples)
        with stochastic_pass(
            sample=sample,
            prior=META if kl or hyper_prior else None,
            kl=kl,
            hyper_prior=hyper_prior,
            prior_only=prior_only,
            mask=mask,
        ) as record:
            rows = zip(self.model(x), mask, examples, strict=True)
            nll = torch.stack([self.nll(output[real], example) for output, real, example in rows])
            yield Terms(nll, record.kl(), record.hyper(), int(mask.sum()))

    @contextmanager
    def choice_graph(self, examples):
        """As many choices for every example; a choice's NLL is that of the example with this target."""
        choices = range(len(examples[0].choices))
        scores = []
        for target in choices:
            with self.terms([example._replace(target=target) for example in examples]) as terms:
                scores.append(-terms.nll)
        yield torch.stack(scores, -1).log_softmax(-1)

    @torch.no_grad()
    def choice_log_probs(self, examples, *, num_samples=0):
        assert not num_samples, "only the mean is predicted"
        with self.choice_graph(examples) as log_probs:
            return log_probs[None]


def padded(examples):
    """x (examples, tokens, features), padded on the left with what would show, and the mask of real tokens."""
    inputs = [tokens(example) for example in examples]
    width = max(map(len, inputs))
    x = torch.full((len(inputs), width, inputs[0].shape[1]), 9.0, dtype=torch.float64)
    mask = torch.zeros(x.shape[:2], dtype=torch.bool)
    for row, values in enumerate(inputs):
        x[row, width - len(values) :], mask[row, width - len(values) :] = values, True
    return x, mask


def tokens(example: Example) -> torch.Tensor:
    """(tokens, features), from the prompt."""
    return torch.tensor(
        [[float(value) for value in line.split()] for line in example.prompt.splitlines()], dtype=torch.float64
    )


def prompt_of(features) -> str:
    return "\n".join(" ".join(f"{value:.17g}" for value in token) for token in features)


class FixedNoise:
    """Noise from `draw(index, shape)`, where index counts the samples taken; a backward pass gets it once more."""

    def __init__(self, draw):
        self.draw, self.taken = draw, 0

    def seed(self):
        self.taken += 1
        return self.taken - 1

    def standard_normal(self, seed, row, column, out, width, generator):
        assert (row, column, out.shape[1]) == (0, 0, width), "these layers fit into one tile"
        return out.copy_(torch.from_numpy(self.draw(seed, tuple(out.shape))))


def fix_noise(monkeypatch, draw) -> FixedNoise:
    """From now on layers get their noise, (batch·tokens, units), from `draw`."""
    fixed = FixedNoise(draw)
    monkeypatch.setattr(noise, "draw_seed", fixed.seed)
    monkeypatch.setattr(noise, "standard_normal", fixed.standard_normal)
    return fixed
