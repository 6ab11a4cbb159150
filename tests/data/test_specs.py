"""TOML task specs: templates, label maps, paths; and the shipped ones, run on the data in their own comments."""

from __future__ import annotations

from pathlib import Path

import pytest

import abmll.data
from abmll.core.errors import AbmllError
from abmll.data.readers import read_task
from abmll.data.spec import TaskSpec
from abmll.data.toml_file import read_toml
from abmll.data.validate import check_task

SPECS = Path(abmll.data.__file__).parent / "specs"


def spec(folder: Path, toml: str, **files: str) -> Path:
    """Writes `task.toml` and data files (`rows_csv="…"` is rows.csv)."""
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content)
    path = folder / "task.toml"
    path.write_text(toml)
    return path


def test_templates_choices_and_labels(tmp_path):
    path = spec(
        tmp_path,
        """
        file = "rows.csv"
        name = "pairs"
        question = "Entailed?"
        family = "nli"
        input = "Premise: {a}\\nHypothesis: {b} {{sic}}"
        choices = ["no", "yes"]
        label = "gold"
        labels = {0 = "no", 1 = "yes"}
        """,
        rows_csv="a,b,gold\nx,y,1\nu,v,0\n",
    )
    task = read_task(path)
    assert (task.name, task.family, task.question) == ("pairs", "nli", "Entailed?")
    assert task.examples[0].prompt == "Premise: x\nHypothesis: y {sic}"
    assert [(row.choices, row.target) for row in task.examples] == [(("no", "yes"), 1), (("no", "yes"), 0)]


def test_without_choices_they_are_the_labels_of_the_map_in_its_order(tmp_path):
    toml = 'file = "rows.csv"\nlabel = "stars"\nlabels = {1 = "poor", 2 = "poor", 5 = "great"}\n'
    task = read_task(spec(tmp_path, toml, rows_csv="text,stars\na,1\nb,5\nc,2\n"))
    assert [row.target for row in task.examples] == [0, 1, 0]
    assert task.examples[0].choices == ("poor", "great")


def test_json_booleans_and_numbers_are_mapped_by_their_spelling(tmp_path):
    toml = 'file = "rows.jsonl"\nlabel = "ok"\nlabels = {true = "yes", false = "no", 3 = "maybe"}\n'
    rows = '{"text": "a", "ok": true}\n{"text": "b", "ok": false}\n{"text": "c", "ok": 3}\n'
    assert [row.target for row in read_task(spec(tmp_path, toml, rows_jsonl=rows)).examples] == [0, 1, 2]


def test_words_that_yaml_would_turn_into_booleans_stay_words(tmp_path):
    toml = 'file = "rows.csv"\nchoices = ["no", "yes", "on", "off"]\n'
    task = read_task(spec(tmp_path, toml, rows_csv="text,label\na,no\nb,off\n"))
    assert task.examples[0].choices == ("no", "yes", "on", "off")


def test_targets_counted_from_one_and_choices_from_columns(tmp_path):
    toml = 'file = "rows.csv"\ninput = "q"\nchoices = ["{x}", "not {x}"]\ntarget = "right"\nfirst_index = 1\n'
    task = read_task(spec(tmp_path, toml, rows_csv="q,x,right\na,sure,2\nb,so,1\n"))
    assert [(row.choices[row.target]) for row in task.examples] == ["not sure", "so"]


def test_a_label_without_an_entry_in_the_map(tmp_path):
    toml = 'file = "rows.csv"\nlabels = {a = "yes", b = "no"}\n'
    with pytest.raises(
        AbmllError,
        match=r"rows.csv:3 \[label\]: the label 'c' is not under labels in the spec. Add it there; known are: 'a', 'b'",
    ):
        read_task(spec(tmp_path, toml, rows_csv="text,label\nx,a\ny,c\nz,b\n"))


def test_a_column_that_a_spec_names_and_the_file_lacks(tmp_path):
    toml = 'file = "rows.csv"\ninput = "{premis} {text}"\nid = "key"\n'
    problems = [
        str(problem) for problem in check_task(spec(tmp_path, toml, rows_csv="text,premise,label\na,b,c\n")).problems
    ]
    assert problems[:2] == [
        "rows.csv:2 [key]: no row has a field 'key', which id in the spec names. The fields found are: "
        "'text', 'premise', "
        "'label'.",
        "rows.csv:2 [premis]: no row has a field 'premis', which input in the spec names. Did you mean "
        "'premise' to be it? "
        "Rename it, or name it in a TOML spec. The fields found are: 'text', 'premise', 'label'.",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('input = "{a.__class__}"', "task.toml [input]: {a.__class__} in '{a.__class__}' is not a plain column name"),
        ('input = "{a[0]}"', "is not a plain column name"),
        ('input = "{a!r}"', "is not a plain column name"),
        ('input = "{a:>9}"', "is not a plain column name"),
        ('input = "{a"', "task.toml [input]: expected '}' before end of string"),
        ('choices = "{a}|{b}"', "task.toml [choices]: one template cannot make several choices"),
        ('target = "{a}"', "task.toml [target]: '{a}' is a template, but target names one column"),
        ('target = "a"\nlabel = "b"', "task.toml [label]: both target and label are given"),
        ('qestion = "x"', "task.toml [qestion]: unknown key 'qestion'. Did you mean 'question'? Known are: file,"),
        ("first_index = true", "task.toml [first_index]: True: Input should be a valid integer"),
        ("question = 3", "task.toml [question]: 3: Input should be a valid string"),
        ("choices = [1, 2]", "Input should be a valid string"),
        ("question = no", "task.toml:2: broken TOML:"),
    ],
)
def test_specs_that_cannot_be(tmp_path, line, message):
    with pytest.raises(AbmllError) as raised:
        read_task(spec(tmp_path, f'file = "rows.csv"\n{line}\n', rows_csv="text,label\na,x\nb,y\n"))
    assert message in str(raised.value)


