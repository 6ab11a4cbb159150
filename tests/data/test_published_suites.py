"""The shipped suites name exactly the published tasks, and are refused where they would leak."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from abmll.core.errors import AbmllError
from abmll.data.collections import related
from abmll.data.formats.crossfit import K_IN_ALL, K_PER_CLASS, SEEDS, few_shot
from abmll.data.hub.spec import hub_spec, hub_specs
from abmll.data.suite import SuiteSpec, load_suite, read_suite_spec, shipped_suites

PUBLISHED = json.loads((Path(__file__).parent / "published_lists.json").read_text(encoding="utf-8"))
SIZES = {
    **{"crossfit-random": (120, 20, 20), "crossfit-cls-45": (45, 10, 10), "crossfit-cls-23": (45, 10, 10)},
    **{"crossfit-noncls-45": (45, 10, 10), "crossfit-nli": (57, 8, 0), "crossfit-para": (61, 4, 0)},
    **{"crossfit-mrc": (42, 9, 0), "crossfit-mcqa": (29, 22, 0), "metaicl-hr-to-lr": (61, 0, 26)},
    **{
        "metaicl-class-to-class": (43, 0, 20),
        "metaicl-non-class-to-class": (37, 0, 20),
        "metaicl-qa-to-qa": (37, 0, 22),
    },
    **{"metaicl-non-qa-to-qa": (33, 0, 22), "metaicl-non-nli-to-nli": (55, 0, 8)},
    **{"metaicl-non-paraphrase-to-paraphrase": (59, 0, 4), "cls-45": (34, 0, 15), "cls-23": (28, 0, 15)},
    **{"nli": (42, 0, 8), "para": (46, 0, 4), "mcqa": (18, 0, 12), "nli-icl": (41, 0, 8), "para-icl": (45, 0, 4)},
    **{"mcqa-icl": (17, 0, 12), "mixedspecific": (18, 0, 6), "chembench": (34, 0, 9)},
}
LEGAL_WITHOUT_CHOICES = {
    *("citation_prediction_open", "definition_extraction", "rule_qa", "sara_numeric"),
    *("ssla_company_defendants", "ssla_individual_defendants", "ssla_plaintiff"),
}


def spec(name: str) -> SuiteSpec:
    return read_suite_spec(shipped_suites()[name])


@pytest.mark.parametrize("name", sorted(SIZES))
def test_the_lists_are_the_published_ones_in_their_order(name):
    listed = spec(name).listed()
    assert tuple(map(len, listed.values())) == SIZES[name]
    if name == "chembench":  # its topics come from the hub, under names of their own
        listed["test"] = [task.removeprefix("hub:chembench-").replace("-", "_") for task in listed["test"]]
        assert {hub_spec(f"chembench-{topic.replace('_', '-')}").splits["train"].files for topic in listed["test"]} == {
            f"{topic}/train-*.parquet" for topic in listed["test"]
        }
    assert listed == PUBLISHED[name]


def test_every_shipped_suite_is_whole():
    for name in shipped_suites():
        assert spec(name).name == name
        for side in spec(name).listed().values():
            assert len(set(side)) == len(side), name


def test_the_lists_are_those_of_the_reference(shared):
    text = (shared / "reference" / "abmll.md").read_text(encoding="utf-8")
    for name in ("class_to_class", "qa_to_qa", "non_nli_to_nli"):
        found = re.search(rf"\*\*{name}\*\* train: (.*?)\n  - test: (.*?)\n", text)
        listed = spec(f"metaicl-{name.replace('_', '-')}").listed()
        assert [found[1].split(", "), found[2].split(", ")] == [listed["train"], listed["test"]]


def test_legalbench_is_all_of_its_tasks_that_choose():
    every = PUBLISHED["legalbench-all"]["test"]
    assert len(set(every)) == 162
    choosing = [task for task in every if task not in LEGAL_WITHOUT_CHOICES]
    transfer, full = spec("legalbench-transfer").listed(), spec("legalbench-full").listed()
    assert (transfer["train"], transfer["test"]) == (PUBLISHED["cls-45"]["train"], choosing)
    assert len(choosing) == 155
    assert (len(full["train"]), len(full["test"])) == (135, 20)  # the published counts
    assert full["train"] == [task for task in choosing if task not in full["test"]]
    assert set(full["test"]) <= set(choosing)


def test_sib200_holds_whole_scripts_out_and_judges_on_rows_that_nothing_trains_on():
    listed = spec("sib200").listed()
    train, test = ({name.rpartition("-")[2] for name in listed[side]} for side in ("train", "test"))
    assert (len(train), len(test)) == (171, 34)
    assert len(train | test) == 205
    assert not {language[-4:] for language in train} & {language[-4:] for language in test}
    english, greek = hub_spec("sib200-train-eng_Latn"), hub_spec("sib200-ell_Grek")
    assert (set(english.used), english.splits["train"].rows) == ({"train"}, 701)
    assert (greek.judge, greek.support, greek.splits["test"].files) == ("test", "train", "ell_Grek/test/*.parquet")
    assert (greek.splits["test"].rows, greek.family) == (204, "ell_Grek")


def test_variants_say_what_they_change_and_nothing_else():
    for base in ("cls-45", "cls-23", "nli", "para", "mcqa"):
        limited, whole = spec(f"{base}-30"), spec(base)
        assert limited.metaicl.max_train_rows == 30
        same = {"name": "", "extends": None, "metaicl": whole.metaicl}
        assert limited.model_copy(update=same) == whole.model_copy(update=same)
    assert spec("winogrande").train == spec("cls-45").train
    assert spec("winogrande").test == ["hub:winogrande-m"]


def test_an_unknown_base_and_a_base_of_ones_own(tmp_path):
    (tmp_path / "s.toml").write_text('extends = "cls-46"\n')
    with pytest.raises(AbmllError, match=r"\[extends\]: unknown suite 'cls-46'. Did you mean 'cls-45'"):
        load_suite(tmp_path / "s.toml")
    (tmp_path / "s.toml").write_text('extends = "nli"\nname = "mine"\nexclude = ["sick"]\n[metaicl]\nmax_options = 2\n')
    mine = read_suite_spec(tmp_path / "s.toml")
    assert (mine.metaicl.max_options, mine.metaicl.max_prompt_chars) == (2, 500)
    assert "sick" not in mine.listed()["train"]


def test_a_suite_that_would_leak_is_refused_with_the_pair_before_any_file_is_read(tmp_path):
    (tmp_path / "s.toml").write_text('format = "metaicl"\ntrain = ["glue-rte", "imdb"]\ntest = ["superglue-rte"]\n')
    with pytest.raises(AbmllError, match="'glue-rte' and 'superglue-rte'"):
        load_suite(tmp_path / "s.toml")
    (tmp_path / "s.toml").write_text('format = "hub"\ntrain = ["winogrande-s"]\ntest = ["winogrande-m"]\n')
    with pytest.raises(AbmllError, match="'winogrande-m' and 'winogrande-s'"):
        load_suite(tmp_path / "s.toml")


def test_related_tasks_are_tasks_of_the_lists():
    known = {name for listed in PUBLISHED.values() for side in listed.values() if side for name in side}
    assert {name for group in related() for name in group} <= known


ONE_A_FILE = sorted({path: name for name, path in hub_specs().items()}.values())


@pytest.mark.parametrize("name", ONE_A_FILE)
def test_every_hub_spec_validates(name):
    found = hub_spec(name)
    assert found.name == name
    assert found.licence
    assert found.citation
    assert set(found.shares_rows_with) <= set(hub_specs())
    for other in found.shares_rows_with:
        assert name in hub_spec(other).shares_rows_with


@pytest.mark.parametrize("suite", [name for name in shipped_suites() if spec(name).format == "hub"])
def test_a_suite_of_the_hub_names_specs_that_are_there(suite):
    assert {task for side in spec(suite).listed().values() for task in side} <= set(hub_specs())


def published_draw(rows: list[tuple[str, str]], k: int, seed: int, by_class: bool):
    """The same draw, as the published scripts make it: the global generator and the list itself."""
    lines = list(rows)
    np.random.seed(seed)
    np.random.shuffle(lines)
    if not by_class:
        return lines[:k], lines[k : 2 * k]
    found: dict[str, list] = {}
    for line in lines:
        found.setdefault(line[-1], []).append(line)
    return [line for of in found.values() for line in of[:k]], [line for of in found.values() for line in of[k : 2 * k]]


@pytest.mark.parametrize("by_class", [True, False])
def test_crossfit_draws_are_the_published_ones(by_class):
    rows = [(f"text {number}", "abc"[number % 7 % 3]) for number in range(500)]
    k = K_PER_CLASS if by_class else K_IN_ALL
    for seed in SEEDS:
        ours = few_shot(rows, seed, k=k, label=(lambda row: row[-1]) if by_class else None)
        assert ours == published_draw(rows, k, seed, by_class)
        assert [len(side) for side in ours] == ([48, 48] if by_class else [32, 32])
    assert SEEDS == (100, 13, 21, 42, 87)
    # A draw written down once, so that another NumPy cannot change both sides of the comparison.
    assert [row[0] for row in few_shot(rows, 100, k=2, label=lambda row: row[-1])[0]] == DRAWN


DRAWN = ["text 69", "text 189", "text 29", "text 344", "text 471", "text 54"]


def crossfit_folder(folder: Path) -> Path:
    for task, lines in (
        ("mood", [(f"text: it is {n}", "good" if n % 2 else "bad") for n in range(40)]),
        ("quiz", [(f"which is {n}? (A) one {n} (B) two {n}", f"two {n}") for n in range(40)]),
        ("essay", [(f"write {n}", f"a text about {n}") for n in range(40)]),
    ):
        (folder / task).mkdir(parents=True)
        for seed in SEEDS:
            for part, rows in (("train", lines[:16]), ("dev", lines[16:24]), ("test", lines[24:])):
                content = "".join(f"{text}\t{answer}\n" for text, answer in rows)
                (folder / task / f"{task}_16_{seed}_{part}.tsv").write_text(content)
    return folder


def test_crossfit_files_with_free_text_left_out_and_told(tmp_path):
    folder = crossfit_folder(tmp_path / "data")
    (tmp_path / "s.toml").write_text(
        'format = "crossfit"\nfolder = "data"\ntrain = ["mood", "essay"]\ntest = ["quiz"]\n'
    )
    suite = load_suite(tmp_path / "s.toml")
    assert [(task.name, len(task), len(task.support_pool)) for task in suite.tasks] == [
        ("mood", 24, 0),
        ("quiz", 16, 16),
    ]
    assert suite.notes == ("left out, since they ask for free text: essay",)
    assert suite.test[0].examples[0][:3] == ("which is 24?", ("one 24", "two 24"), 1)
    (folder / "quiz" / "extra.txt").write_text("")
    (tmp_path / "s.toml").write_text(
        'format = "crossfit"\nfolder = "data"\ntrain = ["mood", "absent"]\ntest = ["quiz"]\n'
    )
    with pytest.raises(AbmllError, match="lacks the files of 1 tasks: absent"):
        load_suite(tmp_path / "s.toml")


def test_unifiedqa_sets_and_a_task_that_lies_there_as_a_spec(tmp_path):
    for name in ("openbookqa", "qasc"):
        (tmp_path / name).mkdir()
        for part in ("train", "dev"):
            lines = [f"{name}, {part} {n}? \\n (a) x{n} (b) y{n}\ty{n}\n" for n in range(8)]
            (tmp_path / name / f"{part}.tsv").write_text("".join(lines))
    (tmp_path / "own.csv").write_text("text,label\n" + "".join(f"t {n},{'ab'[n % 2]}\n" for n in range(8)))
    (tmp_path / "own.toml").write_text('file = "own.csv"\n')
    (tmp_path / "s.toml").write_text('format = "unifiedqa"\ntrain = ["openbookqa", "own"]\ntest = ["qasc"]\n')
    suite = load_suite(tmp_path / "s.toml")
    assert [(task.name, len(task), len(task.support_pool)) for task in suite.tasks] == [
        ("openbookqa", 8, 0),
        ("own", 8, 0),
        ("qasc", 8, 8),
    ]
