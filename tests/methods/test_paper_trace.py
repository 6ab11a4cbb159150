"""The published algorithm, worked out by hand in NumPy, against `abmll-paper` through a real ABMLL layer.

Nothing of the library is used on the NumPy side: forward pass, gradients, AdamW and the order of everything are
written out from the paper and the facts of its code. Only the rows of an episode and the noise are shared.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from abmll.core.params import clone
from abmll.core.types import META, TASK, Example
from abmll.data.episodes import EpisodeSampler
from abmll.data.task import Task
from abmll.gaussian import layer_output
from abmll.methods import build_method
from abmll.training.loop import train
from abmll.training.settings import Training
from tests.layer_likelihood import LayerLikelihood, fix_noise, prompt_of, tokens

FEATURES, CLASSES, RANK, NUM_TASKS, K, BATCH = 3, 4, 2, 2, 5, 2
PUBLISHED = {"beta": 1e-8, "inner": 1e-5, "outer": 5e-5, "offset": -20.0, "spread": 0.0}
LARGER = {"beta": 0.3, "inner": 0.03, "outer": 0.05, "offset": -1.5, "spread": 0.5}


def draw(index, shape):
    return np.random.default_rng([7, index]).standard_normal(shape)


def cross_entropy(output, example):
    """Of the last token's output, its units being classes."""
    return output[-1].logsumexp(0) - output[-1][example.target]


def tasks():
    """Two tasks of 20 rows: a pass over one is two visits of K batches. Rows have two or three tokens."""
    made = []
    for number in range(NUM_TASKS):
        generator = np.random.default_rng(number)
        rows = []
        for index in range(2 * K * BATCH):
            features = generator.standard_normal((2 + index % 2, FEATURES))
            label = int(generator.integers(CLASSES))
            rows.append(Example(prompt_of(features), tuple("ABCD"), label, "?", f"{number}/{index}"))
        made.append(Task(f"task-{number}", tuple(rows)))
    return made


def paper(setting):
    """The preset; other numbers in `setting` replace the published ones and change nothing else."""
    method = build_method("abmll-paper", num_tasks=NUM_TASKS, kl_weight=setting["beta"])
    learner: Any = method.meta_learner
    learner = replace(learner, inner=replace(learner.inner, learning_rate=setting["inner"]))
    return method._replace(meta_learner=learner, outer=replace(method.outer, learning_rate=setting["outer"]))


def likelihood_for(setting):
    return LayerLikelihood(
        FEATURES, CLASSES, cross_entropy, r=RANK, offset=setting["offset"], spread=setting["spread"], seed=3
    )


# The same by hand


class AdamW:
    """Moments that persist; no weight decay."""

    def __init__(self, learning_rate):
        self.learning_rate, self.steps, self.m, self.v = learning_rate, 0, {}, {}

    def step(self, params, grads):
        self.steps += 1
        for name, g in grads.items():
            self.m[name] = 0.9 * self.m.get(name, 0.0) + 0.1 * g
            self.v[name] = 0.999 * self.v.get(name, 0.0) + 0.001 * g**2
            m_hat = self.m[name] / (1 - 0.9**self.steps)
            v_hat = self.v[name] / (1 - 0.999**self.steps)
            params[name] = params[name] - self.learning_rate * m_hat / (np.sqrt(v_hat) + 1e-8)