def test_every_mistake_of_a_spec_is_told_at_once(tmp_path):
    problems = check_task(spec(tmp_path, "qestion = 'x'\nquoting = 1\n")).problems
    assert [problem.field for problem in problems] == ["file", "quoting", "qestion"]


@pytest.mark.parametrize("name", ["../secret.csv", "a/../../secret.csv"])
def test_paths_must_stay_in_the_folder(tmp_path, name):
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret.csv").write_text("text,label\na,x\nb,y\n")
    path = spec(tmp_path / "inner", f'file = "{name}"\n')
    with pytest.raises(
        AbmllError,
        match=r"leaves the folder of the file that names it. Move the data below that folder, or write an absolute "
        r"path",
    ):
        read_task(path)


def test_a_link_does_not_lead_out_but_an_absolute_path_does(tmp_path):
    (tmp_path / "inner").mkdir()
    secret = tmp_path / "secret.csv"
    secret.write_text("text,label\na,x\nb,y\n")
    (tmp_path / "inner" / "link.csv").symlink_to(secret)
    with pytest.raises(AbmllError, match=r"the path 'link.csv' leaves the folder"):
        read_task(spec(tmp_path / "inner", 'file = "link.csv"\n'))
    assert len(read_task(spec(tmp_path / "inner", f'file = "{secret}"\n'))) == 2


def test_a_support_file_is_the_support_pool(tmp_path):
    path = spec(tmp_path, 'file = "test.csv"\nsupport_file = "train.csv"\nchoices = ["x", "y"]\n',
                test_csv="text,label\na,x\nb,y\n", train_csv="text,label\nc,x\nd,y\ne,x\n")  # fmt: skip
    task = read_task(path)
    assert [row.prompt for row in task.examples] == ["a", "b"]
    assert [row.prompt for row in task.support_pool] == ["c", "d", "e"]


def test_support_rows_that_are_judged_on_are_left_out_with_a_warning(tmp_path):
    path = spec(tmp_path, 'file = "test.csv"\nsupport_file = "train.csv"\n',
                test_csv="text,label\na,x\nb,y\n", train_csv="text,label\nA ,x\nd,y\ne,x\n")  # fmt: skip
    task = read_task(path)
    assert [row.prompt for row in task.support_pool] == ["d", "e"]
    assert [row.id for row in (*task.examples, *task.support_pool)] == [
        "task:2",
        "task:3",
        "task:support:3",
        "task:support:4",
    ]
    assert (
        "task.toml [support_file]: 1 rows of the support file have an input that is evaluated on; they are left out."
        in [str(problem).removesuffix(" Remove them from one of the files.") for problem in check_task(path).problems]
    )


def test_choices_that_differ_between_the_two_files_are_refused(tmp_path):
    files = {"test_csv": "text,label\na,x\nb,y\n", "train_csv": "text,label\nc,x\nd,y\ne,w\n"}
    toml = 'file = "test.csv"\nsupport_file = "train.csv"\n'
    message = r"\[choices\]: the choices are 'x', 'y' in the one file and 'w', 'x', 'y' in the other. List all"
    with pytest.raises(AbmllError, match=message):
        read_task(spec(tmp_path, toml, **files))
    task = read_task(spec(tmp_path, toml + 'choices = ["w", "x", "y"]\n', **files))
    assert [row.target for row in (*task.examples, *task.support_pool)] == [1, 2, 1, 2, 0]


def comment_block(text: str) -> list[str]:
    """The lines of the indented example in a spec's comment."""
    return [line[4:] for line in text.splitlines() if line.startswith("#   ")]


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_specs_read_the_data_in_their_comments(path, tmp_path):
    shown = "\n".join(comment_block(path.read_text())) + "\n"
    parsed, problems = read_toml(path, TaskSpec)
    assert not problems
    for name in filter(None, (parsed.file, parsed.support_file)):
        (tmp_path / name).write_text(shown)
    (tmp_path / path.name).write_text(path.read_text())
    task = read_task(tmp_path / path.name)
    assert task.question
    assert task.family
    expected = {
        "classification": [("Broke after a day.", "negative"), ("Does what it should.", "positive")],
        "sentence_pair": [("Premise: A man sleeps.\nHypothesis: A person is awake.", "contradiction")],
        "multiple_choice": [("Dry wet shoes", "Stuff them with paper.")],
        "train_and_test": [("You have won a prize", "spam")],
        "unifiedqa": [("which gas do plants take in?", "carbon dioxide")],
    }
    assert [(row.prompt, row.choices[row.target]) for row in task.examples] == expected[path.stem]
