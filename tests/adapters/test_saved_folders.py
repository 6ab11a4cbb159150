"""Folders written by PEFT's own `save_pretrained`, and what reads them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import peft
import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from abmll.adapters import AbmllConfig, adapter_parameters
from abmll.adapters.abmll import AbmllLayer
from tests.adapters.adapter_models import adapter_config, base_model, randomise

EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 1e-6}


def adapted(**arguments):
    return randomise(get_peft_model(base_model(), adapter_config(**arguments))).eval()


def test_auto_model_loads_base_and_adapter(base_folder, logits, tmp_path):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base_folder), adapter_config())
    randomise(model).save_pretrained(tmp_path / "adapter")
    for folder in ("adapter", "adapter/lora"):  # both remember their base model
        config = json.loads((tmp_path / folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(base_folder)
        assert config["inference_mode"] is True
        loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / folder)
        torch.testing.assert_close(logits(loaded.eval()), logits(model.eval()), **EXACT)


def test_transformers_own_loader_reads_it(logits, tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path)
    plain = base_model()
    plain.load_adapter(str(tmp_path))
    assert torch.equal(logits(plain.eval()), logits(model))


def test_several_adapters_are_saved_each_with_its_lora(logits, tmp_path):
    model = adapted()
    model.add_adapter("second", adapter_config(r=2, log_var_offset=-4.0))
    randomise(model, seed=9)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base_model(), tmp_path, adapter_name="renamed").eval()
    loaded.load_adapter(tmp_path / "second", "again")
    for saved, name in (("default", "renamed"), ("second", "again")):
        model.set_adapter(saved)
        loaded.set_adapter(name)
        assert torch.equal(logits(loaded), logits(model))
        folder = tmp_path / "lora" if saved == "default" else tmp_path / "second" / "lora"
        lora = PeftModel.from_pretrained(base_model(), folder).eval()
        torch.testing.assert_close(logits(lora), logits(model), **EXACT)
    assert vars(loaded.peft_config["again"])["log_var_offset"] == -4.0


def test_modules_to_save_are_kept_in_both_forms(logits, tmp_path):
    model = adapted(modules_to_save=["lm_head"])
    head = model.base_model.model.lm_head.modules_to_save["default"].weight
    head.data += torch.randn_like(head)
    model.save_pretrained(tmp_path)
    assert not torch.allclose(logits(model), logits(adapted()), atol=1e-2)
    for folder in (tmp_path, tmp_path / "lora"):
        loaded = PeftModel.from_pretrained(base_model(), folder).eval()
        torch.testing.assert_close(logits(loaded), logits(model), **EXACT)


@pytest.mark.parametrize(
    "arguments",
    [
        {"layers_to_transform": [1]},
        {"layers_to_transform": 0, "layers_pattern": "layers"},
        {"exclude_modules": ["layers.0.mlp.down_proj"]},
        {"target_modules": "all-linear"},
        {"target_modules": None},
    ],
)
def test_every_way_to_choose_layers_survives(arguments, logits, tmp_path, recwarn):
    model = adapted(**arguments)
    model.save_pretrained(tmp_path)
    names = {n.removesuffix(".abmll_mean_A") for n in load_file(tmp_path / "adapter_model.safetensors")}
    assert {n for n, m in model.named_modules() if isinstance(m, AbmllLayer)} == {
        n for n in names if ".abmll_" not in n
    }
    loaded = PeftModel.from_pretrained(base_model(), tmp_path).eval()
    assert torch.equal(logits(loaded), logits(model))
    lora = PeftModel.from_pretrained(base_model(), tmp_path / "lora").eval()
    torch.testing.assert_close(logits(lora), logits(model), **EXACT)
    assert not [w for w in recwarn if "missing adapter keys" in str(w.message)]


def test_a_regular_expression_becomes_a_list_in_the_lora(logits, tmp_path):
    model = adapted(target_modules=r".*layers\.1\..*(q|v)_proj")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "v_proj"]
    lora = PeftModel.from_pretrained(base_model(), tmp_path / "lora").eval()
    torch.testing.assert_close(logits(lora), logits(model), **EXACT)


def test_the_lora_holds_nothing_that_servers_refuse(tmp_path):
    adapted().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert {name.split(".lora_")[1] for name in tensors} == {"A.weight", "B.weight"}
    assert all(name.startswith("base_model.model.model.layers.") for name in tensors)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    for key in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out"):
        assert not config[key], key
    assert config["bias"] == "none"


def test_the_scaling_is_folded_into_B(tmp_path):
    model = adapted(r=3, lora_alpha=4.5)
    model.save_pretrained(tmp_path)
    ours = load_file(tmp_path / "adapter_model.safetensors")
    lora = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    for name in [n for n in ours if n.endswith("abmll_mean_A")]:
        module = name.removesuffix(".abmll_mean_A")
        assert torch.equal(lora[f"{module}.lora_A.weight"], ours[name])
        assert torch.equal(lora[f"{module}.lora_B.weight"], 1.5 * ours[f"{module}.abmll_mean_B"])


def test_half_and_double_precision_adapters_are_exported(logits, tmp_path):
    for dtype, stored in ((torch.bfloat16, torch.bfloat16), (torch.float64, torch.float32)):
        model = get_peft_model(base_model(dtype=dtype), adapter_config(), autocast_adapter_dtype=False)
        randomise(model).eval().save_pretrained(tmp_path / str(dtype))
        tensors = load_file(tmp_path / str(dtype) / "lora" / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {stored}
    lora = PeftModel.from_pretrained(base_model(dtype=torch.float64), tmp_path / "torch.float64" / "lora").eval()
    torch.testing.assert_close(logits(lora), logits(model), **EXACT)


def test_equal_adapters_are_equal_files(tmp_path):
    for name in ("one", "two"):
        torch.manual_seed(0)
        adapted(target_modules="all-linear").save_pretrained(tmp_path / name)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*")]
    assert len(files) == 5  # two in each form, and PEFT's README.md
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_a_pickle_is_written_without_lora_and_says_so(tmp_path):
    with pytest.warns(UserWarning, match="safe_serialization=True"):
        adapted().save_pretrained(tmp_path, safe_serialization=False)
    assert not (tmp_path / "lora").exists()


def test_pefts_own_conversion_to_lora_agrees(logits, tmp_path):
    model = adapted()
    peft.save_as_lora(tmp_path, model, rank=3)
    lora = PeftModel.from_pretrained(base_model(), tmp_path).eval()
    torch.testing.assert_close(logits(lora), logits(model), rtol=0.0, atol=1e-5)


def test_fully_described_adapter_without_task_type(logits, tmp_path):
    model = randomise(get_peft_model(base_model(), AbmllConfig(target_modules=["q_proj"]))).eval()
    model.save_pretrained(tmp_path)
    for folder in (tmp_path, tmp_path / "lora"):
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["auto_mapping"]["base_model_class"] == "LlamaForCausalLM"
        loaded = PeftModel.from_pretrained(base_model(), folder).eval()
        torch.testing.assert_close(logits(loaded), logits(model), **EXACT)


def test_parameters_have_the_names_of_the_file(tmp_path):
    model = adapted(modules_to_save=["lm_head"])
    model.save_pretrained(tmp_path)
    assert adapter_parameters(model, "default").keys() == load_file(tmp_path / "adapter_model.safetensors").keys()


PLAIN = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "abmll":
            raise ModuleNotFoundError("abmll is not installed here")
sys.meta_path.insert(0, Absent())
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sys.argv[1]), sys.argv[2]).eval()
torch.save(model(torch.load(sys.argv[3])).logits.detach(), sys.argv[4])
assert "abmll" not in sys.modules
"""


@pytest.mark.slow
def test_plain_peft_without_this_package_loads_the_lora(base_folder, ids, logits, tmp_path):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base_folder), adapter_config())
    randomise(model).eval().save_pretrained(tmp_path / "adapter")
    torch.save(ids, tmp_path / "ids")
    paths = [base_folder, tmp_path / "adapter" / "lora", tmp_path / "ids", tmp_path / "logits"]
    subprocess.run([sys.executable, "-c", PLAIN, *map(str, paths)], check=True, timeout=120)
    torch.testing.assert_close(torch.load(tmp_path / "logits"), logits(model), **EXACT)
