"""With the frozen trunk computed once for each row, everything is what the ordinary pass gives."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import abmll
from abmll.adapters.blocks import below, blocks_of, untouched
from abmll.core.errors import AbmllError
from abmll.core.params import train_only
from abmll.core.types import META, TASK, Example
from abmll.language import PromptFormat
from abmll.language.trunk import RowStore, Trunk
from tests.parameters import few_of
from tests.tiny import tiny_llama, tiny_tokenizer

EXAMPLES = [
    Example("The film was good.", ("negative", "positive"), 1, "What is the sentiment?"),
    Example("It was bad, and the end was worse than I feared.", ("yes", "no", "it is not true"), 0, "Good?"),
    Example("the cat sat", ("A", "not a cat at all", "B", "maybe the mat"), 2),
]
SIZE = {"vocab_size": 320, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 4}
LLAMA_LIKE = {**SIZE, "intermediate_size": 64, "num_key_value_heads": 2, "pad_token_id": 0, "head_dim": 8}
ARCHITECTURES = {
    "llama": ("LlamaConfig", LLAMA_LIKE),
    "gpt2": ("GPT2Config", {"vocab_size": 320, "n_embd": 32, "n_head": 4, "n_layer": 4, "n_positions": 128}),
    "opt": ("OPTConfig", {**SIZE, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 128}),
    "gpt-neox": ("GPTNeoXConfig", {**SIZE, "intermediate_size": 64}),
    "mistral": ("MistralConfig", {**LLAMA_LIKE, "sliding_window": 6}),
    "gemma2": ("Gemma2Config", {**LLAMA_LIKE, "sliding_window": 6}),
    "gemma3": ("Gemma3TextConfig", {**LLAMA_LIKE, "sliding_window": 6, "sliding_window_pattern": 2}),
}

WINDOWED = ("mistral", "gemma2", "gemma3")


def trunk_of(learner):
    return learner.likelihood._packed.trunk


def model_of(architecture):
    import transformers

    name, config = ARCHITECTURES[architecture]
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**config)).eval()


def learner_of(make, method="abmll-output", *, upper_layers=2, answer="text", store=None, trunk=True, **options):
    """With a trunk of its own, or with the ordinary pass."""
    prompt = PromptFormat(answer=answer)
    own: dict[str, Any] = {"r": 2, "lora_alpha": 4, "target_modules": ["v_proj", "down_proj"]} | options
    learner = abmll.Learner(make(), tiny_tokenizer(), method, prompt=prompt, upper_layers=upper_layers, **own)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for role in (META, TASK):
            for tensor in learner.likelihood.parameters(role).values():
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    assert trunk_of(learner) is not None
    if trunk:
        trunk_of(learner)._store = RowStore() if store is None else store
    else:  # still frozen, but run in every pass
        trunk_of(learner)._enterable = {False: False, True: False}
    return learner


def pair(make, method="abmll-output", **options):
    """The same learner twice: with a trunk of its own, and with the ordinary pass."""
    return [learner_of(make, method, trunk=trunk, **options) for trunk in (True, False)]


def gradients(likelihood, **asked):
    train_only(likelihood, TASK)
    phi = likelihood.parameters(TASK)
    torch.manual_seed(3)
    with likelihood.terms(EXAMPLES, **asked) as terms:
        loss = terms.nll.sum() + 1e-3 * terms.kl
        loss.backward()
    found = {name: tensor.grad for name, tensor in phi.items() if tensor.grad is not None}
    return terms.nll.detach(), terms.kl.detach(), found


def assert_like(found, expected, tolerance=1e-4):
    """Equal but for rounding, measured by the size of what is expected."""
    finite = expected.isfinite()
    assert torch.equal(finite, found.isfinite())
    difference, size = (found - expected)[finite].norm(), expected[finite].norm()
    assert difference <= tolerance * size, f"{difference:.2e} beside {size:.2e}"


def count_runs(learner):
    """How many times the lowest block computes."""
    runs = []
    block = blocks_of(learner.model.get_base_model()).modules[0]
    inner = next(module for module in block.modules() if not list(module.children()))
    inner.register_forward_hook(lambda *_: runs.append(1))
    return runs


@pytest.mark.parametrize("architecture", few_of(ARCHITECTURES, ["llama", "gpt2", "gemma3"]))
def test_values_gradients_and_samples_are_those_of_the_ordinary_pass(architecture):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        learner, ordinary = pair(lambda: model_of(architecture), target_modules="all-linear")
        predicted = learner.likelihood.choice_log_probs(EXAMPLES)
    windowed = architecture in WINDOWED  # these take a row a choice
    assert trunk_of(learner)._enterable == {False: True, True: not windowed}
    assert len(trunk_of(learner)._store) == (6 if windowed else 3)
    assert_like(predicted, ordinary.likelihood.choice_log_probs(EXAMPLES))
    alone = EXAMPLES[:1]  # choices of one token: the model makes the mask, with its sliding windows
    assert_like(learner.likelihood.choice_log_probs(alone), ordinary.likelihood.choice_log_probs(alone))
    draws = []
    for one in (learner, ordinary):
        torch.manual_seed(5)
        draws.append(one.likelihood.choice_log_probs(EXAMPLES, num_samples=3))
    assert_like(*draws)
    for asked in ({}, {"sample": True, "kl": "closed_form"}):
        nll, kl, grads = gradients(learner.likelihood, **asked)
        expected_nll, expected_kl, expected = gradients(ordinary.likelihood, **asked)
        assert_like(nll, expected_nll)
        assert_like(kl, expected_kl)
        assert grads.keys() == expected.keys() != set()
        for name, gradient in grads.items():
            assert_like(gradient, expected[name], 1e-3)


@pytest.mark.parametrize(
    ("method", "answer"),
    few_of(
        [
            *(("lora", "text"), ("maml", "text"), ("laplace", "letters"), ("abmll", "text"), ("abmll-adam", "text")),
            ("abmll-output", "letters"),
        ],
        [("maml", "text"), ("laplace", "letters"), ("abmll", "text"), ("abmll-adam", "text")],
    ),
)
def test_whole_adaptations_are_equal(method, answer):
    options = {"abmll": {}, "abmll-adam": {"num_steps": 2}}.get(method, {"num_steps": 2, "learning_rate": 0.01})
    learner, ordinary = pair(lambda: tiny_llama(layers=4), method, answer=answer, **options)
    for width in (32, 64, 128):  # what the model bears is found out first, by passes of its own
        learner.likelihood._packed.bearing(width)
    runs = count_runs(learner)
    posteriors = [one.adapt(EXAMPLES) for one in (learner, ordinary)]
    draws = []
    for posterior in posteriors:
        torch.manual_seed(5)
        draws.append(posterior.predict(EXAMPLES, 2).log_probs)
    assert_like(*draws, 1e-3)
    trials = 2 * (1 + 3)  # with and without several choices: a batch, then its three rows alone
    assert len(runs) <= trials + len(EXAMPLES)


def test_a_row_is_computed_once_whatever_passes_follow():
    learner = learner_of(lambda: tiny_llama(layers=4))
    learner.likelihood.choice_log_probs(EXAMPLES)
    runs = count_runs(learner)
    for _ in range(2):
        learner.likelihood.choice_log_probs(EXAMPLES[::-1], num_samples=4)
        gradients(learner.likelihood, sample=True, kl="closed_form")
        learner.adapt_many([EXAMPLES[:2], EXAMPLES[1:]])
    assert runs == []
    learner.likelihood.choice_log_probs([*EXAMPLES, EXAMPLES[0]._replace(prompt="new"), EXAMPLES[1]])
    assert len(runs) == 1


def test_a_row_has_the_same_bits_whatever_batch_it_is_met_in_first():
    stores = [RowStore(), RowStore()]
    for store, examples in zip(stores, (EXAMPLES, EXAMPLES[1:2]), strict=True):  # both with several choices
        learner = learner_of(lambda: tiny_llama(layers=4), store=store)
        learner.likelihood.choice_log_probs(examples)
    (key,) = stores[1]._rows
    assert torch.equal(stores[0]._rows[key], stores[1]._rows[key])


def test_learners_on_the_same_weights_share_rows_and_others_do_not():
    store = RowStore()
    first = learner_of(lambda: tiny_llama(layers=4), store=store)
    same = learner_of(lambda: tiny_llama(layers=4), "lora", store=store)
    other = learner_of(lambda: tiny_llama(layers=4, seed=1), store=store)
    deeper = learner_of(lambda: tiny_llama(layers=4), upper_layers=1, store=store)
    for learner, rows in ((first, 3), (same, 3), (other, 6), (deeper, 9)):
        learner.likelihood.choice_log_probs(EXAMPLES)
        assert len(store) == rows


def test_weights_that_changed_are_noticed():
    learner, ordinary = pair(lambda: tiny_llama(layers=4))
    before = learner.likelihood.choice_log_probs(EXAMPLES)
    for one in (learner, ordinary):
        with torch.no_grad():
            one.model.get_base_model().model.layers[0].mlp.down_proj.weight.mul_(3)
    after = learner.likelihood.choice_log_probs(EXAMPLES)
    assert (after - before)[after.isfinite()].abs().max() > 1e-3
    assert_like(after, ordinary.likelihood.choice_log_probs(EXAMPLES))


def test_gradient_checkpointing_changes_nothing():
    learner, ordinary = pair(lambda: tiny_llama(layers=4))
    learner.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    nll, kl, grads = gradients(learner.likelihood, sample=True, kl="closed_form")
    expected_nll, expected_kl, expected = gradients(ordinary.likelihood, sample=True, kl="closed_form")
    assert_like(nll, expected_nll)
    assert_like(kl, expected_kl)
    for name, gradient in grads.items():
        assert_like(gradient, expected[name], 1e-3)


def test_the_store_holds_its_bound_and_forgets_what_was_used_longest_ago():
    store = RowStore(capacity=3 * 40)
    for key in (b"a", b"b", b"c"):
        store.put(key, torch.zeros(10))
    assert store.get(b"a") is not None
    store.put(b"d", torch.zeros(10))
    assert store.get(b"b") is None
    assert len(store) == 3
    store.put(b"d", torch.zeros(20))  # in the place of the smaller one
    assert (len(store), store.num_bytes) == (2, 120)
    store.put(b"e", torch.zeros(1000))
    assert (len(store), store.num_bytes) == (0, 0)


def test_a_store_smaller_than_a_batch_gives_the_same():
    learner, ordinary = pair(lambda: tiny_llama(layers=4), store=RowStore(capacity=9500))
    found = learner.likelihood.choice_log_probs(EXAMPLES)
    assert 0 < trunk_of(learner)._store.num_bytes <= 9500
    assert_like(found, ordinary.likelihood.choice_log_probs(EXAMPLES))


class Remembering(nn.Module):
    """A block that adds what the first one was given, as models do that share something between blocks."""

    def __init__(self, block, first, memory):
        super().__init__()
        self.block, self.first, self.memory = block, first, memory

    def forward(self, hidden, *arguments, **named):
        if self.first:
            self.memory["input"] = hidden
        return self.block(hidden, *arguments, **named) + 0.5 * self.memory["input"]


def test_a_model_that_cannot_be_entered_in_the_middle_runs_whole_and_says_so():
    def remembering():
        model: Any = tiny_llama(layers=4)
        memory: dict[str, Any] = {}
        for i, block in enumerate(model.model.layers):
            model.model.layers[i] = Remembering(block, i == 0, memory)
        return model

    learner, ordinary = pair(remembering)
    with pytest.warns(UserWarning, match=r"lower 2 blocks .* differ by"):
        found = learner.likelihood.choice_log_probs(EXAMPLES)
    assert len(trunk_of(learner)._store) == 0
    assert torch.equal(found, ordinary.likelihood.choice_log_probs(EXAMPLES))


def test_a_trunk_that_is_trained_runs_in_every_pass_and_says_so():
    learner = learner_of(lambda: tiny_llama(layers=4))
    learner.model.get_base_model().model.layers[1].mlp.down_proj.weight.requires_grad_(True)
    with pytest.warns(UserWarning, match="being trained"):
        learner.likelihood.choice_log_probs(EXAMPLES)
    assert len(trunk_of(learner)._store) == 0


def test_adapters_that_reach_the_lowest_block_have_no_trunk():
    learner = abmll.Learner(tiny_llama(layers=4), tiny_tokenizer(), upper_layers=4)
    assert trunk_of(learner) is None
    assert untouched(learner.model.get_base_model(), blocks_of(learner.model.get_base_model())) == 0
    assert trunk_of(abmll.Learner(tiny_llama(layers=4), tiny_tokenizer())) is None


def test_an_adapter_on_the_embeddings_has_no_trunk_and_one_on_the_head_has():
    from peft import LoraConfig

    from abmll.adapters import attach_roles

    def size_with(*targets):
        model = attach_roles(tiny_llama(layers=4), LoraConfig(r=2, target_modules=list(targets)))
        trunk = Trunk.of(model, lambda batch: batch, lambda branching: None)  # type: ignore[arg-type, return-value]
        return trunk and trunk.size

    assert size_with("layers.3.mlp.up_proj", "embed_tokens") is None
    assert size_with("layers.3.mlp.up_proj", "lm_head") == 3
    assert size_with("lm_head") == 3  # the last block is always run


def test_upper_layers_adapts_the_last_blocks_for_any_way_to_name_modules():
    for targets in ("all-linear", ["q_proj", "down_proj"], r".*\.(q_proj|lm_head)"):
        learner = abmll.Learner(tiny_llama(layers=4), tiny_tokenizer(), r=2, target_modules=targets, upper_layers=1)
        adapted = {name.split(".layers.")[1][0] for name in learner.likelihood.parameters(TASK) if ".layers." in name}
        assert adapted == {"3"}
        assert trunk_of(learner).size == 3


@pytest.mark.parametrize("count", [0, 5, True, -1])
def test_more_upper_layers_than_blocks_are_refused(count):
    with pytest.raises(AbmllError, match=r"upper_layers = .* 4 blocks"):
        below(tiny_llama(layers=4), count)
    with pytest.raises(AbmllError, match="could not be told"):
        below(nn.Linear(2, 2), 1)


def test_a_saved_learner_keeps_its_upper_layers(tmp_path):
    learner = learner_of(lambda: tiny_llama(layers=4), "abmll-adam", upper_layers=1)
    posterior = learner.adapt(EXAMPLES)
    learner.save(tmp_path / "adapter", posterior=posterior)
    loaded = abmll.Learner.load(tmp_path / "adapter", tiny_llama(layers=4), tiny_tokenizer())
    assert loaded.upper_layers == 1
    assert trunk_of(loaded).size == 3
    assert_like(loaded.posterior().predict(EXAMPLES, 0).log_probs, posterior.predict(EXAMPLES, 0).log_probs)
    from peft import PeftModel

    plain = PeftModel.from_pretrained(tiny_llama(layers=4), tmp_path / "adapter" / "lora")
    assert not any("layers.0" in name for name in plain.state_dict() if "lora_A" in name)