class Hand:
    """One adapted layer, its two Gaussians and all derivatives."""

    def __init__(self, weight, bias, theta, setting):
        self.weight, self.bias, self.theta, self.setting = weight, bias, theta, setting
        self.phi = dict(theta)
        self.scaling, self.draws = 2.0, 0  # s = lora_alpha / r
        self.inner, self.outer = AdamW(setting["inner"]), AdamW(setting["outer"])

    def visit(self, support):
        self.phi = dict(self.theta)
        for k in range(K):
            batch = support[BATCH * k : BATCH * (k + 1)]
            self.inner.step(self.phi, self.gradients(batch)[0])
        self.outer.step(self.theta, self.gradients(batch)[1])

    def gradients(self, batch):
        """By φ's factors: of the summed cross-entropy + β·(log q - log p), at one draw of φ.

        By θ's: of β·(log q - log p) + β/T·(-log p(θ)), at the same draw.
        """
        width = max(len(tokens(row)) for row in batch)
        epsilon = draw(self.draws, (len(batch), width, CLASSES))
        self.draws += 1
        by_phi = {name: np.zeros_like(value) for name, value in self.phi.items()}
        by_theta = {name: np.zeros_like(value) for name, value in self.theta.items()}
        beta, gamma = self.setting["beta"], self.setting["beta"] / NUM_TASKS
        for row, noise in zip(batch, epsilon, strict=True):
            features = tokens(row).numpy()
            noise = noise[width - len(features) :]  # padding is on the left
            for position, (x, e) in enumerate(zip(features, noise, strict=True)):
                mean, log_var = self.moments(self.phi, x)
                prior_mean, prior_log_var = self.moments(self.theta, x)
                value = mean + np.exp(log_var / 2) * e
                gap, precision = value - prior_mean, np.exp(-prior_log_var)
                # log q - log p = ½ (log σ_p² - log σ_q² + gap²/σ_p² - e²), and e is a constant
                by_value = beta * gap * precision
                if position == len(features) - 1:
                    logits = self.weight @ x + self.bias + value
                    by_value = by_value + np.exp(logits - np.logaddexp.reduce(logits))
                    by_value[row.target] -= 1
                by_log_var = by_value * 0.5 * np.exp(log_var / 2) * e - 0.5 * beta
                self.collect(by_phi, self.phi, x, by_value, by_log_var)
                # -log p(θ) = ½ mean² + 0.01 / σ² + const for N(0, 1) and Gamma(1, 0.01)
                by_prior_mean = -beta * gap * precision + gamma * prior_mean
                by_prior_log_var = 0.5 * beta * (1 - gap**2 * precision) - gamma * 0.01 * precision
                self.collect(by_theta, self.theta, x, by_prior_mean, by_prior_log_var)
        return by_phi, by_theta

    def moments(self, factors, x):
        mean = self.scaling * factors["mean_B"] @ (factors["mean_A"] @ x)
        return mean, self.scaling * factors["log_var_B"] @ (factors["log_var_A"] @ x) + self.setting["offset"]

    def collect(self, into, factors, x, by_mean, by_log_var):
        for kind, by_output in (("mean", by_mean), ("log_var", by_log_var)):
            A, B = factors[f"{kind}_A"], factors[f"{kind}_B"]
            into[f"{kind}_B"] += self.scaling * np.outer(by_output, A @ x)
            into[f"{kind}_A"] += self.scaling * np.outer(B.T @ by_output, x)


def by_factor(params):
    """The library's parameters under the names used here."""
    return {name.rpartition("abmll_")[2]: value for name, value in params.items()}


def hand_for(likelihood, setting):
    layer = likelihood.model.get_base_model().proj.base_layer
    theta = {name: value.detach().numpy().copy() for name, value in by_factor(likelihood.parameters(META)).items()}
    assert sorted(theta) == ["log_var_A", "log_var_B", "mean_A", "mean_B"]
    return Hand(layer.weight.detach().numpy(), layer.bias.detach().numpy(), theta, setting)


@pytest.fixture(params=["fused", "naive"], autouse=True)
def implementation(request):
    """Everything is checked of each implementation of the layer."""
    with layer_output.implementation(request.param):
        yield


@pytest.mark.parametrize("setting", [PUBLISHED, LARGER], ids=["published", "larger"])
def test_two_epochs_over_two_tasks_match_the_computation_by_hand(setting, monkeypatch):
    likelihood, method = likelihood_for(setting), paper(setting)
    assert method.adapter.log_var_offset == PUBLISHED["offset"]
    hand = hand_for(likelihood, setting)
    episodes = EpisodeSampler(tasks(), 0, K * BATCH, 0, order="sequential")
    visits = [episodes[index] for index in range(2 * NUM_TASKS)]
    assert [visit.task for visit in visits] == ["task-0", "task-1"] * 2
    assert len({row.id for visit in visits for row in visit.support}) == 2 * NUM_TASKS * K * BATCH, (
        "new rows each visit"
    )

    noise = fix_noise(monkeypatch, draw)
    library = []

    def keep(record):
        roles = {role: clone(by_factor(likelihood.parameters(role))) for role in (META, TASK)}
        library.append((record["tasks"], roles))

    train(likelihood, method, episodes, Training(len(visits)), on_step=keep, progress=False)
    assert noise.taken == len(visits) * (K + 1), "one sample a pass: K inner ones and a fresh one outside"
    start = dict(hand.theta)
    for visit, (names, roles) in zip(visits, library, strict=True):
        hand.visit(visit.support)
        assert names == [visit.task]
        for role, expected in ((TASK, hand.phi), (META, hand.theta)):
            for name, value in expected.items():
                np.testing.assert_allclose(roles[role][name].numpy(), value, rtol=1e-10, atol=1e-10 * setting["inner"])
    moved = {name: np.abs(hand.theta[name] - value).max() for name, value in start.items()}
    assert min(moved.values()) > setting["outer"], "all four factors of θ have learned"


