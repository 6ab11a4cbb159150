"""A LoRA for each training task, and what LoRAHub and Arrow make of them, against their formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.core.library import composed, lora_of, present, put_alone
from abmll.core.params import clone
from abmll.core.types import META, TASK, Example
from abmll.data.task import Task
from abmll.evaluation.evaluate import evaluate
from abmll.methods import build_method
from abmll.methods.arrow import Arrow, first_right_singular_vector, gate, prototypes
from abmll.methods.lorahub import LoraHub, seek
from abmll.methods.parts.budget import with_num_steps
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.library import LoraPerTask
from abmll.methods.parts.zero_shot import zero_shot_of
from abmll.training.loop import train
from abmll.training.settings import Training
from tests.toy import LibraryToy, ToyEpisodes, observation

A, B = "layer.lora_A.weight", "layer.lora_B.weight"
METHODS = ["lorahub", "arrow"]


def factors(likelihood, role=META):
    params = likelihood.parameters(role)
    return params[A].detach(), params[B].detach()


def with_only(likelihood, kept):
    """The toy as it is when the other LoRAs have not been trained."""
    with torch.no_grad():
        for index in set(range(likelihood.parameters(META)[B].shape[1])) - set(kept):
            likelihood.parameters(META)[B][:, index] = 0
    return likelihood


def gaussian_nll(y, phi, variance=0.5):
    square = (y - phi).square() / variance
    return 0.5 * (square + math.log(2 * math.pi * variance)).sum(-1).mean()


@pytest.mark.parametrize("name", METHODS)
def test_each_lora_is_trained_on_its_own_task_as_if_alone(name):
    likelihood, episodes = LibraryToy(6), ToyEpisodes(num_tasks=4)
    method = build_method(name, num_loras=6, optimizer="sgd", learning_rate=0.01, num_steps=3)
    alone = [[factor.clone() for factor in (A_i, B_i)] for A_i, B_i in zip(*before(likelihood), strict=True)]
    train(likelihood, method, episodes, Training(10), progress=False)
    for step in range(10):
        episode = episodes[step]
        own, y = alone[episode.number], observed(episode)
        for _ in range(3):
            a, b = (factor.requires_grad_() for factor in own)
            slopes = torch.autograd.grad(gaussian_nll(y, b * (a @ likelihood.input)), (a, b))
            own[:] = [(factor - 0.01 * slope).detach() for factor, slope in zip((a, b), slopes, strict=True)]
    found_A, found_B = factors(likelihood)
    for index, (a, b) in enumerate(alone):
        torch.testing.assert_close(found_A[index], a.detach(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found_B[:, index], b.detach(), rtol=1e-9, atol=1e-12)


def before(likelihood):
    A_0, B_0 = factors(likelihood)
    return A_0.clone(), B_0.clone().T


def observed(episode):
    return torch.stack([observation(row.prompt) for row in [*episode.support, *episode.query]])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_no_other_lora_moves_by_a_bit(optimizer):
    likelihood, episode = LibraryToy(5), ToyEpisodes()[3]
    LoraPerTask(5, InnerLoop(2, 0.1, optimizer)).meta_gradient(likelihood, episode)
    grad_A, grad_B = (likelihood.parameters(META)[name].grad for name in (A, B))
    assert grad_A[3].abs().min() > 0
    assert grad_B[:, 3].abs().min() > 0
    others = [0, 1, 2, 4]
    assert not grad_A[others].any()
    assert not grad_B[:, others].any()


def test_a_task_without_a_place_is_refused():
    with pytest.raises(AbmllError, match=r"task 'toy-4' is number 5 .* room for 3 LoRAs\. Set num_loras"):
        LoraPerTask(3).meta_gradient(LibraryToy(3), ToyEpisodes()[4])


def test_the_composition_is_that_of_factors_not_of_products():
    generator = torch.Generator().manual_seed(0)
    library = {
        A: torch.randn(3 * 2, 5, generator=generator, dtype=torch.float64),
        B: torch.randn(4, 3 * 2, generator=generator, dtype=torch.float64),
    }
    weights = torch.tensor([0.7, -1.2, 0.3], dtype=torch.float64)
    found = composed([lora_of(library, index, 3) for index in range(3)], weights)
    expected = torch.zeros(4, 5, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            expected += weights[i] * weights[j] * library[B][:, 2 * i : 2 * i + 2] @ library[A][2 * j : 2 * j + 2]
    torch.testing.assert_close(found[B] @ found[A], expected, rtol=1e-12, atol=1e-12)
    # in the place of the first, beside zeros, it is the same map
    put_alone(library, found, 0, 3)
    torch.testing.assert_close(library[B] @ library[A], expected, rtol=1e-12, atol=1e-12)


def test_the_search_finds_the_least_point_within_its_bounds():
    asked = []

    def loss(w):
        asked.append(w.clone())
        return float((w - torch.tensor([0.4, -3.0], dtype=torch.float64)).square().sum())

    torch.manual_seed(0)
    found = seek(loss, 2, 300, 1.5, 0.5)
    torch.testing.assert_close(found, torch.tensor([0.4, -1.5], dtype=torch.float64), rtol=0, atol=1e-3)
    assert len(asked) == 300
    assert not asked[0].any()
    assert max(float(w.abs().max()) for w in asked) <= 1.5
    torch.manual_seed(0)
    assert torch.equal(seek(loss, 2, 300, 1.5, 0.5), found)
    assert torch.equal(seek(lambda w: float(w.abs().sum()), 3, 20, 1.5, 0.5), torch.zeros(3, dtype=torch.float64))


def test_lorahub_minimises_the_published_loss_over_the_loras_that_there_are():
    likelihood, support = with_only(LibraryToy(6), [0, 2, 3]), ToyEpisodes(support_size=8)[0].support
    y = torch.stack([observation(row.prompt) for row in support])
    A_all, B_all = (factor.clone() for factor in factors(likelihood))
    hub = LoraHub(6, num_steps=60)

    def published(weights):
        a = sum(w * A_all[index] for index, w in weights.items())
        b = sum(w * B_all[:, index] for index, w in weights.items())
        penalty = 0.05 * sum(abs(w) for w in weights.values()) / len(weights)
        return gaussian_nll(y, b * (a @ likelihood.input)) + penalty, b * (a @ likelihood.input)

    torch.manual_seed(1)
    weights = hub.weights(likelihood, support)
    assert sorted(weights) == [0, 2, 3]
    torch.manual_seed(1)
    hub.adapt(likelihood, support)
    least, phi = published(weights)
    torch.testing.assert_close(likelihood._setting(TASK)["mean"].detach(), phi, rtol=1e-9, atol=1e-12)
    assert least < published(dict.fromkeys(weights, 0.0))[0] - 0.1
    # and, as the search sees it, no better than the best of what it might have found
    torch.manual_seed(2)
    draws = [published(dict(zip(weights, (3 * torch.rand(3) - 1.5).tolist(), strict=True)))[0] for _ in range(60)]
    assert least < torch.stack(draws).quantile(0.1)


def test_a_search_takes_as_many_evaluations_as_it_is_told(monkeypatch):
    asked, terms = [], LibraryToy.terms
    monkeypatch.setattr(LibraryToy, "terms", lambda self, rows, **more: asked.append(rows) or terms(self, rows, **more))
    with_num_steps(LoraHub(4), 7).adapt(LibraryToy(4), ToyEpisodes()[0].support)
    assert len(asked) == 7


def test_the_first_right_singular_vector_is_that_of_the_product():
    generator = torch.Generator().manual_seed(0)
    for r, inside, out in ((4, 9, 7), (1, 5, 3), (6, 4, 5), (3, 8, 2)):
        a = torch.randn(r, inside, generator=generator, dtype=torch.float64)
        b = torch.randn(out, r, generator=generator, dtype=torch.float64)
        expected = torch.linalg.svd(b @ a).Vh[0]
        found = first_right_singular_vector(a, b)
        assert abs(float(found @ expected)) == pytest.approx(1, abs=1e-9)
        assert float(found.norm()) == pytest.approx(1, abs=1e-9)
        assert not first_right_singular_vector(a, 0 * b).any()


def test_the_gate_is_the_softmax_of_the_largest_scores_token_by_token():
    generator = torch.Generator().manual_seed(0)
    towards = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    towards[1] = 0  # a LoRA that was never trained
    x = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)
    found = gate(towards, 2, 3, 0.7)(x)
    assert found.shape == (2, 3, 10)
    for place in range(2):
        for token in range(3):
            scores = {i: abs(float(towards[i] @ x[place, token])) for i in (0, 2, 3, 4)}
            chosen = sorted(scores, key=scores.get, reverse=True)[:3]
            total = sum(math.exp(scores[i] / 0.7) for i in chosen)
            for i in range(5):
                expected = math.exp(scores[i] / 0.7) / total if i in chosen else 0.0
                assert found[place, token, 2 * i : 2 * i + 2].tolist() == pytest.approx([expected] * 2, abs=1e-12)
    assert torch.equal(gate(towards, 1, 9, 1.0)(x), gate(towards, 1, 4, 1.0)(x))  # more than there are
    assert not gate(0 * towards, 1, 3, 1.0)(x).any()


def test_arrow_answers_with_the_weighted_sum_of_products():
    likelihood, episode = with_only(LibraryToy(6), [1, 2, 4, 5]), ToyEpisodes()[0]
    A_all, B_all = (factor.clone() for factor in factors(likelihood))
    u = likelihood.input
    scores = {i: abs(float(A_all[i] @ u)) / float(A_all[i].norm()) for i in (1, 2, 4, 5)}  # rank 1: it points along A
    chosen = sorted(scores, key=scores.get, reverse=True)[:2]
    total = sum(math.exp(scores[i]) for i in chosen)
    phi = sum(math.exp(scores[i]) / total * B_all[:, i] * (A_all[i] @ u) for i in chosen)
    posterior = Arrow(6, top_k=2).adapt(likelihood, [])
    candidates = torch.stack([torch.stack([observation(c) for c in row.choices]) for row in episode.query])
    expected = (-0.5 * (candidates - phi).square().sum(-1) / 0.5).log_softmax(-1)
    found = posterior.predict(episode.query, 4)
    torch.testing.assert_close(found, expected[None], rtol=1e-9, atol=1e-12)
    assert prototypes(likelihood.parameters(META), [1, 2], 6)[A][[0, 3, 4, 5]].abs().sum() == 0


@pytest.mark.parametrize("name", METHODS)
def test_an_empty_library_is_told(name):
    method = build_method(name, num_loras=4)
    likelihood = with_only(LibraryToy(4), [])
    assert present(likelihood.parameters(META), 4) == []
    with pytest.raises(AbmllError, match=rf"{name}: the library is empty\. Train its LoRAs first.*--from-adapters"):
        method.adaptation.adapt(likelihood, ToyEpisodes()[0].support)


def test_without_labels_lorahub_is_the_model_as_it_is_and_arrow_what_it_always_is():
    query = ToyEpisodes()[0].query
    task = Task("t", tuple(Example(row.prompt, row.choices, 0, id=row.id) for row in query))
    cells = {}
    for name in [*METHODS, "arrow+scale"]:
        likelihood, method = LibraryToy(4), build_method(name, num_loras=4)
        (cells[name],) = evaluate(likelihood, method, name, [task], support_sizes=[0])
        assert not torch.equal(likelihood.parameters(META)[B], torch.zeros(3, 4).double())
    candidates = torch.stack([torch.stack([observation(c) for c in row.choices]) for row in query])
    at_zero = (-0.5 * candidates.square().sum(-1) / 0.5).log_softmax(-1)
    order = [cells["lorahub"].ids.index(row.id) for row in query]
    torch.testing.assert_close(cells["lorahub"].log_probs[0][order].double(), at_zero, rtol=1e-5, atol=1e-6)
    routed = Arrow(4).adapt(LibraryToy(4), []).predict(query, 1)[0]
    torch.testing.assert_close(cells["arrow"].log_probs[0][order].double(), routed, rtol=1e-5, atol=1e-6)
    assert torch.equal(cells["arrow"].log_probs, cells["arrow+scale"].log_probs)
    assert type(zero_shot_of(build_method("lora").adaptation)).__name__ == "NoAdaptation"


def test_meta_stays_as_it_is_while_weights_are_sought():
    likelihood = LibraryToy(4)
    kept = clone(likelihood.parameters(META))
    LoraHub(4, num_steps=5).adapt(likelihood, ToyEpisodes()[0].support)
    assert all(torch.equal(kept[name], tensor) for name, tensor in likelihood.parameters(META).items())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lorahub", {"num_loras": 0}),
        ("lorahub", {"num_evaluations": 0}),
        ("lorahub", {"bound": 0.0}),
        ("lorahub", {"l1": -1.0}),
        ("arrow", {"top_k": 0}),
        ("arrow", {"temperature": 0.0}),
        ("arrow", {"num_loras": 0}),
    ],
)
def test_options_out_of_range_are_refused_by_name(name, options):
    (option,) = options
    with pytest.raises(AbmllError, match=option):
        build_method(name, **options)
