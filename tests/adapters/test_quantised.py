"""ABMLL on a base model quantised by bitsandbytes (optional; it runs on CPUs too)."""

from __future__ import annotations

import pytest
import torch
from adapter_models import adapter_config, base_model, randomise

from abmll.adapters import adapter_parameters, attach_roles
from abmll.core.divergence import stochastic_pass
from abmll.core.errors import AbmllError

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: quantised base models are not tested")


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_is_trained_but_not_merged(bits, ids, tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    base_model().save_pretrained(tmp_path)
    quantisation = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=quantisation, device_map="cpu", dtype=torch.float32
    )
    model = randomise(attach_roles(base, adapter_config()))
    with stochastic_pass(sample=True, prior="meta") as record:
        (model(ids, labels=ids).loss + 1e-9 * record.kl()).backward()
    for name, parameter in adapter_parameters(model, "task").items():
        assert parameter.dtype == torch.float32, name
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    with pytest.raises(AbmllError, match="quantised weight"):
        model.merge_adapter()
