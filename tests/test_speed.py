"""The speed benchmark: that it measures what it says, and that its command runs at a tiny size."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from benchmarks.speed import cases, gpu, measure, padding
from benchmarks.speed.__main__ import main


def test_saved_bytes_are_those_of_the_tensors_that_autograd_keeps():
    x = torch.randn(100, 30, requires_grad=True)
    w = torch.randn(30, 50)

    def step():
        (torch.exp(x @ w).square()).sum().backward()  # exp keeps its output, square the same; the product keeps w

    assert measure.saved_bytes(measure.Case(step, (x, w))) == 100 * 50 * 4
    assert measure.saved_bytes(measure.Case(step, (x,))) == 100 * 50 * 4 + 30 * 50 * 4


def test_peak_memory_is_what_a_step_needs_at_its_worst():
    def step():
        for count in (16, 32, 16):
            torch.ones(count * 1_000_000)  # freed before the next is made

    assert measure.peak_bytes(measure.Case(step, ())) == 32_000_000 * 4


def test_cases_take_turns_and_are_compared_within_a_turn(monkeypatch):
    order: list[str] = []
    seconds = iter([1.0, 3.0, 10.0, 20.0, 100.0, 400.0])  # a machine that gets slower and slower
    monkeypatch.setattr(measure, "timed", lambda step, clock: (step(), next(seconds))[1])
    names = ("a", "b")
    case = {name: measure.Case(partial(order.append, name), ()) for name in names}
    results = measure.compare(case, 3, "a")
    assert order[-6:] == ["a", "b"] * 3
    assert results["a"]["seconds_ratio"] == 1
    assert results["b"]["seconds_ratio"] == 3
    assert results["b"]["seconds"] == 20


def test_every_variant_computes_a_gradient_of_the_task_alone():
    for variant in cases.VARIANTS:
        case = cases.layer_case(variant, 16, 2, 4)
        case.step()
        trained = [tensor for tensor in case.known if tensor.requires_grad]
        assert all(tensor.grad is not None for tensor in trained), variant
        assert len(trained) == (2 if variant == cases.BASELINE else 4), variant


@pytest.mark.parametrize("parts", [["layers"], pytest.param(["layers", "models"], marks=pytest.mark.slow)], ids=len)
def test_the_command_measures_prints_writes_and_draws(parts, tmp_path, capsys):
    arguments = ["--small", "--repeats", "1", "--output", str(tmp_path / "speed.json"), "--figures", str(tmp_path)]
    assert main([*parts, "head", *arguments]) == 0
    assert main(["gpu", *arguments]) == 0
    results = json.loads((tmp_path / "speed.json").read_text())
    for part in parts:
        (row,) = results[part]
        assert set(row["cases"]) == set(cases.VARIANTS)
        assert row["cases"][cases.BASELINE]["saved_ratio"] == 1
        assert row["cases"]["naive"]["saved_bytes"] > row["cases"]["fused"]["saved_bytes"]
        assert row["environment"]["torch"] == torch.__version__
        assert (tmp_path / f"speed-{part}.svg").stat().st_size > 1000
    assert results["head"][0]["cases"]["plain forward pass"]["seconds_ratio"] == 1
    assert results["gpu"][0]["fused"]["tokens_per_second"] > 0


@pytest.mark.slow
def test_the_parts_on_whole_methods_measure_write_and_draw(tmp_path):
    arguments = ["--small", "--repeats", "1", "--output", str(tmp_path / "speed.json"), "--figures", str(tmp_path)]
    assert main(["adaptation", "tasks", "padding", "side-by-side", *arguments]) == 0
    results = json.loads((tmp_path / "speed.json").read_text())
    assert [row["tasks"] for row in results["tasks"]] == [2, 4]
    assert results["tasks"][0]["seconds_ratio"] == 1
    (row,) = results["padding"]
    assert row["cases"]["by length"]["padding"] < row["cases"]["as they come"]["padding"]
    (row,) = results["side-by-side"]
    assert set(row["cases"]) == {"one after the other", "side by side"}
    assert (tmp_path / "speed-methods.svg").stat().st_size > 1000


def test_padding_is_counted_in_the_order_of_the_batches():
    lengths = [1, 4, 1, 4]
    assert padding.padded_share(lengths, 2) == 1 - 10 / 16
    assert padding.padded_share(sorted(lengths), 2) == 0


def test_questions_of_the_padding_benchmark_differ_in_length_and_are_the_same_each_time():
    examples = padding.mixed_lengths(50)
    assert examples == padding.mixed_lengths(50)
    lengths = sorted(len(example.prompt.split()) for example in examples)
    assert lengths[0] >= 2
    assert lengths[-1] <= 200
    assert lengths[-1] > 5 * lengths[0]


def test_without_a_gpu_the_gpu_part_says_what_it_needs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["gpu", "--output", str(tmp_path / "speed.json")]) == 2
    assert "CUDA GPU" in capsys.readouterr().err
    assert "--small" in gpu.NEEDS
    assert not (tmp_path / "speed.json").exists()


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["layer"])
    assert "choose of layers, models" in capsys.readouterr().err
