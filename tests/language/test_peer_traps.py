"""Mistakes that were found in other implementations of these methods, each with a test that would see it here.

- A divergence in the wrong direction: `test_blob_kl_has_the_right_direction`, `test_kl_against_torch_distributions` (of
  the inducing variables), `test_kl_and_its_gradients_equal_torch_distributions`, and of every space a Gaussian is over
  `test_divergence_prior_and_their_gradients_are_those_of_torch_distributions`.
- Logits averaged instead of probabilities: `test_members_are_averaged_in_probability_not_in_logits`,
  `test_mixture_nll_averages_probabilities_not_logits`, `test_nll_is_that_of_the_mean_of_probabilities`.
- "ECE" of one example at a time: `test_paper_number_is_torchmetrics_ece_of_one_example_at_a_time`. Noise rounded to
  bfloat16: `test_autocast_does_not_round_the_gaussian`. Adam's moments carried across tasks, a one-sample KL, the mean
  alone at prediction: offered as published, `test_paper_trace.py`; otherwise `test_adapting_forgets_the_task_before`.
- Tensors that saving leaves out: `test_saved_and_loaded_is_bit_equal`, `test_every_posterior.py`.
- An access token in the repository: `test_no_file_holds_an_access_token`.
- Here: dropout left on at prediction, a mean of batch means with a ragged last batch, the same noise in all modules,
  the whole lm_head saved with an adapter on it.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from abmll.adapters import AbmllConfig, attach_roles, save_adapter
from abmll.core.types import META, TASK
from abmll.evaluation.metrics import cell_metrics
from abmll.evaluation.predictions import Cell
from abmll.gaussian.stochastic_pass import stochastic_pass
from abmll.language import CausalLMLikelihood, PromptFormat
from tests.tiny import tiny_llama, tiny_tokenizer
from tests.tiny_tasks import tiny_task

ROWS = tiny_task("rows", 7).examples


def config_of(space):
    """Of a LoRA with dropout, or a Gaussian over `space` that is wide enough for its draws to be seen."""
    common: dict[str, Any] = {
        "r": 2,
        "lora_alpha": 4,
        "task_type": "CAUSAL_LM",
        "target_modules": ["q_proj", "down_proj"],
    }
    if space is None:
        return LoraConfig(lora_dropout=0.5, **common)
    return AbmllConfig(space=space, log_var_offset=-3.0, **common)


def likelihood_of(base, space=None, **options):
    likelihood = CausalLMLikelihood(
        attach_roles(base, config_of(space)), tiny_tokenizer(), PromptFormat(answer="text"), **options
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for role in (META, TASK):
            for tensor in likelihood.parameters(role).values():
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return likelihood


@pytest.mark.parametrize("space", [None, "output"])
def test_the_base_models_own_dropout_is_never_on(space):
    """Whatever mode the model is in: the adapters' dropout is the only one that there is."""
    dropping, plain = tiny_llama(), tiny_llama()
    for module in dropping.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    likelihood, expected = likelihood_of(dropping, space), likelihood_of(plain, space)
    ids = torch.tensor([[5, 6, 7, 8]])
    dropping.train()
    assert not torch.equal(*(dropping(input_ids=ids).logits for _ in range(2))), "there is dropout to be left on"
    for sample in (False, True):
        losses = []
        for one in (likelihood, expected):
            torch.manual_seed(0)
            one.model.train()
            with one.terms(ROWS, sample=sample) as terms:
                losses.append(terms.nll)
        assert torch.equal(*losses)
    for _ in range(2):
        likelihood.model.train()
        assert torch.equal(likelihood.choice_log_probs(ROWS), expected.choice_log_probs(ROWS))
        likelihood.model.train()
        graphs = []
        for one in (likelihood, expected):
            with one.choice_graph(ROWS) as graph:
                graphs.append(graph)
        assert torch.equal(*graphs)


def test_a_ragged_last_batch_weighs_no_row_more():
    """7 rows in batches of 3, 3 and 1 have the NLL of one batch; the mean of the batches' means is another number."""
    found, by_row = {}, {}
    for size in (1, 3, 7):
        likelihood = likelihood_of(tiny_llama(dtype=torch.float64), batch_size=size)
        log_probs = likelihood.choice_log_probs(ROWS)
        targets = torch.tensor([row.target for row in ROWS])
        by_row[size] = -log_probs[0, torch.arange(7), targets]
        found[size] = cell_metrics(Cell("m", 0, "t", "f", 4, [row.id for row in ROWS], targets, log_probs))["nll"]
        assert found[size] == pytest.approx(by_row[size].mean().item(), abs=1e-6)
    assert found[1] == pytest.approx(found[7], abs=1e-6)
    assert found[3] == pytest.approx(found[7], abs=1e-6)
    means = torch.stack([part.mean() for part in by_row[7].split(3)]).mean().item()
    assert abs(means - found[7]) > 1e-4, "the mean of means would pass this test too"


@pytest.mark.parametrize("space", [None, "output", "weight", "factors"])
def test_modules_of_one_shape_draw_noise_of_their_own(space):
    """Every layer with the same parameters and the same input: what differs is the noise alone."""
    likelihood = likelihood_of(tiny_llama(layers=3), space)
    layers = [block.self_attn.q_proj for block in likelihood.model.get_base_model().model.layers]
    assert len(layers) == 3
    parameters = likelihood.parameters(TASK)
    with torch.no_grad():
        for name, tensor in parameters.items():
            tensor.copy_(parameters[re.sub(r"layers\.\d+", "layers.0", name)])
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    likelihood.model.eval()
    likelihood._dropout.on = True
    with torch.no_grad(), stochastic_pass(sample=True):
        deltas = [layer(x) - layer.base_layer(x) for layer in layers]
    likelihood._dropout.on = False
    with torch.no_grad():
        means = [layer(x) - layer.base_layer(x) for layer in layers]
    noises = [(delta - mean).flatten() for delta, mean in zip(deltas, means, strict=True)]
    torch.testing.assert_close(means[0], means[2], rtol=0, atol=1e-5)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert noises[one].std() > 0.01
        assert abs(torch.corrcoef(torch.stack([noises[one], noises[other]]))[0, 1]) < 0.6


@pytest.mark.parametrize("space", [None, "output"])
def test_an_adapter_on_lm_head_is_saved_without_the_head(space, tmp_path):
    config = config_of(space)
    config.target_modules = {"q_proj", "lm_head"}
    model = attach_roles(tiny_llama(), config)
    save_adapter(model, META, tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any("lm_head" in name for name in saved)
    assert all("lora_" in name or "abmll_" in name for name in saved)
    assert sum(tensor.numel() for tensor in saved.values()) < 320 * 32, "as many numbers as the head alone has"
