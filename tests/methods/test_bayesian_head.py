"""The head's posterior against the same model written out in its weights, and the evidence's gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import hessian

from abmll.core.errors import AbmllError
from abmll.core.types import META, Features
from abmll.methods import build_method
from abmll.methods.parts import bayesian_head, head_posterior
from abmll.methods.parts.bayesian_head import (
    HeadPrior,
    Space,
    answers_of,
    draws,
    evidence,
    fit,
    moments,
    overlaps,
    scores,
)
from abmll.methods.parts.head_posterior import BayesianHead
from abmll.methods.parts.passes import adaptation_passes, episode_passes
from tests.toy import GaussianToy, ToyEpisodes, make_examples

PRIOR = HeadPrior(scale_mean=0.8, scale_std=0.5, weight_std=1.3, bias_std=0.7)
ANSWERS = [(5,), (6, 7), (7,)]
"""Of one token and of two, one of which two answers share."""


def features(count, *, width=4, seed=0, answers=ANSWERS, dtype=torch.float64):
    """Random ones; the last row lacks the last answer."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, width, generator=generator, dtype=dtype) + 3.0
    logits = 2 * torch.randn(count, len(answers), generator=generator, dtype=dtype)
    shown = [list(answers) for _ in range(count)]
    if len(answers) > 2:
        shown[-1].pop()
        logits[-1, -1] = -torch.inf
    return Features(hidden, logits.log_softmax(-1), shown)


def labels(count, classes=2, seed=1):
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def design(rows, answers):
    """The scores as linear in z = (a, w, b), all of unit variance: (n, c, numbers), by the words of `HeadPrior`."""
    tokens = sorted({token for answer in answers for token in answer})
    n, c = rows.offset.shape
    width = rows.x.shape[1]
    out = torch.zeros(n, c, 1 + len(tokens) * (width + 1), dtype=torch.float64)
    for i in range(n):
        for j in range(c):
            if rows.answer[i, j] < 0:
                continue
            out[i, j, 0] = PRIOR.scale_std * rows.offset[i, j]
            answer = answers[rows.answer[i, j]]
            for token in answer:
                start = 1 + tokens.index(token) * (width + 1)
                out[i, j, start : start + width] += PRIOR.weight_std * rows.x[i] / len(answer)
                out[i, j, start + width] += PRIOR.bias_std / len(answer)
    return out


