"""ABMLL on a base model quantised by bitsandbytes (optional; it runs on CPUs too): `make test-quantised`."""

from __future__ import annotations

import pytest
import torch

from abmll.adapters import adapter_parameters, attach_roles
from abmll.core.errors import AbmllError
from abmll.gaussian.stochastic_pass import stochastic_pass
from tests.adapters.adapter_models import adapter_config, randomise
from tests.tiny import tiny_llama

pytest.importorskip("bitsandbytes", reason="runs by `make test-quantised`, which installs bitsandbytes into build/")


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_is_trained_but_not_merged(bits, ids, tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    tiny_llama(hidden=64).save_pretrained(tmp_path)  # on a processor bitsandbytes packs 32 output units at a time
    quantisation = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=quantisation, device_map="cpu", dtype=torch.float32
    )
    model = randomise(attach_roles(base, adapter_config()))
    assert any("bitsandbytes" in type(module).__module__ for module in model.modules())
    with stochastic_pass(sample=True, prior="meta") as record:
        loss = model(ids, labels=ids).loss
        assert record.kl() > 0
        (loss + 1e-9 * record.kl()).backward()
    for name, parameter in adapter_parameters(model, "task").items():
        assert parameter.dtype == torch.float32, name
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    with pytest.raises(AbmllError, match="quantised weight"):
        model.merge_adapter()
