"""What a method asks for arrives in PEFT's configuration, all of it."""

from __future__ import annotations

import pytest
from peft import LoraConfig
from torch import nn

from abmll.adapters import AbmllConfig
from abmll.adapters.names import check_target_modules
from abmll.adapters.spec import peft_config
from abmll.core.errors import AbmllError
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


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({"q_projection_of_the_first_layer": nn.Linear(2, 2)})])


@pytest.mark.parametrize(
    "pattern",
    ["((.+))+!", "(a|aa|.)+!", "(.+){9}!", "(?:.|..)*!", ".*.*.*.*.*.*!", ".{0,9}" * 6, "l?a?y?e?r?s?" * 9],
)
def test_an_expression_that_may_take_for_ever_is_not_matched(pattern):
    with pytest.raises(AbmllError, match="may take for ever"):
        check_target_modules(Tiny(), LoraConfig(target_modules=pattern))


@pytest.mark.parametrize(
    "pattern",
    [
        r".*layers\.(0|1)\..*(q|v)_proj.*",
        r"(?!.*visual).*\.\d+\.[qkv]_proj\w+",
        r".*\.layers?\.\d+\..*?q_.*|.*first_layer",
    ],
)
def test_ordinary_expressions_are_taken(pattern):
    check_target_modules(Tiny(), LoraConfig(target_modules=pattern))