@pytest.fixture(scope="module")
def both():
    """A support set of nine rows, four new ones, and the posterior written out in the weights: mode and covariance."""
    support, query, targets = features(9), features(4, seed=3), labels(9)
    answers, space = answers_of(support), Space.of(support.hidden)
    rows, new = scores(support, space, answers), scores(query, space, answers)
    linear = design(rows, answers)

    def energy(z):
        f = (PRIOR.scale_mean * rows.offset + linear @ z).masked_fill(~rows.present, -torch.inf)
        return torch.nn.functional.cross_entropy(f, targets, reduction="sum") + 0.5 * z @ z

    z = torch.zeros(linear.shape[-1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [z], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = energy(z)
        loss.backward()
        return loss

    optimizer.step(closure)
    covariance = torch.linalg.inv(hessian(energy)(z.detach()))
    return rows, new, targets, answers, linear, design(new, answers), z.detach(), covariance


def test_the_kernel_is_that_of_the_weights(both):
    rows, new, _, answers, linear, linear_new, _, _ = both
    expected = torch.einsum("ncz,mdz->ncmd", linear, linear_new)
    torch.testing.assert_close(PRIOR.kernel(rows, new, overlaps(answers)), expected)


def test_a_rows_own_covariance_is_the_kernels(both):
    rows, _, _, answers, *_ = both
    whole = PRIOR.kernel(rows, rows, overlaps(answers))
    expected = torch.stack([whole[place, :, place] for place in range(len(whole))])
    torch.testing.assert_close(PRIOR.own(rows, overlaps(answers)), expected)


def test_mode_and_covariance_are_those_of_the_weights(both):
    rows, new, targets, answers, linear, linear_new, z, covariance = both
    overlap, size = overlaps(answers), rows.offset.numel()
    kernel = PRIOR.kernel(rows, rows, overlap).reshape(size, size)
    found = fit(kernel, PRIOR.scale_mean * rows.offset, targets, rows.present)
    at_mode = PRIOR.scale_mean * rows.offset + (kernel @ found.dual).view_as(rows.offset)
    torch.testing.assert_close(at_mode, PRIOR.scale_mean * rows.offset + linear @ z, rtol=1e-6, atol=1e-6)
    cross = PRIOR.kernel(rows, new, overlap).flatten(0, 1)
    own = torch.einsum("mcz,mdz->mcd", linear_new, linear_new)
    mean, spread = moments(found, cross, own, PRIOR.scale_mean * new.offset)
    torch.testing.assert_close(mean, PRIOR.scale_mean * new.offset + linear_new @ z, rtol=1e-6, atol=1e-6)
    expected = torch.einsum("mcy,yz,mdz->mcd", linear_new, covariance, linear_new)
    torch.testing.assert_close(spread, expected, rtol=1e-6, atol=1e-6)


def test_the_mode_is_found_from_labels_that_contradict_a_sure_model():
    rows = features(12, answers=ANSWERS[:2])
    sure = rows._replace(log_probs=(300 * rows.log_probs.exp()).log_softmax(-1))
    targets = sure.log_probs.argmin(-1)
    one = scores(sure, Space.of(sure.hidden), ANSWERS[:2])
    kernel = PRIOR.kernel(one, one, overlaps(ANSWERS[:2])).reshape(24, 24)
    found = fit(kernel, one.offset, targets, one.present)
    p = (one.offset + (kernel @ found.dual).view(12, 2)).softmax(-1)
    right = torch.nn.functional.one_hot(targets, 2)
    torch.testing.assert_close(found.dual.view(12, 2), right - p, rtol=0, atol=1e-5)


def test_the_gradient_of_the_evidence_is_that_of_finite_differences():
    rows, targets = features(8), labels(8)
    hidden, logits = rows.hidden.clone().requires_grad_(), rows.log_probs.masked_fill(rows.log_probs.isneginf(), 0.0)
    logits.requires_grad_()

    def value(hidden, logits):
        log_probs = logits.masked_fill(rows.log_probs.isneginf(), -torch.inf).log_softmax(-1)
        return evidence(PRIOR, rows._replace(hidden=hidden, log_probs=log_probs), targets, 4, 16)

    assert torch.autograd.gradcheck(value, (hidden, logits), eps=1e-6, atol=1e-5, rtol=1e-4)


def test_without_doubt_the_evidence_is_the_models_own_log_probability():
    rows, targets = features(8), labels(8)
    sure = HeadPrior(scale_mean=1.0, scale_std=0.0, weight_std=0.0, bias_std=0.0)
    expected = rows.log_probs.gather(1, targets[:, None]).mean()
    for blocks in (1, 4, 100):
        torch.testing.assert_close(evidence(sure, rows, targets, blocks, 8), expected, rtol=1e-9, atol=1e-9)


def test_the_evidence_is_what_the_blocks_say_of_each_other():
    rows, targets = features(6), labels(6)
    halves, answers = (slice(0, 3), slice(3, 6)), answers_of(rows)
    one = scores(rows, Space.of(rows.hidden), answers)
    overlap, total = overlaps(answers), 0.0
    for first, second in (halves, halves[::-1]):
        known, asked = one.at(first), one.at(second)
        own = torch.stack(
            [PRIOR.kernel(asked.at(slice(i, i + 1)), asked.at(slice(i, i + 1)), overlap)[0, :, 0] for i in range(3)]
        )
        mean = PRIOR.scale_mean * asked.offset
        found = fit(
            PRIOR.kernel(known, known, overlap).reshape(9, 9),
            PRIOR.scale_mean * known.offset,
            targets[first],
            known.present,
        )
        for moment in ((mean, own), moments(found, PRIOR.kernel(known, asked, overlap).flatten(0, 1), own, mean)):
            each = draws(moment[0], PRIOR.temperature * moment[1], asked.present, 8).gather(
                -1, targets[second].expand(8, -1)[..., None]
            )
            total += float((each.logsumexp(0) - math.log(8)).sum())
    assert float(evidence(PRIOR, rows, targets, 2, 8)) == pytest.approx(total / 12, rel=1e-9)


def test_draws_average_to_the_expectation():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(5, 3, 3, generator=generator, dtype=torch.float64)
    mean, covariance = torch.randn(5, 3, generator=generator, dtype=torch.float64), root @ root.mT
    present = torch.ones(5, 3, dtype=torch.bool)
    present[2, 2] = False
    noise = torch.distributions.MultivariateNormal(mean, covariance + 1e-9 * torch.eye(3, dtype=torch.float64))
    torch.manual_seed(0)
    expected = noise.sample((200_000,)).masked_fill(~present, -torch.inf).softmax(-1).mean(0)
    found = draws(mean, covariance, present, 512).exp().mean(0)
    torch.testing.assert_close(found, expected, rtol=0, atol=6e-3)
    torch.testing.assert_close(draws(mean, covariance, present, 16).exp().mean(0), expected, rtol=0, atol=4e-2)
    at_mean = mean.masked_fill(~present, -torch.inf).log_softmax(-1)
    torch.testing.assert_close(draws(mean, covariance, present, 0)[0], at_mean)
    assert torch.equal(draws(mean, covariance, present, 8), draws(mean, covariance, present, 8))


def test_two_choices_are_averaged_as_by_quadrature():
    mean = torch.tensor([[0.3, -0.4]], dtype=torch.float64)
    covariance = torch.tensor([[[1.5, 0.2], [0.2, 0.9]]], dtype=torch.float64)
    difference, deviation = 0.7, math.sqrt(1.5 + 0.9 - 0.4)
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    weight = torch.exp(-0.5 * z.square())
    expected = float((torch.sigmoid(difference + deviation * z) * weight).sum() / weight.sum())
    found = float(draws(mean, covariance, torch.ones(1, 2, dtype=torch.bool), 64).exp().mean(0)[0, 0])
    assert found == pytest.approx(expected, abs=2e-3)


def test_the_posterior_contracts_at_the_rate_of_the_labels():
    """Of one number b with prior N(0, s²) and n rows at p = ½: 1 / (1/s² + n/4) for the difference of two scores."""
    prior = HeadPrior(scale_mean=0.0, scale_std=0.0, weight_std=0.0, bias_std=1.0)
    for n in (4, 16, 64, 256):
        rows = Features(torch.ones(n, 1, dtype=torch.float64), torch.full((n, 2), math.log(0.5)), [((0,), (1,))] * n)
        one = scores(rows, Space.of(rows.hidden), [(0,), (1,)])
        kernel = prior.kernel(one, one, overlaps([(0,), (1,)]))
        found = fit(kernel.reshape(2 * n, 2 * n), one.offset, torch.arange(n) % 2, one.present)
        _, spread = moments(
            found, kernel[:, :, :1].flatten(0, 1), kernel[:1, :, :1].permute(0, 2, 1, 3)[:, 0], one.offset[:1]
        )
        difference = float(spread[0, 0, 0] + spread[0, 1, 1] - 2 * spread[0, 0, 1])
        assert difference == pytest.approx(1 / (1 / 2 + n / 4), rel=1e-6)


def test_more_labels_leave_less_doubt():
    """Where the model is not sure itself: of what it is sure of, labels that agree say little."""
    toy, rows = GaussianToy(gaussian=False), make_examples(torch.tensor([2.0, 0.5, -1.0], dtype=torch.float64), 80)
    toy.noise_variance, doubt = 50.0, []
    rows = [row._replace(target=place % 2) for place, row in enumerate(rows)]
    for n in (4, 16, 64):
        posterior = BayesianHead(HeadPrior(scale_std=0.0, weight_std=1.0)).adapt(toy, rows[:n])
        _, covariance, _ = posterior.scores(rows[64:])
        doubt.append(float((covariance[:, 0, 0] + covariance[:, 1, 1] - 2 * covariance[:, 0, 1]).mean()))
    assert doubt == sorted(doubt, reverse=True)
    assert doubt[-1] < 0.5 * doubt[0]


def test_a_posterior_is_its_tensors():
    toy, episode = GaussianToy(gaussian=False), ToyEpisodes(support_size=6, query_size=5)[0]
    adaptation = BayesianHead()
    posterior = adaptation.adapt(toy, episode.support)
    again = adaptation.restore(GaussianToy(gaussian=False, seed=5), posterior.state_dict())
    assert torch.equal(posterior.predict(episode.query, 8), again.predict(episode.query, 8))
    assert len(posterior.predict(episode.query, 8)) == 16
    assert len(posterior.predict(episode.query, 0)) == 1
    assert "6 labels" in repr(posterior)
    assert posterior.mean() is None
    assert posterior.state_dict().keys() > toy.parameters(META).keys()


def test_one_label_and_equal_rows_are_taken():
    toy, row = GaussianToy(gaussian=False), make_examples(torch.ones(3, dtype=torch.float64), 1)
    before = toy.choice_log_probs(row).exp()[0, 0, 1]
    for support in (row, row * 4):
        wrong = [example._replace(target=1) for example in support]
        predicted = BayesianHead().adapt(toy, wrong).predict(row, 8)
        assert predicted.isfinite().all()
        assert predicted.exp().mean(0)[0, 1] > before


def test_answers_that_no_label_showed_can_be_asked_about():
    """What is learned of one answer is not said of another; what they share in tokens is."""
    seen = features(6, answers=[(1,), (2,)])
    new = features(3, answers=[(3,), (2, 4), (1,)], seed=4)
    answers = answers_of(seen, new)
    assert answers == [(1,), (2,), (3,), (2, 4)]
    one, other = scores(seen, Space.of(seen.hidden), answers), scores(new, Space.of(seen.hidden), answers)
    kernel = HeadPrior(scale_std=0.0).kernel(one, other, overlaps(answers))
    assert torch.all(kernel[:, :, :, 0] == 0)
    # (2,) is half of (2, 4) and none of (1,)
    alone = HeadPrior(scale_std=0.0).kernel(one, other, torch.eye(4, dtype=torch.float64))
    assert torch.all(alone[:, 1, :, 1] == 0)
    same = HeadPrior(scale_std=0.0).kernel(one, other._replace(answer=torch.ones_like(other.answer)), overlaps(answers))
    torch.testing.assert_close(kernel[:, 1, :, 1], same[:, 1, :, 1] / 2)


@pytest.mark.parametrize("what", ["hidden", "log_probs"])
def test_nan_is_handed_on_for_its_caller_to_tell(what):
    rows, targets = features(8, answers=ANSWERS[:2]), labels(8)
    broken = getattr(rows, what).clone()
    broken[3, 0] = math.nan
    assert evidence(PRIOR, rows._replace(**{what: broken}), targets, 4, 8).isnan()
    impossible = rows._replace(log_probs=torch.tensor([[-1e30, 0.0]], dtype=torch.float64).repeat(8, 1))
    assert evidence(PRIOR, impossible, targets, 4, 8).isfinite()


def test_many_rows_are_predicted_a_part_at_a_time(monkeypatch):
    toy, episode = GaussianToy(gaussian=False), ToyEpisodes(support_size=6, query_size=7)[0]
    posterior = BayesianHead().adapt(toy, episode.support)
    whole = posterior.predict(episode.query, 8)
    monkeypatch.setattr(head_posterior, "AT_ONCE", 3)
    torch.testing.assert_close(posterior.predict(episode.query, 8), whole)


def test_more_scores_than_fit_into_memory_are_refused(monkeypatch):
    monkeypatch.setattr(bayesian_head, "MOST", 10)
    with pytest.raises(AbmllError, match=r"6 labelled rows of 2 choices are 12 scores.*takes 10 at once"):
        BayesianHead().adapt(GaussianToy(gaussian=False), ToyEpisodes(support_size=6)[0].support)


def test_bad_priors_are_refused():
    with pytest.raises(AbmllError, match="no number below 0"):
        HeadPrior(weight_std=-1.0)
    with pytest.raises(AbmllError, match="no number below 0"):
        build_method("abmll", scale_std=-0.1)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 9])
def test_batches_change_no_gradient(batch_size):
    episode, grads = ToyEpisodes(support_size=4, query_size=4)[0], []
    for size in (None, batch_size):
        toy = GaussianToy(gaussian=False)
        metrics = build_method("abmll", batch_size=size).meta_learner.meta_gradient(toy, episode)
        grads.append((toy.parameters(META)["mean"].grad, metrics["nll"]))
    torch.testing.assert_close(grads[1][0], grads[0][0])
    assert grads[1][1] == pytest.approx(grads[0][1])
    with pytest.raises(AbmllError, match="batch_size must be at least 1"):
        build_method("abmll", batch_size=0)


def test_a_task_costs_one_pass_over_its_labels():
    method = build_method("abmll", batch_size=16)
    assert episode_passes(build_method("abmll", batch_size=4).meta_learner, 8, 8) == (16.0, 16.0)
    assert adaptation_passes(method.adaptation, 16) == (0.0, 16.0)
    assert episode_passes(method.meta_learner, 8, 8) == (16.0, 0.0)
