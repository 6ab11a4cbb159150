"""The one contract that every row of the method table passes, on a likelihood with known answers."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save

from abmll.core.errors import AbmllError
from abmll.core.params import clone
from abmll.core.types import META, TASK
from abmll.methods import METHODS, build_method
from tests.methods.short import short
from tests.toy import ToyEpisodes, toy_for


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(params=sorted(METHODS))
def row(request):
    """Its name. Meta-learners may hold an optimiser's state: `short` makes another instance."""
    return request.param


@pytest.fixture
def method(row):
    return short(row)


@pytest.fixture
def likelihood(method):
    return toy_for(method.adapter)


@pytest.fixture
def episodes():
    return ToyEpisodes(support_size=10, query_size=4)


def test_only_meta_gradient_reaches_meta_and_only_its_grad(method, likelihood, episodes):
    if method.meta_learner is None:
        pytest.skip("learns nothing across tasks")
    before = clone(likelihood.parameters(META))
    metrics = method.meta_learner.meta_gradient(likelihood, episodes[0])
    theta = likelihood.parameters(META)
    assert same(before, clone(theta)), "meta_gradient moved META itself"
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in theta.values())
    assert sum(tensor.grad.abs().sum() for tensor in theta.values()) > 0
    assert metrics
    assert all(isinstance(value, float) for value in metrics.values())


def test_meta_gradients_add_up(row, method, likelihood, episodes):
    if method.meta_learner is None:
        pytest.skip("learns nothing across tasks")
    grads = []
    for indices in ((0,), (1,), (0, 1)):
        for tensor in likelihood.parameters(META).values():
            tensor.grad = None
        learner = short(row).meta_learner
        for index in indices:
            torch.manual_seed(index)
            learner.load_state_dict({})
            learner.meta_gradient(likelihood, episodes[index])
        grads.append({name: tensor.grad.clone() for name, tensor in likelihood.parameters(META).items()})
    for name, total in grads[2].items():
        torch.testing.assert_close(total, grads[0][name] + grads[1][name], rtol=1e-12, atol=1e-12)


def test_adapting_leaves_meta_bit_identical(method, likelihood, episodes):
    before = clone(likelihood.parameters(META))
    method.adaptation.adapt(likelihood, episodes[0].support)
    assert same(before, clone(likelihood.parameters(META)))


def test_a_posterior_survives_a_later_adaptation(method, likelihood, episodes):
    first, second = episodes[0], episodes[1]
    posterior = method.adaptation.adapt(likelihood, first.support)
    torch.manual_seed(0)
    before = posterior.predict(first.query, 3)
    method.adaptation.adapt(likelihood, second.support).predict(second.query, 2)
    torch.manual_seed(0)
    assert torch.equal(before, posterior.predict(first.query, 3))


def test_predictions_are_normalised_and_deterministic_given_a_seed(method, likelihood, episodes):
    predictions = []
    for _ in range(2):
        torch.manual_seed(3)
        posterior = method.adaptation.adapt(likelihood, episodes[2].support)
        predictions.append(posterior.predict(episodes[2].query, 4))
    assert torch.equal(*predictions)
    assert predictions[0].shape[1:] == (4, 2)
    torch.testing.assert_close(predictions[0].exp().sum(-1), torch.ones_like(predictions[0][..., 0]))


def test_predicting_leaves_meta_and_keeps_no_graph(method, likelihood, episodes):
    before = clone(likelihood.parameters(META))
    predicted = method.adaptation.adapt(likelihood, episodes[0].support).predict(episodes[0].query, 3)
    assert same(before, clone(likelihood.parameters(META)))
    assert not predicted.requires_grad


def test_adapting_forgets_the_task_before(method, likelihood, episodes):
    predictions = []
    for before in ((), (episodes[1].support,)):
        for support in before:
            method.adaptation.adapt(likelihood, support)
        torch.manual_seed(4)
        posterior = method.adaptation.adapt(likelihood, episodes[0].support)
        predictions.append(posterior.predict(episodes[0].query, 2))
    assert torch.equal(*predictions)


def test_meta_gradients_are_deterministic_given_a_seed(row, method, episodes):
    if method.meta_learner is None:
        pytest.skip("learns nothing across tasks")
    grads = []
    for _ in range(2):
        likelihood = toy_for(method.adapter)
        torch.manual_seed(6)
        short(row).meta_learner.meta_gradient(likelihood, episodes[0])
        grads.append({name: tensor.grad for name, tensor in likelihood.parameters(META).items()})
    assert same(*grads)


def test_state_round_trip_continues_identically(row, method, likelihood, episodes):
    if method.meta_learner is None:
        pytest.skip("learns nothing across tasks")
    learner, twin = method.meta_learner, short(row).meta_learner
    learner.meta_gradient(likelihood, episodes[0])
    twin.load_state_dict(learner.state_dict())
    grads = []
    for instance in (learner, twin):
        for tensor in likelihood.parameters(META).values():
            tensor.grad = None
        torch.manual_seed(5)
        instance.meta_gradient(likelihood, episodes[1])
        grads.append({name: tensor.grad.clone() for name, tensor in likelihood.parameters(META).items()})
    assert same(*grads)


def test_posterior_state_is_tensors_only(method, likelihood, episodes):
    posterior = method.adaptation.adapt(likelihood, episodes[0].support)
    told, state = repr(posterior), posterior.state_dict()
    assert told.startswith(type(posterior).__name__)
    assert " at 0x" not in told
    assert len(told) < 200, "it says what it is, not all that it holds"
    assert state
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert all(
        value.data_ptr() != other.data_ptr()
        for value in state.values()
        for other in likelihood.parameters(TASK).values()
    )


def test_a_posterior_saved_and_restored_predicts_the_same(row, method, likelihood, episodes):
    support, query = episodes[0].support, episodes[0].query
    torch.manual_seed(7)
    posterior = method.adaptation.adapt(likelihood, support)
    torch.manual_seed(8)
    before = posterior.predict(query, 3)
    saved = save({name: tensor.contiguous() for name, tensor in posterior.state_dict().items()})
    # another process: a fresh row and a likelihood that has seen another task
    twin, other = short(row), toy_for(method.adapter)
    twin.adaptation.adapt(other, episodes[1].support)
    theta = clone(other.parameters(META))
    restored = twin.adaptation.restore(other, load(saved))
    torch.manual_seed(8)
    assert torch.equal(before, restored.predict(query, 3))
    assert same(restored.state_dict(), posterior.state_dict())
    assert same(theta, clone(other.parameters(META)))


def test_empty_support_is_refused(method, likelihood):
    if type(method.adaptation).__name__ in {"NoAdaptation", "Uniform", "Arrow"}:
        pytest.skip("never looks at the support set")
    with pytest.raises(AbmllError, match="support set is empty"):
        method.adaptation.adapt(likelihood, [])


def test_unknown_names_list_the_nearest():
    with pytest.raises(AbmllError, match=r"Did you mean 'reptile'\? Methods: .*abmll"):
        build_method("reptil")
    with pytest.raises(AbmllError, match="Did you mean 'num_steps'"):
        build_method("abmll-adam", num_step=3)
    with pytest.raises(AbmllError, match=r"has no such option\. It takes none"):
        build_method("pretrained", num_steps=3)
