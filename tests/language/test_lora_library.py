"""A library of LoRAs in a language model: Arrow against PEFT's own, folders, and LoRAs that are there already."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from peft import ArrowConfig, LoraConfig, create_arrow_model, get_peft_model

import abmll
from abmll.card import read_card
from abmll.core.errors import AbmllError
from abmll.core.library import lora_of, put_alone
from abmll.core.params import clone
from abmll.core.types import META, TASK
from abmll.methods.arrow import Arrow, gate, prototypes
from tests.tiny import tiny_llama, tiny_tokenizer
from tests.tiny_tasks import tiny_task, tiny_tasks

LAYERS = ["q_proj", "down_proj"]


@pytest.fixture(scope="module")
def loras(tmp_path_factory):
    """Three LoRAs as PEFT writes them, of one kind of change each, so that power iterations converge."""
    folder = tmp_path_factory.mktemp("loras")
    for number in range(3):
        model = get_peft_model(tiny_llama(), LoraConfig(r=2, lora_alpha=6, target_modules=LAYERS))
        generator = torch.Generator().manual_seed(number)
        for name, tensor in model.named_parameters():
            if "lora_" in name:
                drawn = torch.randn(tensor.shape, generator=generator)
                if "lora_B" in name:
                    drawn[:, 1] *= 0.05
                tensor.data = 0.3 * drawn
        model.save_pretrained(folder / f"task-{number}")
    return folder


def library(method="arrow", **options):
    return abmll.Learner(
        tiny_llama(), tiny_tokenizer(), method, r=2, lora_alpha=4, target_modules=LAYERS, num_loras=4, **options
    )


def test_arrow_is_pefts_own(loras):
    ids = torch.randint(3, 320, (3, 17), generator=torch.Generator().manual_seed(0))
    config = ArrowConfig(top_k=2, router_temperature=0.5, rng_seed=0)
    theirs = create_arrow_model(tiny_llama(), [str(loras / f"task-{n}") for n in range(3)], config)
    learner = library(top_k=2, temperature=0.5)
    learner.meta_train(from_adapters=[loras])
    theta = learner.likelihood.parameters(META)
    learner.method.adaptation.adapt(learner.likelihood, []).predict(tiny_task().examples[:2], 1)  # θ is in TASK
    towards = prototypes(theta, [0, 1, 2], 4)
    with torch.no_grad(), learner.likelihood.routed({n: gate(p, 2, 2, 0.5) for n, p in towards.items()}):
        ours = learner.model(ids).logits
    with torch.no_grad():
        expected, plain = theirs(ids).logits, tiny_llama()(ids).logits
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)
    assert (expected - plain).abs().max() > 0.1


def test_outside_the_block_nothing_is_weighed():
    learner = library()
    for tensor in learner.likelihood.parameters(TASK).values():
        torch.nn.init.normal_(tensor, std=0.3)
    rows = tiny_task().examples[:4]
    before = learner.likelihood.choice_log_probs(rows)
    towards = prototypes(learner.likelihood.parameters(TASK), range(4), 4)
    with learner.likelihood.routed({name: gate(p, 2, 1, 1.0) for name, p in towards.items()}):
        assert not torch.allclose(learner.likelihood.choice_log_probs(rows), before, atol=1e-4)
    assert torch.equal(learner.likelihood.choice_log_probs(rows), before)


def test_one_lora_alone_is_the_model_with_that_one_and_the_others_get_no_gradient():
    learner, rows = library(), tiny_task().examples[:4]
    likelihood = learner.likelihood
    phi = likelihood.parameters(TASK)
    for tensor in phi.values():
        torch.nn.init.normal_(tensor, std=0.3)
    whole = clone(phi)
    with likelihood.only(2, 4):
        for tensor in phi.values():
            tensor.requires_grad_(True)
        with likelihood.terms(rows) as terms:
            terms.nll.sum().backward()
        alone = likelihood.choice_log_probs(rows)
    slopes = {name: tensor.grad.clone() for name, tensor in phi.items()}
    assert all(torch.equal(phi[name], tensor) for name, tensor in whole.items())
    put_alone(phi, lora_of(whole, 2, 4), 2, 4)
    torch.testing.assert_close(likelihood.choice_log_probs(rows), alone, rtol=0, atol=1e-5)
    for tensor in phi.values():
        tensor.grad = None
    with likelihood.terms(rows) as terms:
        terms.nll.sum().backward()
    for name, tensor in phi.items():
        torch.testing.assert_close(slopes[name], tensor.grad, rtol=1e-4, atol=1e-5)
        for index in (0, 1, 3):
            assert not lora_of(slopes, index, 4)[name].any()
        assert lora_of(slopes, 2, 4)[name].any()


def test_the_loras_of_lorahub_begin_alike_and_those_of_arrow_apart():
    for method, alike in (("lorahub", True), ("arrow", False)):
        theta = library(method).likelihood.parameters(META)
        first, second = (lora_of(theta, index, 4) for index in (0, 3))
        name = next(name for name in theta if "lora_A" in name)
        assert torch.equal(first[name], second[name]) is alike
        single = abmll.Learner(tiny_llama(), tiny_tokenizer(), "lora", r=2, target_modules=LAYERS)
        own = single.likelihood.parameters(META)[name]
        assert first[name].std() == pytest.approx(
            float(own.std()), rel=0.3
        )  # a fresh LoRA's size, whatever their number


@pytest.mark.parametrize("method", ["lorahub", "arrow"])
def test_a_library_is_trained_saved_and_loaded(method, tmp_path):
    learner = library(method, learning_rate=0.03, **({"num_evaluations": 10} if method == "lorahub" else {}))
    learner.meta_train(tiny_tasks(3), num_steps=4, support_size=4, query_size=4, progress=False)
    rows, support = tiny_task("new", 12).examples[8:], list(tiny_task("new", 12).examples[:8])
    learner.save(tmp_path / "theta")
    card = read_card(tmp_path / "theta")
    assert (card.adapter.r, card.adapter.lora_alpha, card.options["num_loras"]) == (2, 4, 4)
    config = json.loads((tmp_path / "theta" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (8, 16)
    assert "PEFT would add all of them up" in (tmp_path / "theta" / "README.md").read_text()
    again = abmll.load(tmp_path / "theta", tiny_llama(), tiny_tokenizer())
    expected = learner.adapt(support).predict(rows, 3).log_probs
    posterior = again.adapt(support)
    torch.testing.assert_close(posterior.predict(rows, 3).log_probs, expected, rtol=0, atol=1e-6)
    posterior.save(tmp_path / "phi")
    found = abmll.load(tmp_path / "phi", tiny_llama(), tiny_tokenizer()).predict(rows, 3).log_probs
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    with pytest.raises(AbmllError, match=rf"5 training tasks, and room for 4 LoRAs in the library of '{method}': set"):
        learner.meta_train(tiny_tasks(5), num_steps=1, support_size=4, query_size=4, progress=False)


def test_given_loras_are_taken_as_they_are(loras):
    learner = library("lorahub")
    said = learner.meta_train(from_adapters=[loras]).message
    assert said == "A library of 3 LoRAs on 4 layers, each as it is."
    model = get_peft_model(tiny_llama(), LoraConfig(r=2, lora_alpha=6, target_modules=LAYERS))
    model.load_adapter(loras / "task-1", "other")
    name = next(name for name in learner.likelihood.parameters(META) if "lora_A" in name).removesuffix(".lora_A.weight")
    layer: Any = model.get_submodule(name)
    own = lora_of(learner.likelihood.parameters(META), 1, 4)
    ours = 2 * own[f"{name}.lora_B.weight"] @ own[f"{name}.lora_A.weight"]
    torch.testing.assert_close(ours, layer.get_delta_weight("other"), rtol=1e-5, atol=1e-6)
    assert not any(tensor.any() for tensor in lora_of(learner.likelihood.parameters(META), 3, 4).values())
    with pytest.raises(AbmllError, match="set r=2"):
        abmll.Learner(tiny_llama(), tiny_tokenizer(), "lorahub", r=3, target_modules=LAYERS, num_loras=4).meta_train(
            from_adapters=[loras]
        )
    few = abmll.Learner(tiny_llama(), tiny_tokenizer(), "arrow", r=2, target_modules=LAYERS, num_loras=2)
    with pytest.raises(AbmllError, match="3 LoRAs, and room for 2 in the library of 'arrow': set num_loras=3"):
        few.meta_train(from_adapters=[loras])


def test_adapters_that_are_no_loras_are_refused():
    learner = abmll.Learner(tiny_llama(), tiny_tokenizer(), "abmll-output", r=2)
    for block in (learner.likelihood.routed({}), learner.likelihood.only(0, 1)):
        with pytest.raises(AbmllError, match="needs plain LoRA adapters on linear layers"), block:
            pass
    with pytest.raises(AbmllError, match="has no `only` and no `routed`"):
        Arrow(2).adapt(Unrouted(library().likelihood), [])  # type: ignore[arg-type]


class Unrouted:
    def __init__(self, likelihood):
        for tensor in likelihood.parameters(META).values():
            torch.nn.init.ones_(tensor)
        self.parameters = likelihood.parameters
