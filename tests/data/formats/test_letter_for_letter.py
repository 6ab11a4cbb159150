"""One published example of each format, as a model reads it: the whole prompt, letter for letter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from abmll.data.formats import format_names
from abmll.data.hub.spec import hub_spec
from abmll.data.readers import parse_spec, read_task
from abmll.language.prompt import PromptFormat, render

KINDS_OF_FILES = {"json", "parquet", "excel", "datasets"}
"""Formats that say nothing of what a row means."""
NLI = "Given a premise and a hypothesis, say whether the first entails the second."
ANSWERS = [("No Weapons of Mass Destruction Found in Iraq Yet.", "1"), ("A place of sorrow.", "0")]


def lines(*rows: dict) -> str:
    return "\n".join(json.dumps(row) for row in rows)


CASES = {
    "arc": (
        "task.jsonl",
        lines(
            {
                "id": "MCAS_2000_4_6",
                "question": "Which technology was developed most recently?",
                "choices": {
                    "text": ["cellular telephone", "television", "refrigerator", "airplane"],
                    "label": ["A", "B", "C", "D"],
                },
                "answerKey": "A",
            }
        ),
        "Which technology was developed most recently?\n"
        "Choices:\nA) cellular telephone\nB) television\nC) refrigerator\nD) airplane\nAnswer:",
        "A",
    ),
    "letters": (
        "abstract_algebra_test.csv",
        '"Find the degree for the given field extension Q(sqrt(2), sqrt(3), sqrt(18)) over Q.",0,4,2,6,B\n',
        "Find the degree for the given field extension Q(sqrt(2), sqrt(3), sqrt(18)) over Q.\n"
        "Choices:\nA) 0\nB) 4\nC) 2\nD) 6\nAnswer:",
        "B",
    ),
    "unifiedqa": (
        "dev.tsv",
        "Which is best conductor? \\n (A) iron (B) feather\tiron\n"
        "What is the capital? \\n (A) Rome (B) Oslo \\n Norway is a land.\tOslo\n",
        "Which is best conductor?\nChoices:\nA) iron\nB) feather\nAnswer:",
        "A",
    ),
    "metaicl": (
        "task.jsonl",
        lines(
            {
                "task": "superglue-cb",
                "input": "premise: It was a complex language. [SEP] hypothesis: the language was peeled down",
                "output": "entailment",
                "options": ["entailment", "contradiction", "neutral"],
            }
        ),
        "premise: It was a complex language. [SEP] hypothesis: the language was peeled down\n"
        "Choices:\nA) entailment\nB) contradiction\nC) neutral\nAnswer:",
        "A",
    ),
    "crossfit": (
        "glue-sst2_16_100_train.tsv",
        "sentence: hide new secretions from the parental units\tnegative\n"
        "sentence: that loves its characters\tpositive\n",
        "sentence: hide new secretions from the parental units\nChoices:\nA) negative\nB) positive\nAnswer:",
        "A",
    ),
    "bbh": (
        "boolean_expressions.json",
        json.dumps(
            {
                "canary": "c",
                "examples": [
                    {"input": "not ( True ) and ( True ) is", "target": "False"},
                    {"input": "True and not not ( not False ) is", "target": "True"},
                ],
            }
        ),
        "not ( True ) and ( True ) is\nChoices:\nA) False\nB) True\nAnswer:",
        "A",
    ),
    "bigbench": (
        "task.json",
        json.dumps(
            {
                "name": "implicatures",
                "description": "Predict whether Speaker 2's answer to Speaker 1 counts as a yes or as a no",
                "examples": [
                    {
                        "input": "Speaker 1: 'But aren't you afraid?' Speaker 2: 'Ma'am, sharks never attack anybody.'",
                        "target_scores": {"yes": 0.0, "no": 1.0},
                    }
                ],
            }
        ),
        "Predict whether Speaker 2's answer to Speaker 1 counts as a yes or as a no\n"
        "Speaker 1: 'But aren't you afraid?' Speaker 2: 'Ma'am, sharks never attack anybody.'\n"
        "Choices:\nA) yes\nB) no\nAnswer:",
        "B",
    ),
    "chembench": (
        "task.jsonl",
        lines(
            {
                "name": "oxidation",
                "metrics": ["multiple_choice_grade"],
                "examples": [
                    {
                        "input": "What is the oxidation number of the metal in [Co(NH3)6]Cl3? ",
                        "target_scores": '{"+1": 0.0, "+2": 0.0, "+3": 1.0}',
                        "target": None,
                    }
                ],
            }
        ),
        "What is the oxidation number of the metal in [Co(NH3)6]Cl3?\nChoices:\nA) +1\nB) +2\nC) +3\nAnswer:",
        "C",
    ),
    "natural-instructions": (
        "task1344_glue_entailment_classification.json",
        json.dumps(
            {
                "Definition": [NLI],
                "Instances": [
                    {"id": f"task1344-{n}", "input": f"sentence 1: {text}", "output": [label]}
                    for n, (text, label) in enumerate(ANSWERS * 4)
                ],
            }
        ),
        f"{NLI}\nsentence 1: No Weapons of Mass Destruction Found in Iraq Yet.\nChoices:\nA) 0\nB) 1\nAnswer:",
        "B",
    ),
    "messages": (
        "task.jsonl",
        lines(
            {
                "messages": [
                    {"role": "system", "content": "You answer with one letter."},
                    {"role": "user", "content": "Who wrote Faust?\nA) Goethe\nB) Schiller"},
                    {"role": "assistant", "content": "A"},
                ]
            }
        ),
        "You answer with one letter.\nWho wrote Faust?\nChoices:\nA) Goethe\nB) Schiller\nAnswer:",
        "A",
    ),
    "promptfoo": (
        "tests.csv",
        "message,__expected\nI want my money back,equals: complaint\nThank you,equals: praise\n",
        "I want my money back\nChoices:\nA) complaint\nB) praise\nAnswer:",
        "A",
    ),
    "label-studio": (
        "export.json",
        json.dumps(
            [
                {
                    "id": number,
                    "data": {"text": text},
                    "annotations": [
                        {
                            "result": [
                                {
                                    "from_name": "sentiment",
                                    "to_name": "text",
                                    "type": "choices",
                                    "value": {"choices": [label]},
                                }
                            ]
                        }
                    ],
                }
                for number, (text, label) in enumerate([("Opossums are great", "Positive"), ("Alas", "Negative")])
            ]
        ),
        "Opossums are great\nChoices:\nA) Negative\nB) Positive\nAnswer:",
        "B",
    ),
    "argilla": (
        "records.json",
        json.dumps(
            [
                {"id": str(n), "fields": {"text": text}, "responses": {"label": [{"value": label, "user_id": "u"}]}}
                for n, (text, label) in enumerate([("A fine film.", "positive"), ("Dull.", "negative")])
            ]
        ),
        "A fine film.\nChoices:\nA) negative\nB) positive\nAnswer:",
        "B",
    ),
}
HUB: dict[str, tuple[dict[str, Any], str, str]] = {
    "winogrande-s": (
        {
            "sentence": "Ian volunteered to eat Dennis's menudo after already having a bowl because _ despised eating "
            "it.",
            "option1": "Ian",
            "option2": "Dennis",
            "answer": "2",
        },
        "Which word fits the gap?\n"
        "Ian volunteered to eat Dennis's menudo after already having a bowl because _ despised eating it.\n"
        "Choices:\nA) Ian\nB) Dennis\nAnswer:",
        "B",
    ),
    "boolq": (
        {
            "question": "do iran and afghanistan speak the same language",
            "passage": "Persian is spoken.",
            "answer": True,
        },
        "Is it true, by the passage?\nPersian is spoken.\nQuestion: do iran and afghanistan speak the same language?\n"
        "Choices:\nA) yes\nB) no\nAnswer:",
        "A",
    ),
    "openbookqa": (
        {
            "id": "7-980",
            "question_stem": "The sun is responsible for",
            "choices": {
                "text": ["puppies learning new tricks", "children growing up", "flowers wilting in a vase", "plants"],
                "label": ["A", "B", "C", "D"],
            },
            "answerKey": "D",
        },
        "Answer the question.\nThe sun is responsible for\nChoices:\nA) puppies learning new tricks\n"
        "B) children growing up\nC) flowers wilting in a vase\nD) plants\nAnswer:",
        "D",
    ),
    "mmlu-college-physics": (
        # a class label of the hub, which comes out as its name
        {"question": "The quantum efficiency is", "subject": "s", "choices": ["0.1", "10", "1", "0"], "answer": "B"},
        "Answer the question.\nThe quantum efficiency is\nChoices:\nA) 0.1\nB) 10\nC) 1\nD) 0\nAnswer:",
        "B",
    ),
}
LETTERS = PromptFormat(answer="letters")


def test_every_format_that_gives_rows_a_meaning_has_an_example():
    assert set(CASES) == set(format_names()) - KINDS_OF_FILES


@pytest.mark.parametrize("name", CASES)
def test_the_prompt_is_this_one(name, tmp_path):
    file, content, prompt, answer = CASES[name]
    (tmp_path / file).write_text(content, encoding="utf-8")
    (tmp_path / "spec.toml").write_text(f'file = "{file}"\nformat = "{name}"\n')
    task = read_task(tmp_path / "spec.toml")
    example = task.examples[0]._replace(question=task.question)
    found, answers = render(example, LETTERS)
    assert found == prompt
    assert answers[example.known_target] == answer


@pytest.mark.parametrize("name", HUB)
def test_the_prompt_of_a_hub_task_is_this_one(name, tmp_path: Path):
    row, prompt, answer = HUB[name]
    file = tmp_path / "rows.jsonl"
    file.write_text(lines(row), encoding="utf-8")
    spec = hub_spec(name)
    parsed = parse_spec(file, spec.task_spec(str(file)), [file], name=name)
    (placed,) = parsed.placed
    found, answers = render(placed.example._replace(question=spec.question), LETTERS)
    assert found == prompt
    assert answers[placed.example.known_target] == answer
