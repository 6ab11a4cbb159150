"""One row of each data set that CrossFit makes a task of, and the line that CrossFit's own script writes of it.

Typed from the scripts in tasks/ of CrossFit's repository (where its copy was not at hand, from preprocess/ of
MetaICL's), not from the specs.
"""

from __future__ import annotations

from typing import Any

_CHOICES = {"text": ["one", "two"], "label": ["A", "B"]}
_PAIR = {"sentence1": "s one", "sentence2": "s two"}
_PAIRED = "sentence 1: s one [SEP] sentence 2: s two"
_NLI = {"premise": "a\nb", "hypothesis": "c"}

LINES: dict[str, tuple[dict[str, Any], str, str]] = {
    "ade_corpus_v2-classification": ({"text": "t", "label": 1}, "t", "Related"),
    "ag_news": ({"text": "t", "label": 3}, "t", "Sci/Tech"),
    "ai2_arc": (
        {"question": "Q?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
        "Q? (1) x (2) y",
        "y",
    ),
    "amazon_polarity": ({"title": "T", "content": "C", "label": 0}, "title: T [SEP] content: C", "negative"),
    "anli": (_NLI | {"label": 1}, "premise: a b [SEP] hypothesis: c", "neutral"),
    "app_reviews": ({"review": "r", "star": 4}, "review: r", "4"),
    "aqua_rat": ({"question": "a\nb", "options": ["A)21", "B)2 2"], "correct": "B"}, "a b (A) 21 (B) 2 2", "2 2"),
    "art": (
        {"observation_1": "o", "observation_2": "p", "hypothesis_1": "h", "hypothesis_2": "i", "label": 2},
        "observation 1: o [SEP] observation 2: p [SEP] hypothesis 1: h [SEP] hypothesis 2: i",
        "hypothesis 2",
    ),
    "boolq": ({"question": "q", "passage": "p", "answer": True}, "question: q [SEP] context: p", "yes"),
    "circa": (
        {"context": "c", "question-X": "q", "answer-Y": "a", "goldstandard2": 3},
        "context: c [SEP] question X: q [SEP] answer Y: a",
        "Yes, subject to some conditions",
    ),
    "climate_fever": ({"claim": "c", "claim_label": 2}, "c", "Not enough info"),
    "codah": (
        {"question_propmt": "I am", "candidate_answers": ["a", "b", "c", "d"], "correct_answer_idx": 2},
        "I am (A) a (B) b (C) c (D) d",
        "c",
    ),
    "commonsense_qa": ({"question": " q\tr ", "choices": _CHOICES, "answerKey": "A"}, "q r (A) one (B) two", "one"),
    "cosmos_qa": (
        {"question": "q", "context": "c", "answer0": "a", "answer1": "b", "answer2": "d", "answer3": "e", "label": 3},
        "q [SEP] c [SEP]  (A) a (B) b (C) d (D) e",
        "e",
    ),
    "dbpedia_14": ({"content": " a  b\\n", "label": 13}, "a b", "WrittenWork"),
    "definite_pronoun_resolution": (
        {"sentence": "s", "pronoun": "he", "candidates": ["x", "y"], "label": 1},
        "s [SEP] he [SEP] (A) x (B) y",
        "y",
    ),
    "discovery": (_PAIR | {"label": 173}, _PAIRED, "yet,"),
    "dream": (
        {"question": "q", "dialogue": ["M: a", "W: b"], "choice": ["x", "y", "z"], "answer": "z"},
        "q [SEP] M: a W: b [SEP]  (A) x (B) y (C) z",
        "z",
    ),
    "emo": ({"text": " t ", "label": 3}, "t", "angry"),
    "emotion": ({"text": " t ", "label": 5}, "t", "surprise"),
    "financial_phrasebank": ({"sentence": "s", "label": 2}, "s", "positive"),
    "glue-cola": ({"sentence": "s", "label": 1}, "s", "acceptable"),
    "glue-mnli": (_NLI | {"label": 2}, "premise: a\nb [SEP] hypothesis: c", "contradiction"),
    "glue-mrpc": (_PAIR | {"label": 0}, _PAIRED, "not_equivalent"),
    "glue-qnli": ({"question": "q", "sentence": "s", "label": 1}, "question: q [SEP] sentence: s", "not_entailment"),
    "glue-qqp": ({"question1": "q", "question2": "r", "label": 1}, "question 1: q [SEP] question 2: r", "duplicate"),
    "glue-rte": (_PAIR | {"label": 0}, _PAIRED, "entailment"),
    "glue-sst2": ({"sentence": "s", "label": 1}, "sentence: s", "positive"),
    "glue-wnli": (_PAIR | {"label": 0}, _PAIRED, "not_entailment"),
    "google_wellformed_query": ({"content": " c ", "rating": 0.8}, "c", "well-formed"),
    "hate_speech18": ({"text": "t", "label": 1}, "t", "hate"),
    "hate_speech_offensive": ({"tweet": "a\nb", "class": 1}, "a b", "offensive language"),
    "hatexplain": ({"post_tokens": ["a", "b"], "annotators": {"label": [2, 0, 2]}}, "a b", "offensive"),
    "health_fact": ({"claim": " a\r\tb\n", "label": 3}, "a  b", "unproven"),
    "hellaswag": ({"ctx": "c", "endings": ["a", "b", "d", "e"], "label": "2"}, "c (A) a (B) b (C) d (D) e", "d"),
    "imdb": ({"text": "a\n b  c", "label": 1}, "a b c", "positive"),
    "kilt_fever": ({"input": "a  b", "output": [{"answer": "REFUTES"}, {"answer": "REFUTES"}]}, "a b", "REFUTES"),
    "liar": (
        {"statement": "s\tt", "speaker": "p", "context": "c", "label": 5},
        "statement: s t [SEP] speaker: p [SEP] context: c",
        "pants-fire",
    ),
    "math_qa": (
        {"Problem": "P", "options": "a ) 38 , b ) 27 , c ) 3 . 0 , d ) no data , e ) none", "correct": "d"},
        "P (A) 38 (B) 27 (C) 3 . 0 (D) no data (E) none",
        "no data",
    ),
    "mc_taco": ({"sentence": "s", "question": "q", "answer": "a", "label": 0}, "s [SEP] q [SEP] a", "no"),
    "medical_questions_pairs": (
        {"question_1": "q", "question_2": "r", "label": 0},
        "question 1: q [SEP] question 2: r",
        "Similar",
    ),
    "numer_sense": ({"sentence": "a bird has <mask> legs .", "target": "two"}, "a bird has [MASK] legs .", "two"),
    "onestop_english": ({"text": "Intermediate \na\nb", "label": 1}, "a b", "intermediate"),
    "openbookqa": ({"question_stem": "q", "choices": _CHOICES, "answerKey": "B"}, "q (A) one (B) two", "two"),
    "paws": (_PAIR | {"label": 1}, _PAIRED, "1"),
    "piqa": ({"goal": "g", "sol1": "a", "sol2": "b", "label": 0}, "goal: g [SEP] solution 1a [SEP] solution 2b", "0"),
    "poem_sentiment": ({"verse_text": "v", "label": 2}, "v", "no_impact"),
    "qasc": ({"question": "q", "choices": _CHOICES, "answerKey": "A"}, "q (A) one (B) two", "one"),
    "quail": (
        {"question": "q\nr", "context": "c\nd", "answers": ["w", "x", "y", "z"], "correct_answer_id": 1},
        "q r(A)w(B)x(C)y(D)z [SEP] c d",
        "x",
    ),
    "quarel": ({"question": "It is (A) hot or (B) cold", "answer_index": 0}, "It is (A) hot or (B) cold", "hot"),
    "quartz-no_knowledge": ({"question": "q", "choices": _CHOICES, "answerKey": "A"}, "q (A) one (B) two", "one"),
    "quartz-with_knowledge": (
        {"question": "q", "choices": _CHOICES, "answerKey": "B", "para": "p"},
        "qp (A) one (B) two",
        "two",
    ),
    "rotten_tomatoes": ({"text": "t", "label": 0}, "t", "negative"),
    "scicite": (
        {"string": "As shown [3] it is.", "sectionName": " Intro", "citeStart": 9, "citeEnd": 12, "label": 1},
        "[3] [SEP] As shown [3] it is. [SEP] Intro",
        "background",
    ),
    "scitail": (_PAIR | {"gold_label": "neutral"}, _PAIRED, "neutral"),
    "sick": ({"sentence_A": "a", "sentence_B": "b", "label": 1}, "sentence 1: a [SEP] sentence 2: b", "neutral"),
    "sms_spam": ({"sms": "s\n", "label": 1}, "s", "spam"),
    "social_i_qa": (
        {"context": "c", "question": "q", "answerA": "a", "answerB": "b", "answerC": "d", "label": "3"},
        "q (A) a (B) b (C) d [SEP] c",
        "d",
    ),
    "superglue-cb": (_NLI | {"label": 1}, "premise: a\nb [SEP] hypothesis: c", "contradiction"),
    "superglue-copa": ({"premise": "p", "choice1": "a", "choice2": "b", "label": 1}, "p (A) a (B) b", "b"),
    "superglue-rte": (_NLI | {"label": 1}, "premise: a b [SEP] hypothesis: c", "not_entailment"),
    "superglue-wic": (
        _PAIR | {"word": "w", "label": 1},
        "word: w [SEP] sentence 1: s one [SEP] sentence 2: s two",
        "true",
    ),
    "superglue-wsc": (
        {"text": "t", "span1_text": "a", "span2_text": "b", "label": 0},
        "text: t [SEP] span1_texta [SEP] span2_text: b",
        "false",
    ),
    "swag": (
        {"startphrase": "s", "ending0": "a", "ending1": "b", "ending2": "c", "ending3": "d", "label": 0},
        "s (A) a (B) b (C) c (D) d",
        "a",
    ),
    "tab_fact": (
        {"statement": "s", "table_caption": "c", "table_text": "a#b\n1#2", "label": 1},
        "statement: s [SEP] table_caption: c [SEP] table_text: a#b [n] 1#2",
        "entailed",
    ),
    "trec": ({"text": "t", "coarse_label": 3}, "t", "HUM"),
    "trec-finegrained": ({"text": "t", "fine_label": 43}, "t", "other"),
    "wiki_qa": ({"question": "q", "answer": "a", "label": 1}, "question: q [SEP] answer: a", "true"),
    "wino_grande": ({"sentence": "_ s", "option1": "a", "option2": "b", "answer": "2"}, "_ s (A) a (B) b", "b"),
    "wiqa": (
        {
            "question_stem": "q\nr",
            "question_para_step": ["s", "t"],
            "choices": {"text": ["more", "less", "no_effect"], "label": ["A", "B", "C"]},
            "answer_label_as_choice": "B",
        },
        "q r (A) more (B) less (C) no_effect [SEP] s t",
        "less",
    ),
    "yahoo_answers_topics": (
        {"question_title": "t", "question_content": "", "best_answer": "a\\nb", "topic": 9},
        "question_title: t [SEP] question_content: [SEP] best_answer: a b",
        "Politics & Government",
    ),
    "yelp_polarity": ({"text": "a\\nb", "label": 1}, "a b", "positive"),
    "yelp_review_full": ({"text": "a\\nb", "label": 3}, "a b", "4"),
}
for _dimension in ("disability", "gender", "national_origin", "race", "religion", "sexual_orientation"):
    LINES[f"ethos-{_dimension}"] = ({"text": " t ", _dimension: 1}, "t", "true")
LINES["ethos-directed_vs_generalized"] = ({"text": " t ", "directed_vs_generalized": 0}, "t", "generalied")
for _level in ("high", "middle"):
    LINES[f"race-{_level}"] = (
        {"question": "q\nr", "options": ["a\tb", "c"], "article": "d\re", "answer": "A"},
        "q r (A) a b (B) c [SEP] d e",
        "a b",
    )
for _subset, _label, _word in (
    *(("emoji", 11, "🇺🇸"), ("emotion", 2, "optimism"), ("hate", 0, "non-hate"), ("irony", 0, "non-irony")),
    *(("offensive", 1, "offensive"), ("sentiment", 1, "neutral"), ("stance_abortion", 1, "against")),
    *(("stance_atheism", 0, "none"), ("stance_climate", 2, "favor"), ("stance_feminist", 2, "favor")),
    ("stance_hillary", 1, "against"),
):
    LINES[f"tweet_eval-{_subset}"] = ({"text": " a\n  b ", "label": _label}, "a b", _word)
