"""Run files: what is read, what is refused and in which words, and that what is written reads back equal."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from abmll.config import RunConfig, dump_toml, field_entries, load_config, parse_config
from abmll.config.fields import sections
from abmll.core.errors import AbmllError
from abmll.methods import method_names

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.toml"))


def nested(path: str, value: Any) -> dict[str, Any]:
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


def value_of(config: RunConfig, path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value


@pytest.fixture
def run_file(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "run.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(AbmllError) as caught:
        load_config(path, overrides)
    return str(caught.value)


# Reading


def test_an_empty_file_is_a_run_with_every_default(run_file):
    config = load_config(run_file(""))
    assert config == RunConfig()
    assert (config.model.name, config.data.suite, config.method.name) == ("default", "default", "abmll")


def test_values_of_every_kind_are_read(run_file):
    config = load_config(
        run_file(
            """
            seed = 7
            output = "runs/here"
            [model]
            name = "meta-llama/Meta-Llama-3-8B"
            gradient_checkpointing = true
            [adapter]
            target_modules = ["q_proj", "v_proj"]
            [training]
            learning_rate = 1
            [evaluation]
            support_sizes = [4, 16]
            """
        )
    )
    assert config.seed == 7
    assert config.output == Path("runs/here")
    assert config.model.gradient_checkpointing is True
    assert config.adapter.target_modules == ("q_proj", "v_proj")
    assert config.training.learning_rate == 1.0
    assert config.evaluation.support_sizes == (4, 16)


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xef\xbb\xbfseed = 3\n")
    assert load_config(path).seed == 3


def test_a_configuration_is_frozen():
    config = RunConfig()
    with pytest.raises(ValidationError):
        config.training.num_steps = 3


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("training.num_steps=50", "training.num_steps", 50),
        ("training.learning_rate=1e-3", "training.learning_rate", 1e-3),
        ("model.name=meta-llama/Llama-3.2-1B", "model.name", "meta-llama/Llama-3.2-1B"),
        ('model.name="1e5"', "model.name", "1e5"),
        ("model.gradient_checkpointing=true", "model.gradient_checkpointing", True),
        ("evaluation.seeds=[5, 6]", "evaluation.seeds", (5, 6)),
        ("method.options.weight_std=1e-6", "method.options", {"weight_std": 1e-6}),
        ("method.options={weight_std = 0.5}", "method.options", {"weight_std": 0.5}),
        ("output=runs/other", "output", Path("runs/other")),
        ("prompt.instruction=", "prompt.instruction", ""),
        ("prompt.instruction=Pick one = or another", "prompt.instruction", "Pick one = or another"),
        ("seed = 4", "seed", 4),
    ],
)
def test_overrides_win_over_the_file(run_file, override, path, value):
    text = 'seed = 1\noutput = "a"\n[model]\nname = "b"\n[training]\nnum_steps = 9\nlearning_rate = 0.5\n'
    assert value_of(load_config(run_file(text), [override]), path) == value


def test_an_override_without_a_value_unsets_the_field(run_file):
    assert load_config(run_file("[training]\nlearning_rate = 0.5\n"), ["training.learning_rate="]).training == (
        RunConfig().training
    )


def test_a_later_override_wins(run_file):
    assert load_config(run_file(""), ["seed=1", "seed=2"]).seed == 2


# Refusing


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "[training]\nnum_stepz = 10",
            "line 2  training.num_stepz = 10: no such field. Did you mean training.num_steps?",
        ),
        ("learning_rate = 1", "line 1  learning_rate = 1: no such field. Did you mean training.learning_rate?"),
        ("[trainig]\nnum_steps = 1", "line 1  [trainig]: no such table. Did you mean [training]?"),
        ("[data]\nzebra = 1", "Fields of [data]: suite, folder, held_out, split_seed, max_rows"),
        ('seed = "3"', 'line 1  seed = "3": must be a whole number, at least 0. Write 3 without quotes'),
        ("seed = 1.5", "seed = 1.5: must be a whole number, at least 0"),
        ("seed = true", "seed = true: must be a whole number, at least 0"),
        ("\n[adapter]\nr = 0", "line 3  adapter.r = 0: must be a whole number, at least 1, at most 1024"),
        ("[training]\nlearning_rate = -1.0", "training.learning_rate = -1.0: must be a number, above 0"),
        ('output = ""', 'output = "": must be a path'),
        ("[training]\nlearning_rate = inf", "training.learning_rate = inf: must be a number, above 0"),
        ("[data]\nheld_out = 1", "data.held_out = 1: must be a number, above 0, below 1"),
        ("[training]\nschedule = 'linaer'", "must be one of: constant, linear, cosine. Did you mean 'linear'?"),
        ("[model]\ndevice = 'gpu'", 'model.device = "gpu": must be one of: auto, cpu, mps, cuda, cuda:1'),
        ("[prompt]\nchat = 'yes'", 'prompt.chat = "yes": must be true or false. Write true'),
        ("[evaluation]\nseeds = 3", "evaluation.seeds = 3: must be a list of different whole numbers"),
        ("[evaluation]\nseeds = 3", "Write seeds = [3]"),
        ("[evaluation]\nseeds = [1, 1]", "evaluation.seeds = [1, 1]: must be a list of different whole numbers"),
        (
            "[evaluation]\nseeds = []",
            "evaluation.seeds = []: must be a list of different whole numbers, at least 0, not empty",
        ),
        ("[evaluation]\nsupport_sizes = [4, -1]", "evaluation.support_sizes = [4, -1]: must be a list"),
        ("[adapter]\ntarget_modules = 3", "adapter.target_modules = 3: must be text, not empty; or a list of"),
        ("training = 3", "training = 3: must be a table, written as [training]"),
        ("[method]\nname = 'abmlll'", "method.name = \"abmlll\": no such method. Did you mean 'abmll'?"),
        (
            "[method.options]\nwieght_std = 1",
            "line 2  method.options.wieght_std: abmll has no such option. Did you mean 'weight_std'?",
        ),
        (
            "[method]\nname='abmll-adam'\n[method.options]\nnum_steps = 'five'",
            'method.options.num_steps = "five": must be a whole number',
        ),
        ("[method]\nname='abmll-adam'\n[method.options]\nnum_steps = -2", "method.options for abmll-adam:"),
        ("[method]\nname='pretrained'\n[method.options]\nx = 1", "pretrained has no such option. It takes none"),
        ("[method.options.reptile]\nnum_steps = 1", "[method.options.reptile]: this run does not use reptile"),
    ],
)
def test_a_mistake_is_told_with_field_value_and_rule(run_file, text, told):
    assert told in message(run_file(text))


def test_every_mistake_is_told_at_once_in_the_order_of_the_file(run_file):
    path = run_file("sed = 1\n[adapter]\nr = 0\n[method]\nname = 'abmlll'\n[evaluation]\nseeds = [0, -1, 1.5]\n")
    told = message(path, "training.num_steps=0", "nonsense").splitlines()
    assert told[0] == f"{path} holds 6 mistakes:"
    assert [re.match(r"  (command line|line \d+) ", line)[1] for line in told[1:-1]] == [
        "command line",
        "command line",
        "line 1",
        "line 3",
        "line 5",
        "line 7",
    ]
    assert told[-1] == "`abmll config` lists every field."


def test_a_part_of_a_files_methods_is_run_without_the_others_options(run_file):
    """Options that the command line itself gives to a method it does not name are a mistake all the same."""
    path = run_file(
        "[method]\nname = ['lora', 'reptile']\n[method.options]\nnum_steps = 3\n"
        "[method.options.lora]\nlearning_rate = 0.5\n[method.options.reptile]\nlearning_rate = 0.25\n"
    )
    method = load_config(path, ["method.name=reptile"]).method
    assert (method.name, method.options) == ("reptile", {"num_steps": 3, "reptile": {"learning_rate": 0.25}})
    told = message(path, "method.name=reptile", "method.options.lora.learning_rate=0.1")
    assert "command line  [method.options.lora]: this run does not use lora" in told


def test_options_that_only_the_others_share_go_with_them(run_file):
    path = run_file("[method]\nname = ['abmll', 'lora']\n[method.options]\nnum_steps = 3\nnum_stepz = 4\n")
    assert "num_stepz" in message(path, "method.name=abmll"), "what no method of the file has is a mistake still"
    path.write_text(path.read_text().replace("num_stepz = 4\n", "weight_std = 2.0\n"))
    assert load_config(path, ["method.name=abmll"]).method.options == {"weight_std": 2.0}
    assert load_config(path, ["method.name=lora"]).method.options == {"num_steps": 3}
    assert "num_steps" in message(path, "method.name=abmll", "method.options.num_steps=5")


def test_a_mistake_on_the_command_line_is_told_as_such(run_file):
    told = message(run_file("[training]\nnum_steps = 5"), "training.num_steps=zero")
    assert 'command line  training.num_steps = "zero": must be a whole number, at least 1' in told


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("num_steps", "'num_steps' is not of the form key=value"),
        ("=3", "'=3' is not of the form key=value"),
        ("evaluation.seeds=[1", "'evaluation.seeds=[1': the value is not valid TOML"),
        ("seed.x=1", "'seed.x=1': seed is not a table"),
    ],
)
def test_an_override_that_cannot_be_read_is_shown(run_file, override, told):
    assert told in message(run_file("seed = 1"), override)


def test_a_line_break_in_an_override_is_text_and_assigns_nothing_else(run_file):
    config = load_config(run_file(""), ["prompt.instruction=1\nseed = 5"])
    assert config.prompt.instruction == "1\nseed = 5"
    assert config.seed == 0


def test_broken_toml_is_told_with_its_line(run_file):
    told = message(run_file("seed = 1\nname = oops\n"))
    assert "run.toml is not valid TOML" in told
    assert "line 2" in told


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("seed = " + "9" * 5000, "a whole number of more than 100 digits at line 1"),
        ("seed = " + "[" * 50_000, "nested more than 64 levels deep"),
        ('output = "a\\u0000b"', "the text holds a NUL character"),
        ("seed = 1\nseed = 2", "Cannot overwrite a value at line 2"),
    ],
)
def test_toml_that_takes_for_ever_or_holds_no_text_is_told(run_file, text, what):
    told = message(run_file(text))
    assert "run.toml is not valid TOML" in told
    assert what in told


def test_files_that_cannot_be_read_are_told_apart(tmp_path):
    (tmp_path / "mine.toml").write_text("")
    assert "mine.toml" in message(tmp_path / "absent.toml")
    assert "is a folder" in message(tmp_path)
    (tmp_path / "latin.toml").write_bytes('output = "caf\u00e9"'.encode("latin-1"))
    assert "is not UTF-8 text (byte 13)" in message(tmp_path / "latin.toml")


def test_parse_config_names_its_source():
    with pytest.raises(AbmllError, match="my dict holds a mistake:\n  seed = -1: must be a whole number, at least 0"):
        parse_config({"seed": -1}, "my dict")


# The schema


@pytest.mark.parametrize("row", field_entries(), ids=lambda row: row.path)
def test_every_field_is_described_and_its_bounds_hold_exactly(row):
    assert row.description.endswith((".", ")"))
    for word, inside, outside in [("at least", 0, -1), ("at most", 0, 1), ("above", None, 0), ("below", None, 0)]:
        for bound in re.findall(rf"{word} (-?\d+)", row.rule):
            as_value = (lambda n: [n]) if row.rule.startswith("a list") else (lambda n: n)
            if inside is not None:
                assert parse_config(nested(row.path, as_value(int(bound) + inside)))
            with pytest.raises(AbmllError, match=re.escape(row.path)):
                parse_config(nested(row.path, as_value(int(bound) + outside)))


@pytest.mark.parametrize(
    "row", [row for row in field_entries() if row.rule.startswith("one of: ")], ids=lambda r: r.path
)
def test_every_listed_choice_is_accepted(row):
    for choice in row.rule.removeprefix("one of: ").split(", "):
        assert value_of(parse_config(nested(row.path, choice)), row.path) == choice


def test_prompt_defaults_are_those_of_the_prompt_format():
    from abmll.language.prompt import PromptFormat

    assert RunConfig().prompt.model_dump() == vars(PromptFormat())


@pytest.mark.parametrize("name", method_names())
def test_every_option_of_every_method_can_be_written_at_its_default(run_file, name):
    from abmll.methods import METHODS

    parameters = inspect.signature(METHODS[name]).parameters.values()
    options = {one.name: one.default for one in parameters if one.default is not None}
    config = parse_config({"method": {"name": name, "options": options}})
    assert load_config(run_file(dump_toml(config))).method.options_for(name) == options


def test_tuned_options_go_before_shared_ones_and_after_a_methods_own(run_file, tmp_path):
    tuned = tmp_path / "tuned.toml"
    tuned.write_text(
        "[method.options.abmll-natural]\nsupport_weight = 0.1\ntrust = 0.2\n"
        "[method.options.lora]\nlearning_rate = 0.3\n[method.options.maml]\nlearning_rate = 0.4\n"
    )
    text = f"""
        [method]
        name = ["abmll-natural", "lora", "reptile"]
        tuned = "{tuned}"
        [method.options]
        learning_rate = 0.9
        num_steps = 3
        [method.options.abmll-natural]
        support_weight = 0.5
        """
    method = load_config(run_file(text)).method
    assert method.options_for("abmll-natural") == {"trust": 0.2, "num_steps": 3, "support_weight": 0.5}
    assert method.options_for("lora") == {"learning_rate": 0.3, "num_steps": 3}
    assert method.options_for("reptile") == {"learning_rate": 0.9, "num_steps": 3}
    assert method.tuned is None, "the resolved run stands alone"
    assert "maml" not in method.options
    tuned.write_text("[method.options.lora]\nlearning_rte = 0.3\n")
    assert "method.options.lora.learning_rte: lora has no such option" in message(run_file(text))


def test_options_reach_the_methods_that_know_them():
    method = parse_config(
        {
            "method": {
                "name": ["pretrained", "reptile", "abmll-adam"],
                "options": {"num_steps": 3, "support_weight": 0.5, "reptile": {"num_steps": 7, "learning_rate": 0.1}},
            }
        }
    ).method
    assert method.options_for("pretrained") == {}
    assert method.options_for("reptile") == {"num_steps": 7, "learning_rate": 0.1}
    assert method.options_for("abmll-adam") == {"num_steps": 3, "support_weight": 0.5}


# Writing


def test_a_changed_configuration_reads_back_equal(run_file):
    config = parse_config(
        {
            "output": 'a "quoted" \\ path',
            "data": {"folder": "tasks", "held_out": 0.25},
            "method": {"name": ["reptile", "abmll"], "options": {"weight_std": 1e-8, "reptile": {"num_steps": 2}}},
            "training": {"learning_rate": 1e22},
            "evaluation": {"seeds": [3, 1]},
        }
    )
    assert load_config(run_file(dump_toml(config))) == config


def test_the_written_file_names_every_field_that_has_a_value():
    written = tomllib.loads(dump_toml(RunConfig()))
    for row in field_entries():
        value: Any = written
        for part in row.path.split("."):
            value = value.get(part) if value is not None else None
        assert (value is None) == (row.default is None), row.path


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
plain = st.one_of(texts, st.booleans(), st.integers(-(2**62), 2**62), st.floats(allow_nan=False))
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
tables = st.recursive(
    st.dictionaries(texts, values, max_size=3),
    lambda inner: st.dictionaries(texts, st.one_of(values, inner, st.lists(inner, max_size=2)), max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(instruction=texts, options=tables)
def test_any_text_and_any_options_are_written_as_toml_that_reads_back_equal(instruction, options):
    config = RunConfig().model_copy(
        update={
            "prompt": RunConfig().prompt.model_copy(update={"instruction": instruction}),
            "method": RunConfig().method.model_copy(update={"options": options}),
        }
    )
    read = tomllib.loads(dump_toml(config))
    assert read["prompt"]["instruction"] == instruction
    assert read["method"].get("options", {}) == options


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_a_valid_run(path):
    load_config(path)


def test_there_are_examples_and_sections():
    assert len(EXAMPLES) >= 3
    assert list(sections()) == [
        "model",
        "data",
        "prompt",
        "adapter",
        "method",
        "episodes",
        "training",
        "evaluation",
        "tune",
    ]
