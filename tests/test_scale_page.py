"""docs/scale.md and examples/scale/: every command is one that exists, every file parses, and the sums are right."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from abmll.cli import app
from abmll.config import load_config
from tests.commands import command_group

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "scale"
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
FILES = sorted(path.name for path in FOLDER.iterdir())


def commands(text):
    """What stands behind `-m abmll.cli` on every line."""
    return [shlex.split(line) for line in re.findall(r"-m abmll\.cli ((?:train|evaluate) .*)$", text, re.MULTILINE)]


def parsed(words):
    """The run of a command, after its options and the run file have been checked as the command would."""
    command = command_group(app).commands[words[0]]
    given = command.make_context(words[0], list(words[1:])).params
    return load_config(ROOT / given["run"], given["overrides"]), given


@pytest.mark.parametrize("name", [*FILES, "scale.md"])
def test_every_command_is_valid_and_every_step_divides_by_its_ranks(name):
    text = PAGE if name == "scale.md" else (FOLDER / name).read_text(encoding="utf-8")
    found = commands(text)
    assert found
    for words in found:
        config, given = parsed(words)
        ranks = 64 if re.search(r"nodes[:=]\s*8", text) else 8
        assert config.training.episodes_per_step % ranks == 0
        assert ranks % config.model.shard == 0
        if words[0] == "train":
            assert given["resume"]
        else:
            assert given["adapter"] == config.output / "adapter", "what train of the same run writes"


def test_all_files_submit_the_same_run():
    runs = {}
    for name in ("slurm.sbatch", "skypilot.yaml", "ray.sh", "accelerate.yaml"):
        config, _ = parsed(commands((FOLDER / name).read_text(encoding="utf-8"))[0])
        runs[name] = config.model_copy(update={"output": None})
    assert len({run.model_dump_json() for run in runs.values()}) == 1


@pytest.mark.parametrize("name", ["slurm.sbatch", "ray.sh"])
def test_shell_files_are_shell(name):
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    subprocess.run(["bash", "-n", str(FOLDER / name)], check=True)


def test_the_script_in_the_skypilot_file_is_shell():
    task = yaml.safe_load((FOLDER / "skypilot.yaml").read_text(encoding="utf-8"))
    assert task.keys() <= {"name", "num_nodes", "workdir", "resources", "file_mounts", "setup", "run"}
    assert task["num_nodes"] == 8
    if shutil.which("bash"):
        subprocess.run(["bash", "-n"], input=task["run"], text=True, check=True)


def test_accelerate_knows_every_field_of_its_file():
    configuration = pytest.importorskip("accelerate.commands.config.config_args")
    given = yaml.safe_load((FOLDER / "accelerate.yaml").read_text(encoding="utf-8"))
    known = {field.name for field in fields(configuration.ClusterConfig)}
    assert given.keys() <= known
    assert given["num_processes"] == 8


SHAPES = {  # layers, width, width of keys and values, feed-forward width, vocabulary, biases of q, k and v
    "Llama-3-8B": (32, 4096, 1024, 14336, 128256, False),
    "Qwen2-7B": (28, 3584, 512, 18944, 152064, True),
    "Llama-3-70B": (80, 8192, 1024, 28672, 128256, False),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_bytes_of_the_page_are_those_of_the_shapes(name):
    layers, width, narrow, wide, vocabulary, biases = SHAPES[name]
    attention = 2 * width * width + 2 * width * narrow + biases * (width + 2 * narrow)
    base = layers * (attention + 3 * width * wide + 2 * width) + 2 * vocabulary * width + width
    lora = layers * 8 * (2 * 2 * width + (width + narrow) + 3 * (width + wide))

    def spaced(number):
        return f"{number:,}".replace(",", " ")

    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| {name} |")]
    cells = [cell.strip() for cell in row.split("|")[2:6]]
    assert cells == [
        f"{spaced(base)} × 2 = {2 * base / 1e9:.2f} GB",
        f"{2 * base / 8e9:.2f} GB",
        f"2 × {spaced(lora)} = {spaced(2 * lora)}",
        f"{8 * lora / 1e6:.0f} MB",
    ]
    optimisers = f"{9 * 2 * lora * 4 / 1e9:.2f} GB"
    assert optimisers in PAGE


def test_other_sums_of_the_page():
    small, large = 39_321_600, 195_297_280
    gather = 141.11 * 7 / 8
    for told in (
        f"{2 * 7 / 8 * 4 * small / 1e6:.0f} MB, on 64 ranks {2 * 63 / 64 * 4 * small / 1e6:.0f} MB",
        f"70B on 64 ranks {2 * 63 / 64 * 4 * large / 1e9:.2f} GB",
        f"{gather:.1f} GB for 70B with S = 8",
        f"20 × {gather:.1f} GB = {20 * gather / 1e3:.2f} TB",
        f"13 × {gather:.1f} GB = {13 * gather / 1e3:.2f} TB",
        f"{16 * small / 1e6:.0f} MB for 8B, {16 * large / 1e9:.2f} GB for 70B",
        f"{64 * 3 * 4 * small / 1e9:.1f} GB for 8B",
        f"8 × 1024 × 4096 × 2 × 32 blocks = {8 * 1024 * 4096 * 2 * 32 / 1e9:.2f} GB",
        f"8 × 1024 × 8192 × 2 × 80 = {8 * 1024 * 8192 * 2 * 80 / 1e9:.2f} GB",
        f"`model.shard=4` holds {141.11 / 4:.2f} GB",
    ):
        assert told in PAGE, told


def test_a_gaussian_adapter_has_the_numbers_of_two_loras():
    from abmll.core.types import META
    from abmll.learner import Learner
    from tests.tiny import tiny_llama, tiny_tokenizer

    counts = []
    for method in ("abmll-adam", "reptile"):
        learner = Learner(tiny_llama(), tiny_tokenizer(), method)
        counts.append(sum(p.numel() for p in learner.likelihood.parameters(META).values()))
    assert counts[0] == 2 * counts[1]
