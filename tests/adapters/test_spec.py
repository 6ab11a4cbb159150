"""What a method asks for arrives in PEFT's configuration, all of it."""

from __future__ import annotations

from peft import LoraConfig

from abmll.adapters import AbmllConfig
from abmll.adapters.spec import peft_config
from abmll.core.types import AdapterSpec


def test_a_point_is_a_lora_with_the_methods_dropout():
    config = peft_config(AdapterSpec(dropout=0.25), r=4, lora_alpha=12, target_modules=["q_proj"])
    assert isinstance(config, LoraConfig)
    assert (config.r, config.lora_alpha, config.lora_dropout, config.target_modules) == (4, 12, 0.25, {"q_proj"})


def test_a_gaussian_keeps_its_space_and_offset():
    config = peft_config(AdapterSpec("abmll", -7.0, space="factors"))
    assert isinstance(config, AbmllConfig)
    assert (config.space, config.log_var_offset) == ("factors", -7.0)
    assert vars(peft_config(AdapterSpec("abmll")))["space"] == "output"
