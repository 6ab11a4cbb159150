"""Which rows are shown, to whom, and what they do to the prompt's owner."""

from __future__ import annotations

import pytest
import torch

from abmll.config.methods import default_options
from abmll.core.errors import AbmllError
from abmll.core.types import META, AdapterSpec, Episode, Example
from abmll.methods import build_method, is_built_in
from abmll.methods.in_context import InContext, choose, demonstrate
from abmll.methods.metaicl import MetaIcl
from abmll.methods.multitask import MultiTask
from abmll.methods.parts.gradient import GradientAdaptation, NoAdaptation
from abmll.methods.parts.scaled import CrossFittedScale
from abmll.methods.table.search import space_of
from tests.toy import GaussianToy, ToyEpisodes


def rows(labels):
    return [Example(f"row {i}", ("no", "yes"), label, id=str(i)) for i, label in enumerate(labels)]


def ids(examples):
    return "".join(example.id for example in examples)


class Recorder(GaussianToy):
    """The toy, which also keeps every example that it was asked about."""

    def __init__(self, **options):
        super().__init__(gaussian=False, **options)
        self.trained, self.asked = [], []

    def terms(self, examples, **options):
        self.trained += examples
        return super().terms(examples, **options)

    def choice_log_probs(self, examples, **options):
        self.asked += examples
        return super().choice_log_probs(examples, **options)


@pytest.mark.parametrize(
    ("labels", "count", "expected"),
    [
        ([0, 0, 0, 0, 1], 2, "04"),  # one of each, though the other four come first
        ([1, 0, 0, 1, 0], 4, "0132"),  # in rounds: first yes, first no, second yes, second no
        ([0, 0, 0], 2, "01"),  # only one label there
        ([0, 1], 8, "01"),  # fewer rows than asked for
        ([], 3, ""),
    ],
)
def test_choice_is_even_over_labels(labels, count, expected):
    assert ids(choose(rows(labels), count)) == expected


def test_a_label_is_the_text_of_the_right_choice_wherever_it_stands():
    pool = [Example("a", ("no", "yes"), 1, id="0"), Example("b", ("yes", "no"), 0, id="1"), *rows([0, 0])[1:]]
    assert ids(choose(pool, 2)) == "01"
    assert [e.choices[e.target] for e in choose(pool, 2)] == ["yes", "no"]


def test_no_row_demonstrates_itself():
    support = rows([0, 1, 0, 1])
    shown = demonstrate(support, support, 8)
    assert [ids(example.demonstrations) for example in shown] == ["123", "032", "013", "012"]
    assert [example._replace(demonstrations=()) for example in shown] == support


def test_queries_carry_the_support_and_the_posterior_keeps_its_own():
    likelihood, episodes = Recorder(), ToyEpisodes(support_size=6)
    adaptation = InContext(NoAdaptation(), 4)
    posterior = adaptation.adapt(likelihood, episodes[0].support)
    adaptation.adapt(likelihood, episodes[1].support)
    posterior.predict(episodes[0].query, 1)
    assert {example.demonstrations for example in likelihood.asked} == {choose(episodes[0].support, 4)}
    assert not any(demo in episodes[0].query for demo in posterior.demonstrations)


def test_inner_adaptation_sees_the_prompts_it_will_be_judged_on():
    likelihood, support = Recorder(), ToyEpisodes(support_size=3)[0].support
    InContext(GradientAdaptation(), 2).adapt(likelihood, support)
    assert likelihood.trained
    for example in likelihood.trained:
        assert set(example.demonstrations) == {row for row in support if row.prompt != example.prompt}


def test_metaicl_is_the_multitask_gradient_on_demonstrated_rows():
    episode = ToyEpisodes(support_size=4)[2]
    recorder, plain = Recorder(), GaussianToy(gaussian=False)
    MetaIcl(MultiTask(), 3).meta_gradient(recorder, episode)
    MultiTask().meta_gradient(plain, Episode(episode.task, episode.support, episode.query))
    # the toy's likelihood does not read demonstrations, so the gradients are equal and only the rows differ
    assert torch.equal(recorder.parameters(META)["mean"].grad, plain.parameters(META)["mean"].grad)
    assert [example._replace(demonstrations=()) for example in recorder.trained] == [*episode.support, *episode.query]
    for example in recorder.trained:
        assert len(example.demonstrations) == 3
        assert set(example.demonstrations) < set(episode.support)
        assert example.prompt not in {demo.prompt for demo in example.demonstrations}


def test_the_state_of_the_meta_learner_inside_is_kept():
    inside = build_method("abmll-paper").meta_learner
    learner = MetaIcl(inside, 2)
    learner.meta_gradient(GaussianToy(), ToyEpisodes(support_size=4)[0])
    state = learner.state_dict()
    assert state["state"]
    twin = MetaIcl(build_method("abmll-paper").meta_learner, 2)
    twin.load_state_dict(state)
    assert twin.state_dict()["state"].keys() == state["state"].keys()


def test_nothing_to_show_is_refused():
    with pytest.raises(AbmllError, match="support set is empty"):
        InContext().adapt(GaussianToy(gaussian=False), [])
    with pytest.raises(AbmllError, match="num_demonstrations must be at least 1; got 0"):
        build_method("in-context", num_demonstrations=0)
    assert build_method("metaicl").adapter == AdapterSpec()


def test_every_method_can_be_shown_demonstrations_at_test_time_or_in_training_too():
    episode = ToyEpisodes(support_size=6)[0]
    for name, in_training in (("reptile+icl", False), ("reptile+metaicl", True)):
        method = build_method(name, num_demonstrations=3, num_steps=2, learning_rate=0.01)
        likelihood = Recorder()
        method.meta_learner.meta_gradient(likelihood, episode)
        assert {len(row.demonstrations) for row in likelihood.trained} == ({3} if in_training else {0})
        likelihood.trained.clear()
        method.adaptation.adapt(likelihood, episode.support).predict(episode.query, 1)
        assert {len(row.demonstrations) for row in [*likelihood.trained, *likelihood.asked]} == {3}
        assert len(likelihood.trained) == 2 * 6
    plain = build_method("reptile", num_steps=2)
    assert build_method("reptile+icl", num_steps=2).meta_learner == plain.meta_learner


def test_endings_go_together_and_are_searched():
    method = build_method("lora+icl+scale", num_demonstrations=2, scale_mean=0.5, num_steps=3)
    assert isinstance(method.adaptation, CrossFittedScale)
    assert method.adaptation.adaptation == InContext(build_method("lora", num_steps=3).adaptation, 2)
    assert set(space_of("lora+icl+scale")) == {"learning_rate", "num_demonstrations", "scale_mean", "scale_std"}
    assert is_built_in("multitask+metaicl+scale")
    assert not is_built_in("multitask+icll")
    assert default_options("fomaml+metaicl")["num_demonstrations"] == 8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("metaicl+icl", r"metaicl shows demonstrations itself: name it without \+icl"),
        ("lora+icl+metaicl", r"lora\+icl shows demonstrations itself"),
        ("uniform+icl", "uniform asks no model"),
        ("lora+metaicl", r"lora learns nothing across tasks: demonstrations at test time are lora\+icl"),
        ("loraa+icl", "no such method.*NAME.icl"),
    ],
)
def test_what_cannot_be_shown_demonstrations_is_told(name, message):
    with pytest.raises(AbmllError, match=message):
        build_method(name)
