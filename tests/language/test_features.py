"""What a head of a task's own reads: the hidden states that the model's output head makes predictions of."""

from __future__ import annotations

import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.core.params import train_only
from abmll.core.types import TASK, FeatureLikelihood
from abmll.language import PromptFormat
from abmll.language.packing.evidence import Bearing
from tests.language.test_likelihood import EXAMPLES, likelihood_of

TEXT = PromptFormat(answer="text")
PACKINGS = [Bearing(True, "left", True), *(Bearing(False, side, True) for side in ("left", "right", "alone"))]


def first_tokens(likelihood, hidden):
    """(n, vocabulary) log-probabilities of the first answer token, by the model's own head."""
    head = likelihood.model.get_base_model().get_output_embeddings()
    return head(hidden).log_softmax(-1)


@pytest.mark.parametrize("bearing", PACKINGS, ids=str)
@pytest.mark.parametrize("answer", ["letters", "text"])
def test_they_are_those_that_the_answer_is_predicted_from(answer, bearing):
    likelihood = likelihood_of(prompt=PromptFormat(answer=answer))
    likelihood._packed.forced = bearing
    expected = likelihood.choice_log_probs(EXAMPLES)[0]
    with torch.no_grad(), likelihood.features(EXAMPLES) as features:
        torch.testing.assert_close(features.log_probs, expected, rtol=0, atol=1e-5)
        predicted = first_tokens(likelihood, features.hidden)
    for row, example in enumerate(EXAMPLES):
        encoded = likelihood.encode(example)
        if answer == "text":
            assert features.answers[row] == [tuple(choice) for choice in encoded.choices]
        else:
            assert [likelihood.tokenizer.decode(tokens) for tokens in features.answers[row]] == list(example.choices)
        plain = likelihood.model(input_ids=torch.tensor([encoded.prefix])).logits[0, -1].log_softmax(-1)
        torch.testing.assert_close(predicted[row], plain, rtol=0, atol=1e-4)


def test_the_door_says_that_it_shows_them():
    door: object = likelihood_of(prompt=TEXT)
    assert isinstance(door, FeatureLikelihood)


def test_with_a_graph_they_are_the_same_and_lead_back():
    likelihood = likelihood_of(prompt=TEXT)
    with torch.no_grad(), likelihood.features(EXAMPLES) as plain:
        pass
    train_only(likelihood, TASK)
    with likelihood.features(EXAMPLES) as features:
        torch.testing.assert_close(features.hidden, plain.hidden, rtol=0, atol=1e-5)
        features.hidden.square().sum().backward()
    assert any(
        tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in likelihood.parameters(TASK).values()
    )


def test_long_lists_take_several_passes_and_come_back_in_their_order():
    likelihood = likelihood_of(prompt=TEXT)
    with torch.no_grad(), likelihood.features(EXAMPLES) as whole:
        pass
    likelihood.batch_size = 1
    with torch.no_grad(), likelihood.features(EXAMPLES) as singly:
        pass
    torch.testing.assert_close(singly.hidden, whole.hidden, rtol=0, atol=1e-5)
    torch.testing.assert_close(singly.log_probs, whole.log_probs, rtol=0, atol=1e-5)


def test_models_that_cannot_be_told_or_show_none():
    likelihood = likelihood_of(prompt=TEXT)
    with torch.no_grad(), likelihood.features(EXAMPLES) as expected:
        pass
    likelihood._packed._forward._keeps_columns = False
    with torch.no_grad(), likelihood.features(EXAMPLES) as features:
        torch.testing.assert_close(features.hidden, expected.hidden, rtol=0, atol=1e-5)
    likelihood.model.get_base_model().get_output_embeddings = lambda: None
    with (
        pytest.raises(AbmllError, match=r"does not show the hidden states.*gradient steps"),
        likelihood.features(EXAMPLES),
    ):
        pass
    with pytest.raises(AbmllError, match="empty"), likelihood.features([]):
        pass
