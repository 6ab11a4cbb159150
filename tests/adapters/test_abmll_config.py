"""What the tuner refuses, and what it says about it."""

from __future__ import annotations

import pickle

import pytest
import torch
from peft import PeftConfig, get_peft_model
from peft.utils import PeftType
from torch import nn

from abmll.adapters import AbmllConfig, attach_roles, register
from abmll.adapters.abmll import AbmllLayer
from abmll.core.errors import AbmllError
from tests.adapters.adapter_models import adapter_config, base_model, randomise


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r": 0}, "AbmllConfig.r must be a positive integer.*got 0"),
        ({"r": -2}, "got -2"),
        ({"r": 2.5}, "got 2.5"),
        ({"r": True}, "got True"),
        ({"lora_alpha": 0}, "lora_alpha must be positive.*got 0"),
        ({"lora_alpha": float("inf")}, "got inf"),
        ({"log_var_offset": float("nan")}, "log_var_offset must be finite"),
        ({"log_var_bound": 0.0}, "log_var_bound must be None or a positive, finite number of nats"),
        ({"log_var_bound": 4.0, "space": "weight"}, "needs space='output'; got 4.0 with space='weight'"),
        ({"space": "outputs"}, "unknown AbmllConfig.space 'outputs'. Did you mean 'output'"),
        ({"space": "weights"}, "Did you mean 'weight'"),
        ({"bias": "all"}, "bias='all' is not supported.*bias='none'"),
        ({"target_modules": ".*q_proj", "layers_to_transform": [0]}, "layers_to_transform cannot be combined"),
        ({"target_modules": ".*q_proj", "layers_pattern": "layers"}, "layers_pattern cannot be combined"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(AbmllError, match=message):
        AbmllConfig(**arguments)


def test_defaults_are_the_published_ones():
    config = AbmllConfig()
    assert (config.r, config.lora_alpha, config.scaling, config.log_var_offset) == (8, 16, 2.0, -20.0)


def test_config_survives_saving_pickling_and_registering_twice(tmp_path):
    register()
    assert list(PeftType).count("ABMLL") == 1  # type: ignore[arg-type]
    config = adapter_config(target_modules=["v_proj", "q_proj"], log_var_offset=-3.5, exclude_modules=["lm_head"])
    config.save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert loaded == config == pickle.loads(pickle.dumps(config))
    assert type(loaded) is AbmllConfig
    assert loaded.peft_type is PeftType.ABMLL  # type: ignore[attr-defined]
    assert [path.name for path in tmp_path.iterdir()] == ["adapter_config.json"]  # no weights, so no lora/


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_porj", "v_proj"], "'q_porj', which no module of this LlamaForCausalLM has. Did you mean 'q_proj'"),
        (["zzz"], "Layers that can be adapted: down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj"),
        ("q_proj", "regular expression that matches no module.*whole path.*q_proj"),
        ([], "target_modules is empty"),
    ],
)
def test_target_modules_that_match_nothing_are_refused(targets, message):
    model = base_model()
    with pytest.raises(AbmllError, match=message):
        get_peft_model(model, adapter_config(target_modules=targets))
    assert not any(isinstance(module, AbmllLayer) for module in model.modules())


def test_an_unknown_architecture_needs_target_modules():
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4)

        def forward(self, x):
            return self.first(x)

    with pytest.raises(AbmllError, match=r"no default target_modules.*'all-linear' or to some of: first"):
        get_peft_model(Small(), AbmllConfig())
    assert get_peft_model(Small(), AbmllConfig(target_modules=["first"]))(torch.ones(1, 4)).shape == (1, 4)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Embedding(5, 4), "'layer', a torch.nn.modules.sparse.Embedding: only torch.nn.Linear"),
        (nn.Conv1d(4, 4, 1), "torch.nn.modules.conv.Conv1d"),
        (nn.MultiheadAttention(4, 2).out_proj, "its weight is used without calling it"),
    ],
)
def test_modules_that_cannot_be_adapted_are_named(module, message):
    model = nn.ModuleDict({"layer": module, "other": nn.Linear(4, 4)})
    with pytest.raises(AbmllError, match=message):
        get_peft_model(model, AbmllConfig(target_modules=["layer", "other"]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("layers", "'layers' is also the name of a module of this model"),
        ("q_proj", "'model.layers.0.self_attn.q_proj'"),
        ("model", "also the name of a module"),
        ("base_layer", "PEFT's own wrapper"),
        ("keys", "taken by torch.nn.ParameterDict"),
        ("my.adapter", "letters, digits"),
        ("", "letters, digits"),
    ],
)
def test_adapter_names_that_peft_would_save_wrongly_are_refused(name, message):
    with pytest.raises(AbmllError, match=message):
        get_peft_model(base_model(), adapter_config(), adapter_name=name)
    model = get_peft_model(base_model(), adapter_config())
    with pytest.raises(AbmllError, match=message):
        model.add_adapter(name, adapter_config())


def test_names_inside_other_adapters_are_free():
    model = get_peft_model(base_model(), adapter_config(modules_to_save=["lm_head"]), adapter_name="first")
    model.add_adapter("second", adapter_config(modules_to_save=["lm_head"]))
    model.delete_adapter("second")
    model.add_adapter("second", adapter_config(modules_to_save=["lm_head"]))
    assert list(model.peft_config) == ["first", "second"]


def test_another_adapter_for_each_row_is_refused_not_ignored(ids):
    model = randomise(attach_roles(base_model(), adapter_config()))
    with pytest.raises(AbmllError, match=r"adapter_names.*set_adapter"):
        model(ids, adapter_names=["meta", "task", "meta"])