@pytest.mark.parametrize("setting", [PUBLISHED, LARGER], ids=["published", "larger"])
def test_the_gradient_of_theta_is_that_of_kl_and_prior_alone(setting, monkeypatch):
    episode = EpisodeSampler(tasks(), 0, K * BATCH, 0, order="sequential")[1]
    gradients = []
    for outer_nll in (1.0, 1e6):
        fix_noise(monkeypatch, draw)
        likelihood, method = likelihood_for(setting), paper(setting)
        hand = hand_for(likelihood, setting)
        likelihood.nll = scaled_outside(likelihood, outer_nll)
        method.meta_learner.meta_gradient(likelihood, episode)
        gradients.append({name: value.grad for name, value in by_factor(likelihood.parameters(META)).items()})

    # by hand: K inner steps, then the derivative of β·(log q - log p) + β/T·(-log p(θ)), which has no NLL in it
    phi = {name: value.detach().numpy() for name, value in by_factor(likelihood.parameters(TASK)).items()}
    hand.phi, hand.draws = phi, K
    expected = hand.gradients(episode.support[-BATCH:])[1]
    # by autograd: the same two terms of one pass at the same φ
    fix_noise(monkeypatch, lambda _, shape: draw(K, shape))
    theta = likelihood.parameters(META)
    beta = setting["beta"]
    with likelihood.terms(episode.support[-BATCH:], sample=True, kl="sample", hyper_prior=True) as terms:
        alone = torch.autograd.grad(beta * terms.kl + beta / NUM_TASKS * terms.hyper, list(theta.values()))
    for name, autograd in zip(by_factor(theta), alone, strict=True):
        assert torch.equal(gradients[0][name], gradients[1][name]), "a million times the NLL, and not a bit moves"
        torch.testing.assert_close(gradients[0][name], autograd, rtol=1e-12, atol=0)
        np.testing.assert_allclose(autograd.numpy(), expected[name], rtol=1e-10, atol=1e-10 * beta)
    assert max(grad.abs().max() for grad in gradients[0].values()) > 1e-6


def test_prediction_is_at_the_mean_whatever_samples_are_asked_for(monkeypatch):
    fix_noise(monkeypatch, draw)
    likelihood, method, task = likelihood_for(LARGER), paper(LARGER), tasks()[0]
    hand = hand_for(likelihood, LARGER)
    posterior = method.adaptation.adapt(likelihood, task.examples[: K * BATCH])
    noise = fix_noise(monkeypatch, draw)
    predicted = posterior.predict(task.examples[-3:], 16).numpy()
    phi = {name: value.numpy() for name, value in by_factor(posterior.state_dict()).items()}
    last = [tokens(row).numpy()[-1] for row in task.examples[-3:]]
    logits = np.stack([hand.weight @ x + hand.bias + hand.moments(phi, x)[0] for x in last])
    expected = logits - np.logaddexp.reduce(logits, -1, keepdims=True)
    np.testing.assert_allclose(predicted, expected[None], rtol=1e-12)
    assert noise.taken == 0


def scaled_outside(likelihood, factor):
    """Cross-entropy, multiplied in the outer pass: the one in which META's parameters have a gradient."""
    theta = next(iter(likelihood.parameters(META).values()))
    return lambda output, example: cross_entropy(output, example) * (factor if theta.requires_grad else 1.0)
