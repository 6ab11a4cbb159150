"""A likelihood with a closed-form answer, in place of a language model.

Each task has an unknown vector φ; an example's prompt holds a noisy observation y ~ N(φ, s²). The adapter is a
Gaussian q(φ) = N(mean, exp(log_var)), so posteriors, gradients and divergences are known exactly, in float64.
"""

from __future__ import annotations

import functools
import math
from contextlib import contextmanager

import torch

from abmll.core.types import META, TASK, AdapterSpec, Episode, Example, Features, Terms


class GaussianToy:
    """y ~ N(φ, noise_variance). Point parameters {"mean"}, or Gaussian ones {"mean", "log_var"}.

    expected: with `sample`, take E_q[NLL] in closed form instead of by one draw.
    dropout: the probability that a draw of a point drops an element of φ.
    """

    def __init__(self, dim=3, *, gaussian=True, noise_variance=0.5, expected=False, dropout=0.0, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.noise_variance, self.gaussian, self.expected = noise_variance, gaussian, expected
        self.dropout = dropout
        theta = {"mean": torch.randn(dim, generator=generator, dtype=torch.float64)}
        if gaussian:
            theta["log_var"] = torch.full((dim,), -1.0, dtype=torch.float64)
        self._params = {
            role: {name: value.clone().requires_grad_() for name, value in theta.items()} for role in (META, TASK)
        }

    def parameters(self, role):
        return dict(self._params[role])

    @contextmanager
    def at(self, params):
        own, self._params = self._params, {**self._params, **params}
        try:
            yield
        finally:
            self._params = own

    def _setting(self, role):
        """The Gaussian of φ or of θ."""
        return self._params[role]

    def _draw(self):
        phi = self._setting(TASK)
        if not self.gaussian:
            return torch.nn.functional.dropout(phi["mean"], self.dropout)
        return phi["mean"] + (0.5 * phi["log_var"]).exp() * torch.randn_like(phi["mean"])

    @contextmanager
    def terms(self, examples, *, sample=False, kl=None, hyper_prior=False, prior_only=False):
        phi, theta = self._setting(TASK), self._setting(META)
        y = torch.stack([observation(example.prompt) for example in examples])
        draw = self._draw() if sample and not self.expected else phi["mean"]
        square = (y - draw).square()
        if sample and self.expected and self.gaussian:
            square = square + phi["log_var"].exp()
        nll = 0.5 * (square / self.noise_variance + math.log(2 * math.pi * self.noise_variance)).sum(-1)
        zero = y.new_zeros(())
        divergence, hyper = zero, zero
        if prior_only:
            phi, draw = {name: value.detach() for name, value in phi.items()}, draw.detach()
        if kl is not None and self.gaussian:
            q = torch.distributions.Normal(phi["mean"], (0.5 * phi["log_var"]).exp())
            p = torch.distributions.Normal(theta["mean"], (0.5 * theta["log_var"]).exp())
            if kl == "closed_form":
                divergence = torch.distributions.kl_divergence(q, p).sum()
            else:
                divergence = (q.log_prob(draw) - p.log_prob(draw)).sum()
        if hyper_prior and self.gaussian:
            mean_prior = torch.distributions.Normal(0.0, 1.0).log_prob(theta["mean"])
            precision_prior = torch.distributions.Gamma(*torch.tensor([1.0, 0.01], dtype=torch.float64)).log_prob(
                (-theta["log_var"]).exp()
            )
            hyper = -(mean_prior + precision_prior).sum()
        yield Terms(nll, divergence, hyper, len(examples))

    def _choices(self, examples, phi):
        candidates = torch.stack([torch.stack([observation(c) for c in e.choices]) for e in examples])
        return (-0.5 * (candidates - phi).square().sum(-1) / self.noise_variance).log_softmax(-1)

    @torch.no_grad()
    def choice_log_probs(self, examples, *, num_samples=0):
        draws = [self._draw() if num_samples else self._setting(TASK)["mean"] for _ in range(max(1, num_samples))]
        return torch.stack([self._choices(examples, phi) for phi in draws])

    @contextmanager
    def choice_graph(self, examples):
        yield self._choices(examples, self._setting(TASK)["mean"])

    @contextmanager
    def features(self, examples):
        """The answers are "near" and "far", the same in every row, as a task's labels are."""
        mean = self._setting(TASK)["mean"]
        hidden = torch.stack([observation(example.prompt) for example in examples]) * mean
        yield Features(hidden, self._choices(examples, mean), [((0,), (1,))] * len(examples))


class LibraryToy(GaussianToy):
    """φ is what a layer with several LoRAs of rank 1 makes of a fixed input: B (gate(u) ⊙ A u)."""

    INPUT = (1.0, -0.5, 0.25, 2.0)

    def __init__(self, num_loras, dim=3, *, noise_variance=0.5, seed=0):
        super().__init__(dim, gaussian=False, noise_variance=noise_variance)
        generator = torch.Generator().manual_seed(seed)
        self.input = torch.tensor(self.INPUT, dtype=torch.float64)
        theta = {
            "layer.lora_A.weight": torch.randn(num_loras, len(self.input), generator=generator, dtype=torch.float64),
            "layer.lora_B.weight": torch.randn(dim, num_loras, generator=generator, dtype=torch.float64),
        }
        self._params = {
            role: {name: value.clone().requires_grad_() for name, value in theta.items()} for role in (META, TASK)
        }
        self._gate = None

    @contextmanager
    def only(self, index, count):
        self._gate = lambda u: torch.eye(count, dtype=u.dtype)[index]
        try:
            yield
        finally:
            self._gate = None

    @contextmanager
    def routed(self, gates):
        self._gate = gates["layer.lora_A.weight"]
        try:
            yield
        finally:
            self._gate = None

    def _setting(self, role):
        A, B = self._params[role].values()
        hidden = A @ self.input
        if self._gate is not None:
            hidden = hidden * self._gate(self.input)
        return {"mean": B @ hidden}


@functools.lru_cache(maxsize=10_000)
def observation(text):
    return torch.tensor([float(part) for part in text.split()], dtype=torch.float64)


def make_examples(phi, count, *, noise_variance=0.5, seed=0):
    """Observations of φ; the choices are the observation itself and a far one."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, len(phi), generator=generator, dtype=torch.float64) * math.sqrt(noise_variance)
    rows = []
    for index, y in enumerate(phi + noise):
        text, far = (" ".join(f"{v:.17g}" for v in values.tolist()) for values in (y, -2.0 - y))
        rows.append(Example(text, (text, far), 0, id=f"toy-{index}"))
    return rows


class ToyEpisodes:
    """Episode i is a pure function of (seed, i), like `EpisodeSampler`."""

    def __init__(self, dim=3, *, support_size=4, query_size=4, num_tasks=5, seed=0):
        self.dim, self.support_size, self.query_size = dim, support_size, query_size
        self.num_tasks, self.seed = num_tasks, seed

    def __getitem__(self, index):
        task = index % self.num_tasks
        generator = torch.Generator().manual_seed(1000 * self.seed + task)
        phi = 1.0 + torch.randn(self.dim, generator=generator, dtype=torch.float64)
        rows = make_examples(phi, self.support_size + self.query_size, seed=10_000 * self.seed + index)
        return Episode(f"toy-{task}", rows[: self.support_size], rows[self.support_size :], number=task)


def toy_for(spec: AdapterSpec, **options):
    """The toy with the kind of parameters that a method asks for."""
    if spec.num_loras > 1:
        return LibraryToy(spec.num_loras, **options)
    return GaussianToy(gaussian=spec.kind == "abmll", dropout=spec.dropout, **options)
