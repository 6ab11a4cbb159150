"""Whatever was saved on whatever architecture loads again: in this package, and its mean in plain PEFT."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel

import abmll
from abmll.core.seeds import seeded
from abmll.core.types import META, TASK
from abmll.methods import METHODS
from abmll.methods.parts.no_model import needs_model
from tests.copied import made_once
from tests.parameters import few_of
from tests.tiny import tiny_tokenizer
from tests.tiny_tasks import tiny_task

GPT = {"n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 256}
LLAMA = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
LONG = {"max_position_embeddings": 256}
OPT = {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "word_embed_proj_dim": 16}
ARCHITECTURES = {
    "llama": LLAMA | LONG | {"num_key_value_heads": 1},
    "qwen2": LLAMA | LONG | {"num_key_value_heads": 2},
    "gpt2": GPT,
    "gpt_neox": LLAMA | LONG,
    "opt": OPT | LONG,
}
KINDS = {
    "point": ("lora", {}),
    "factors": ("abmll-adam", {}),
    "output": ("abmll-output", {}),
    "weight": ("abmll-output", {"space": "weight"}),
}
FEW = {"num_steps": 3, "learning_rate": 0.03, "num_members": 2}


@made_once
def base_of(architecture):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        architecture, **ARCHITECTURES[architecture], vocab_size=320, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def learner_on(architecture, method, options):
    prompt = abmll.PromptFormat(answer="text", max_tokens=200)
    learner = abmll.Learner(
        base_of(architecture), tiny_tokenizer(), method, prompt=prompt, r=2, lora_alpha=4, **options
    )
    with seeded(1):
        for parameter in learner.likelihood.parameters(META).values():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return learner


def assert_plain_peft_reads(folder, learner, architecture):
    """The logits of the folder's plain LoRA are those of TASK, at its mean."""
    ids = torch.randint(3, 320, (2, 9), generator=torch.Generator().manual_seed(0))
    plain = PeftModel.from_pretrained(base_of(architecture), folder / "lora" if (folder / "lora").is_dir() else folder)
    with torch.no_grad():
        expected, found = learner.model(input_ids=ids).logits, plain.eval()(input_ids=ids).logits
        bare = base_of(architecture)(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (found - bare).abs().max() > 1e-3, "the adapter does something"


EVERY = [(architecture, kind) for architecture in ARCHITECTURES for kind in KINDS]
# Every kind on linear layers and on GPT-2's, whose weights are transposed; on the others the one that is the default.
FEW_OF_THEM = [pair for pair in EVERY if pair[0] in {"llama", "gpt2"} or pair[1] == "factors"]


@pytest.mark.parametrize(("architecture", "kind"), few_of(EVERY, FEW_OF_THEM))
def test_every_kind_of_adapter_loads_again_on_every_architecture(architecture, kind, tmp_path):
    method, options = KINDS[kind]
    learner = learner_on(architecture, method, options)
    folder = learner.save(tmp_path / "adapter")
    loaded = abmll.Learner.load(folder, base_of(architecture), tiny_tokenizer())
    for role in (META, TASK):
        found = loaded.likelihood.parameters(role)
        for name, expected in learner.likelihood.parameters(META).items():
            assert torch.equal(found[name], expected)
    assert_plain_peft_reads(folder, loaded, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if needs_model(METHODS[name]())])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_posterior_loads_again_on_every_architecture(architecture, method, tmp_path):
    known = METHODS[method].__annotations__
    learner = learner_on(architecture, method, {key: value for key, value in FEW.items() if key in known})
    rows = tiny_task("new", 12).examples
    posterior = learner.adapt(rows[:8])
    expected = posterior.predict(rows[8:], 3).samples
    folder = posterior.save(tmp_path / "new")
    loaded = abmll.Learner.load(folder, base_of(architecture), tiny_tokenizer())
    again = loaded.posterior()
    found = again.predict(rows[8:], 3).samples
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=0, atol=1e-5)
    if posterior.mean() is not None:
        again.predict(rows[:1], 0)  # which leaves TASK at the mean, where the draws left it at the last of them
        assert_plain_peft_reads(folder, loaded, architecture)
