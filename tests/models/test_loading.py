"""load(): whatever a name means, and dtype = "auto": the same from Python and from a run file."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from abmll import Learner, PromptFormat, models
from abmll.config import parse_config
from abmll.core.errors import AbmllError
from abmll.models import precision
from abmll.models.loading import _told
from tests.parameters import few_of
from tests.tiny import tiny_llama, tiny_tokenizer
from tests.tiny_tasks import tiny_tasks

HALF = torch.bfloat16


@pytest.fixture(scope="module")
def half_model(tmp_path_factory):
    """A folder with a model whose own type is bfloat16."""
    folder = tmp_path_factory.mktemp("half")
    tiny_llama(layers=1, dtype=HALF).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def processor(monkeypatch):
    """Says whether the processor has arithmetic for bfloat16."""

    def has(answer: bool) -> None:
        monkeypatch.setattr(precision, "_processor_has_bfloat16", lambda: answer)

    return has


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_the_models_own_type_where_the_processor_computes_it(native, expected, half_model, processor, capsys):
    from abmll.core import notices

    notices._told.clear()
    processor(native)
    model, _ = models.load(str(half_model))
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    (line,) = capsys.readouterr().err.splitlines()
    assert f"computing in {str(expected).removeprefix('torch.')}" in line
    models.load(str(half_model))
    assert capsys.readouterr().err == "", "told once"


@pytest.mark.parametrize("asked", ["float32", "bfloat16", "float16"])
def test_a_type_that_is_named_is_taken_and_nothing_is_told(asked, half_model, capsys):
    model, _ = models.load(str(half_model), dtype=asked)
    assert model.dtype == getattr(torch, asked)
    assert capsys.readouterr().err == ""


def test_what_devices_compute(processor, monkeypatch):
    processor(False)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert not precision.computes(torch.bfloat16, cpu)
    assert not precision.computes(torch.float16, cpu)
    assert precision.computes(torch.float16, cuda)
    assert precision.chosen_type(torch.float64, cpu) == torch.float64, "only half types are replaced"
    asked = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **how: asked.append(how) or False)
    assert precision.chosen_type(torch.bfloat16, cuda) == torch.float32
    assert asked == [{"including_emulation": False}]


def test_the_processors_answer_is_a_flag_of_torch():
    """The private names that are asked exist in the torch that the tests run with."""
    assert all(hasattr(torch.cpu, flag) for flag in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    assert isinstance(precision._processor_has_bfloat16(), bool)


def test_a_wrong_type_and_a_model_that_is_not_there_are_told(tmp_path):
    with pytest.raises(AbmllError, match=r"dtype is 'int3'\. Choose one of: auto, float32, bfloat16, float16"):
        models.load("default", dtype="int3")
    with pytest.raises(AbmllError, match=r"'smolm2' .*: offline\. Did you mean 'smollm2'"), _told("model", "smolm2"):
        raise OSError("offline")
    with pytest.raises(AbmllError, match=r"cannot load model '.*nothing' .* a registered name \(\"smollm2\"\)"):
        models.load(str(tmp_path / "nothing"))
    with pytest.raises(AbmllError, match=r"cannot load the tokenizer of model '.*nothing'"):
        models.load_tokenizer(str(tmp_path / "nothing"))
    with pytest.raises(AbmllError, match="a registered model of one revision"):
        models.load("smollm2", revision="main")


@pytest.mark.parametrize("name", ["default", "abmll/default"])
def test_the_embedded_model_has_a_name_too(name):
    model, tokenizer = models.load(name)
    assert model.name_or_path == "abmll/default"
    assert not model.training
    assert len(models.load_tokenizer(name)) == len(tokenizer)


@pytest.mark.parametrize("native", few_of([True, False], [True]))
def test_python_and_a_run_file_give_the_same_numbers(native, half_model, processor, tmp_path):
    """Two outer steps from Python and from the command line's own function: the same adapter, bit for bit."""
    from abmll.pipeline import build
    from abmll.pipeline.train import train_learner

    processor(native)
    tasks = tiny_tasks(2)
    config = parse_config(
        {
            "output": str(tmp_path / "run"),
            "model": {"name": str(half_model)},
            "prompt": {"answer": "text"},
            "episodes": {"support_size": 4, "query_size": 4},
            "training": {"num_steps": 2},
        }
    )
    from abmll.data.suite import Suite

    run = build.build_learner(config, "abmll", seed=0)
    train_learner(run, Suite("own", tuple(tasks), (), ()), config, tmp_path / "run", 0, resume=False, progress=False)

    learner = Learner(*models.load(str(half_model)), "abmll", prompt=PromptFormat(answer="text"))
    learner.meta_train(tasks, num_steps=2, support_size=4, query_size=4, progress=False)
    learner.save(tmp_path / "python")
    one, other = (load_file(tmp_path / where / "adapter_model.safetensors") for where in ("run/adapter", "python"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert any(bool((tensor != 0).any()) for tensor in one.values())


def test_a_learner_by_name_computes_in_the_same_type(half_model, processor):
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        processor(native)
        assert Learner(str(half_model), method="lora").model.get_base_model().dtype == expected


def test_a_run_does_not_go_on_in_another_type(half_model, processor, tmp_path):
    """ "auto" came to bfloat16 when it began; resumed where there is no arithmetic for it, the run would be another."""
    from abmll.data.suite import Suite
    from abmll.pipeline import build
    from abmll.pipeline.train import train_learner

    fields = {"output": str(tmp_path), "model": {"name": str(half_model)}, "prompt": {"answer": "text"}}
    fields |= {"episodes": {"support_size": 4, "query_size": 4}, "training": {"num_steps": 1, "checkpoint_every": 1}}
    suite = Suite("own", tuple(tiny_tasks(2)), (), ())
    for native, resume in ((True, False), (False, True)):
        processor(native)
        config = parse_config(fields)
        learner = build.build_learner(config, "reptile", seed=0)
        if not resume:
            train_learner(learner, suite, config, tmp_path, 0, resume=resume, progress=False)
            continue
        with pytest.raises(AbmllError, match="dtype"):
            train_learner(learner, suite, config, tmp_path, 0, resume=resume, progress=False)


@pytest.fixture
def folder(tmp_path):
    """A model's folder of its own, to be damaged."""
    tiny_llama(layers=1).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


DOUBLED = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}


def changed(folder, name="config.json", /, **fields):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def without(folder, part):
    path = folder / "model.safetensors"
    save_file({name: t.clone() for name, t in load_file(path).items() if part not in name}, path, {"format": "pt"})


DAMAGES = {
    "a tensor is missing": (
        lambda f: without(f, "q_proj"),
        "lack 1 of its tensors, .* 'model.layers.0.self_attn.q_pro",
    ),
    "a layer is missing": (lambda f: changed(f, num_hidden_layers=2), "lack 9 of its tensors, the first .*layers.1"),
    "a width": (lambda f: changed(f, hidden_size=64), "cannot load model .*other sizes than its config.json says"),
    "a table": (lambda f: changed(f, vocab_size=10**12), "cannot load model .*other sizes than its config.json says"),
    "blocks without end": (
        lambda f: changed(f, num_hidden_layers=10**9),
        "says num_hidden_layers = 1000000000, and no",
    ),
    "text for a number": (lambda f: changed(f, hidden_size="32"), "cannot load model .*Validation error"),
    "an unknown kind": (lambda f: changed(f, rope_scaling={"type": "zzz"}), "cannot load model .*'zzz'"),
    "quantised": (lambda f: changed(f, quantization_config="x"), "cannot load model"),
    "deep": (lambda f: (f / "config.json").write_text("[" * 200_000), "cannot load model .*RecursionError"),
    "cut off": (lambda f: (f / "model.safetensors").write_bytes(b"junk" * 50), "cannot load model .*SafetensorError"),
    "a deep tokenizer": (lambda f: (f / "tokenizer.json").write_text("[" * 200_000), "the tokenizer of model"),
    "a text for its length": (
        lambda f: changed(f, "tokenizer_config.json", model_max_length="x"),
        "says model_max_length = 'x', which is no number",
    ),
    "replacements": (
        lambda f: changed(f, "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [DOUBLED] * 40}),
        "makes a text more than 1,000 times as long by its replacements",
    ),
    "a list for a tokenizer": (lambda f: (f / "tokenizer_config.json").write_text("[]"), "the tokenizer of model"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_told_and_nothing_is_made_up_for_it(damage, folder):
    damaging, message = DAMAGES[damage]
    damaging(folder)
    with pytest.raises(AbmllError, match=message):
        models.load(str(folder), dtype="float32")


def test_many_replacements_of_different_characters_are_no_bomb(folder):
    steps = [{"type": "Replace", "pattern": {"String": sign}, "content": "..."} for sign in "…‥。；？！：～、「」（）"]
    steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"})
    changed(folder, "tokenizer.json", normalizer={"type": "Sequence", "normalizers": steps})
    assert models.load_tokenizer(str(folder)).encode("the cat…")


def test_a_model_without_blocks(folder):
    changed(folder, num_hidden_layers=0)
    with pytest.raises(AbmllError, match=r"no layer of this LlamaForCausalLM can be adapted as asked \(.*whole"):
        Learner(str(folder), method="lora")


def test_weights_that_are_no_numbers_and_weights_that_are_not_there():
    model = tiny_llama(layers=1)
    model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(AbmllError, match=r"LlamaForCausalLM gives NaN for a plain text of .* its weights are damaged"):
        Learner(model, tiny_tokenizer(), "lora", prompt=PromptFormat("text")).adapt(["a", "b"], ["yes", "no"])
    with pytest.raises(AbmllError, match="weights are on the device 'meta'"):
        Learner(tiny_llama(layers=1).to("meta"), tiny_tokenizer(), "lora")
