"""ABMLL's inner and outer loop against autograd, on a bilinear softmax model in float64."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.core.params import clone
from abmll.core.types import META, TASK, Episode, Example, Terms
from abmll.methods.parts import amortised, prior_steps
from abmll.methods.parts.adam_steps import AdamSteps
from abmll.methods.parts.amortised import Amortised
from abmll.methods.parts.natural import NaturalSteps
from abmll.methods.parts.prior_steps import log_var_of, variances

CHOICES = ("a", "b", "c")


class Bilinear:
    """p(choice | x) = softmax(B A x): two factors, as in a LoRA, each with a log-variance."""

    def __init__(self, scale=1.0, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

        theta = {"mean_A": draw(2, 4), "mean_B": draw(3, 2), "log_var_A": draw(2, 4), "log_var_B": draw(3, 2)}
        self.own = {role: {n: t.clone().requires_grad_() for n, t in theta.items()} for role in (META, TASK)}

    def parameters(self, role):
        return dict(self.own[role])

    def nll(self, examples, phi):
        x = torch.stack([torch.tensor([float(v) for v in e.prompt.split()], dtype=torch.float64) for e in examples])
        targets = torch.tensor([e.target for e in examples])
        return torch.nn.functional.cross_entropy(x @ phi["mean_A"].T @ phi["mean_B"].T, targets, reduction="none")

    @contextmanager
    def terms(self, examples, **asked):
        zero = torch.zeros((), dtype=torch.float64)
        yield Terms(self.nll(examples, self.own[TASK]), zero, zero, len(examples))

    def choice_log_probs(self, examples, *, num_samples=0):
        raise NotImplementedError

    def choice_graph(self, examples):
        raise NotImplementedError


def rows(count, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(3, (count,), generator=generator).tolist()
    return [Example(" ".join(map(repr, row.tolist())), CHOICES, t) for row, t in zip(x, targets, strict=True)]


def by_autograd(likelihood, inner, episode, support_weight, exact=True):
    """The gradient of the joint objective by θ, through every step, written down afresh."""
    theta = {n: t.detach().clone().requires_grad_() for n, t in likelihood.parameters(META).items()}
    phi = {n: theta[n] for n in ("mean_A", "mean_B")}
    start = likelihood.nll(next(iter(inner.batches(episode.support))), phi).mean()
    for batch in inner.batches(episode.support):
        nll = likelihood.nll(batch, phi).mean()
        g = dict(zip(phi, torch.autograd.grad(nll, list(phi.values()), create_graph=exact), strict=True))
        variance = {n: (theta[log_var_of(n)].mean() + inner.log_var_offset).exp() for n in phi}
        q = sum((variance[n] * g[n].square()).sum() for n in phi)
        d = inner.trust * (nll if exact else nll.detach())
        phi = {n: phi[n] - d / (d + q) * variance[n] * g[n] for n in phi}
    (likelihood.nll(episode.query, phi).mean() + support_weight * start).backward()
    return {n: t.grad for n, t in theta.items()}


EPISODE = Episode("task", rows(6, 1), rows(5, 2))


@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("offset", [-4.0, 0.0, 4.0])  # plain steps, in between, Polyak's
def test_the_exact_gradient_is_autograds(num_steps, batch_size, offset):
    inner = NaturalSteps(num_steps, 0.2, batch_size, offset)
    likelihood = Bilinear()
    Amortised(inner, 0.3).meta_gradient(likelihood, EPISODE)
    expected = by_autograd(Bilinear(), inner, EPISODE, 0.3)
    for name, tensor in likelihood.parameters(META).items():
        torch.testing.assert_close(
            tensor.grad, expected[name], rtol=1e-3, atol=1e-4 * expected[name].abs().max().item()
        )


def test_the_first_steps_are_the_mean_nll_of_all_rows_at_theta():
    likelihood = Bilinear()
    method = Amortised(NaturalSteps(3), warm_up=0.5)
    method.meta_gradient(likelihood, EPISODE._replace(progress=0.49))
    theta = likelihood.parameters(META)
    phi = {n: theta[n].detach().clone().requires_grad_() for n in ("mean_A", "mean_B")}
    likelihood.nll([*EPISODE.support, *EPISODE.query], phi).mean().backward()
    for name, tensor in phi.items():
        torch.testing.assert_close(theta[name].grad, tensor.grad)
    assert not theta["log_var_A"].grad.any()
    later = Bilinear()
    method.meta_gradient(later, EPISODE._replace(progress=0.5))
    assert later.parameters(META)["log_var_A"].grad.any()


@pytest.mark.parametrize("inner", [NaturalSteps(2, 0.2), AdamSteps(2, log_var_offset=-6.0)])
def test_both_orders_are_the_mean_of_each(inner):
    turned = Episode("task", EPISODE.query, EPISODE.support)
    each = []
    for episode in (EPISODE, turned):
        likelihood = Bilinear()
        Amortised(inner, 0.3).meta_gradient(likelihood, episode)
        each.append({name: tensor.grad for name, tensor in likelihood.parameters(META).items()})
    likelihood = Bilinear()
    metrics = Amortised(inner, 0.3, symmetric=True).meta_gradient(likelihood, EPISODE)
    for name, tensor in likelihood.parameters(META).items():
        torch.testing.assert_close(tensor.grad, (each[0][name] + each[1][name]) / 2)
    likelihood = Bilinear()
    theta = likelihood.parameters(META)
    at_theta = [likelihood.nll(half, theta).mean().item() for half in (EPISODE.support, EPISODE.query)]
    assert metrics["support_nll"] == pytest.approx(sum(at_theta) / 2)
    assert metrics["num_tokens"] == len(EPISODE.support) + len(EPISODE.query)


def test_first_order_takes_the_inner_loop_for_a_shift():
    inner = NaturalSteps(3, 0.2, gradient="first_order")
    likelihood = Bilinear()
    Amortised(inner, 0.0).meta_gradient(likelihood, EPISODE)
    expected = by_autograd(Bilinear(), inner, EPISODE, 0.0, exact=False)
    for name in ("mean_A", "mean_B"):
        torch.testing.assert_close(likelihood.parameters(META)[name].grad, expected[name])


def test_without_steps_the_gradient_is_the_querys_own():
    likelihood = Bilinear()
    Amortised(NaturalSteps(0)).meta_gradient(likelihood, EPISODE)
    theta = likelihood.parameters(META)
    phi = {n: theta[n].detach().clone().requires_grad_() for n in ("mean_A", "mean_B")}
    likelihood.nll(EPISODE.query, phi).mean().backward()
    for name, tensor in phi.items():
        torch.testing.assert_close(theta[name].grad, tensor.grad)
    assert not theta["log_var_A"].grad.any()


@pytest.mark.parametrize("offset", [-8.0, 0.0, 8.0, 30.0])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_no_step_promises_more_than_its_share(offset, scale):
    inner = NaturalSteps(4, 0.25, log_var_offset=offset)
    likelihood = Bilinear(scale)
    variance = variances(likelihood, inner.log_var_offset)
    for step in inner.steps(likelihood, EPISODE.support):
        factor, length = inner.factor(step.nll, step.gradient, variance)
        assert 0 <= factor * length <= 0.25 * step.nll * (1 + 1e-12)
        assert all(tensor.isfinite().all() for tensor in likelihood.parameters(TASK).values())


def test_a_narrow_prior_leaves_the_plain_natural_gradient():
    inner = NaturalSteps(1, log_var_offset=-15.0)
    likelihood = Bilinear()
    variance = variances(likelihood, inner.log_var_offset)
    (step,) = inner.steps(likelihood, EPISODE.support)
    for name, share in variance.items():
        moved = likelihood.parameters(TASK)[name].detach() - step.point[name]
        torch.testing.assert_close(moved / share, -step.gradient[name], rtol=1e-3, atol=1e-3)


def test_the_log_variances_do_not_move_in_the_inner_loop():
    likelihood = Bilinear()
    NaturalSteps(3).run(likelihood, EPISODE.support)
    for name in ("log_var_A", "log_var_B"):
        assert torch.equal(likelihood.parameters(TASK)[name], likelihood.parameters(META)[name])


@pytest.mark.parametrize("inner", [NaturalSteps(3), AdamSteps(3)], ids=["natural", "adam"])
def test_an_adaptation_copies_no_parameters_and_ends_where_a_walk_does(inner, monkeypatch):
    ends, copies = [], []
    monkeypatch.setattr(prior_steps, "clone", lambda params: copies.append(1) or clone(params))
    for go in (inner.run, inner.walk):
        copies.clear()
        likelihood = Bilinear()
        go(likelihood, EPISODE.support)
        ends.append((len(copies), clone(likelihood.parameters(TASK))))
    (none, after_run), (some, after_walk) = ends
    assert none == 0 < some
    assert all(torch.equal(after_run[name], after_walk[name]) for name in after_run)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("inner", [NaturalSteps(3), AdamSteps(3)], ids=["natural", "adam"])
def test_an_episode_asks_for_the_variances_once(inner, symmetric, monkeypatch):
    asked = []
    for module in (prior_steps, amortised):
        monkeypatch.setattr(module, "variances", lambda *a: asked.append(1) or variances(*a))
    Amortised(inner, symmetric=symmetric).meta_gradient(Bilinear(), EPISODE)
    assert asked == [1]


@pytest.mark.parametrize("options", [{"num_steps": -1}, {"trust": 0.0}, {"trust": 1.5}, {"batch_size": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(AbmllError, match="inner loop: num_steps must be at least 0, trust above 0"):
        NaturalSteps(**options)


def test_outer_options_out_of_range_are_refused():
    with pytest.raises(AbmllError, match="support_weight must be at least 0, got -1"):
        Amortised(support_weight=-1)
    with pytest.raises(AbmllError, match="exact"):
        NaturalSteps(gradient="second_order")  # type: ignore[arg-type]


@pytest.mark.parametrize("inner", [NaturalSteps(), AdamSteps()])
def test_an_adapter_without_variances_is_refused(inner):
    likelihood = Bilinear()
    for role in (META, TASK):
        for name in ("log_var_A", "log_var_B"):
            del likelihood.own[role][name]
    with pytest.raises(AbmllError, match="a variance for every tensor"):
        inner.run(likelihood, EPISODE.support)
