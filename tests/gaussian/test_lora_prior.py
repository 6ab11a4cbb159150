"""The prior that LoRAs are draws of, against dense singular values and against rotations that were searched for."""

from __future__ import annotations

import pytest
import torch

from abmll.gaussian.lora_prior import LENGTH, SMALLEST_VARIANCE, Lora, lora_prior

OUT, IN, RANK, TASKS = 7, 9, 3, 5


def draw(*sizes, seed):
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def loras():
    return [Lora(draw(RANK, IN, seed=i), draw(OUT, RANK, seed=50 + i), 0.5 + i / 4) for i in range(TASKS)]


def product(lora):
    return lora.scaling * lora.B @ lora.A


def test_the_mean_is_the_best_approximation_to_the_mean_of_the_products(loras):
    prior = lora_prior(loras, 2.0)
    U, S, Vh = torch.linalg.svd(torch.stack([product(lora) for lora in loras]).mean(0))
    torch.testing.assert_close(product(prior.mean), (U[:, :RANK] * S[:RANK]) @ Vh[:RANK], rtol=1e-10, atol=1e-12)
    assert prior.mean.scaling == 2.0
    assert prior.kept == pytest.approx(float(S[:RANK].square().sum() / S.square().sum()), rel=1e-10)
    assert prior.size == pytest.approx(float(S[:RANK].square().sum()), rel=1e-10)
    eye = torch.eye(RANK, dtype=torch.float64)
    torch.testing.assert_close(prior.mean.A @ prior.mean.A.T, LENGTH**2 * eye, rtol=1e-10, atol=1e-12)


def test_factors_say_nothing_but_their_product(loras):
    """The same changes of weight, written in other factors, have the same prior."""
    others = []
    for i, lora in enumerate(loras):
        R = draw(RANK, RANK, seed=90 + i) + 2 * torch.eye(RANK, dtype=torch.float64)
        others.append(Lora(R @ lora.A, lora.B @ torch.linalg.inv(R) / 3, 3 * lora.scaling))
    one, other = lora_prior(loras, 2.0), lora_prior(others, 2.0)
    torch.testing.assert_close(product(one.mean), product(other.mean), rtol=1e-8, atol=1e-10)
    assert one.variance_A == pytest.approx(other.variance_A, rel=1e-8)
    assert one.variance_B == pytest.approx(other.variance_B, rel=1e-8)


def in_form(lora, rank=RANK):
    """By dense singular values: rows of A orthogonal and of length α, and B the rest."""
    U, S, Vh = torch.linalg.svd(product(lora))
    return LENGTH * Vh[:rank], U[:, :rank] * S[:rank] / LENGTH


def test_no_rotation_comes_nearer_than_the_one_that_is_taken():
    """All rotations and reflections of two dimensions, ten thousand of each."""
    loras = [Lora(draw(2, IN, seed=i), draw(OUT, 2, seed=50 + i), 1.0) for i in range(TASKS)]
    prior = lora_prior(loras, 1.0)
    A, B = prior.mean.A, prior.mean.B
    forms = [in_form(lora, 2) for lora in loras]
    weight = torch.stack([B_t.square().sum() for _, B_t in forms]).mean() / 2
    angle = torch.linspace(0, 2 * torch.pi, 10_001, dtype=torch.float64)[:-1]
    c, s = angle.cos(), angle.sin()
    turns = torch.cat([torch.stack([c, -s, s, c], 1), torch.stack([c, s, s, -c], 1)]).view(-1, 2, 2)
    least = 0.0
    for A_t, B_t in forms:
        away = LENGTH**2 * (B_t @ turns.mT - B).square().sum((1, 2)) + weight * (turns @ A_t - A).square().sum((1, 2))
        least += float(away.min()) / TASKS
    found = LENGTH**2 * prior.variance_B * B.numel() + float(weight) * prior.variance_A * A.numel()
    assert found <= least
    assert found == pytest.approx(least, rel=1e-5)


def test_loras_that_agree_are_their_own_mean_without_spread(loras):
    R = torch.linalg.qr(draw(RANK, RANK, seed=7)).Q
    same = [loras[0], Lora(R @ loras[0].A, loras[0].B @ R.T, loras[0].scaling)]
    prior = lora_prior(same, loras[0].scaling)
    torch.testing.assert_close(product(prior.mean), product(loras[0]), rtol=1e-10, atol=1e-12)
    assert prior.variance_A == SMALLEST_VARIANCE
    assert prior.variance_B == SMALLEST_VARIANCE
    assert prior.kept == pytest.approx(1)


def test_one_task_apart_is_seen_in_the_variance(loras):
    """B twice as large in one of two: both are half of B away from their mean."""
    twice = loras[0]._replace(B=2 * loras[0].B)
    prior = lora_prior([loras[0], twice], loras[0].scaling)
    _, B = in_form(loras[0])
    assert prior.variance_A == SMALLEST_VARIANCE
    expected = float((0.5 * B / loras[0].scaling).square().mean())
    assert prior.variance_B == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("out", "width"), [(2, 9), (7, 3), (40, 50)])
def test_layers_narrower_than_the_rank_and_wider_than_all_ranks_together(out, width):
    loras = [Lora(draw(RANK, width, seed=i), draw(out, RANK, seed=20 + i), 1.0) for i in range(TASKS)]
    prior = lora_prior(loras, 1.0)
    U, S, Vh = torch.linalg.svd(torch.stack([product(lora) for lora in loras]).mean(0), full_matrices=False)
    some = min(RANK, len(S))
    torch.testing.assert_close(product(prior.mean), (U[:, :some] * S[:some]) @ Vh[:some], rtol=1e-9, atol=1e-10)
    assert prior.mean.A.shape == (RANK, width)
    assert prior.mean.B.shape == (out, RANK)
    eye = torch.eye(RANK, dtype=torch.float64)
    torch.testing.assert_close(prior.mean.A @ prior.mean.A.T, LENGTH**2 * eye, rtol=1e-9, atol=1e-10)


def test_a_layer_that_no_task_moved_stays_at_zero_and_can_be_learned():
    loras = [Lora(draw(RANK, IN, seed=i), torch.zeros(OUT, RANK), 1.0) for i in range(TASKS)]
    prior = lora_prior(loras, 1.0)
    assert not prior.mean.B.any()
    assert prior.variance_B == SMALLEST_VARIANCE
    assert float(prior.mean.A.square().sum(1).min()) == pytest.approx(LENGTH**2)
    assert prior.kept == 1
