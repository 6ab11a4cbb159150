"""The estimator in scikit-learn's manner: its own checks where they take no numbers, and the rest on texts."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is an extra")

from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

import abmll
from abmll.core.errors import AbmllError
from abmll.sklearn import FewShotClassifier
from tests.tiny import tiny_llama, tiny_tokenizer
from tests.tiny_tasks import tiny_task

CHECKS = [
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
]
"""Those of scikit-learn's checks that hand no numbers to `fit`: all that a classifier of texts can be put to."""


@pytest.fixture(scope="module")
def learner():
    prompt = abmll.PromptFormat(answer="text")
    return abmll.Learner(tiny_llama(layers=1), tiny_tokenizer(), "lora", prompt=prompt, r=2, learning_rate=0.05)


@pytest.fixture(scope="module")
def texts():
    return [row.prompt for row in tiny_task("new", 24).examples]


@pytest.fixture(scope="module")
def labels():
    return [row.answer for row in tiny_task("new", 24).examples]


@pytest.fixture(scope="module")
def fitted(learner, texts, labels):
    return FewShotClassifier(learner, question="good?", num_samples=4).fit(texts[:12], labels[:12])


@parametrize_with_checks([FewShotClassifier()])
def test_the_checks_that_scikit_learn_chooses(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)
        check(estimator)


def test_check_estimator_says_that_it_cannot_test_more_than_that():
    with pytest.warns(SkipTestWarning, match="Can't test estimator FewShotClassifier"):
        check_estimator(FewShotClassifier())


@pytest.mark.parametrize("check", CHECKS)
def test_the_checks_that_hand_no_numbers_to_fit(check):
    getattr(estimator_checks, check)("FewShotClassifier", FewShotClassifier())


def test_texts_in_labels_out(fitted, texts, labels):
    assert is_classifier(fitted)
    assert fitted.classes_.tolist() == ["negative", "positive"]
    probabilities = fitted.predict_proba(texts[12:])
    assert probabilities.shape == (12, 2)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-12)
    np.testing.assert_array_equal(fitted.predict(texts[12:]), fitted.classes_[probabilities.argmax(1)])
    np.testing.assert_array_equal(fitted.predict_proba(np.array(texts[12:])), probabilities)
    np.testing.assert_array_equal(fitted.predict_proba(np.array(texts[12:], dtype=object)[:, None]), probabilities)
    assert fitted.score(texts, labels) == np.mean(fitted.predict(texts) == labels)


def test_fit_sets_no_parameter_and_does_the_same_again(learner, texts, labels):
    classifier = FewShotClassifier(learner, num_samples=2, classes={0: "negative", 1: "positive"})
    before = classifier.get_params()
    numbers = [int(label == "positive") for label in labels]
    assert classifier.fit(texts[:8], numbers[:8]) is classifier
    first = classifier.predict_proba(texts)
    assert classifier.get_params() == before
    assert classifier.classes_.tolist() == [0, 1]
    assert classifier.predict(texts).dtype.kind == "i"
    np.testing.assert_array_equal(classifier.fit(texts[:8], np.array(numbers[:8])).predict_proba(texts), first)


def test_clones_share_the_language_model_and_nothing_that_was_fitted(fitted):
    copy = clone(fitted)
    assert copy.model is fitted.model
    assert copy.get_params() == fitted.get_params()
    assert not hasattr(copy, "posterior_")
    with pytest.raises(NotFittedError):
        copy.predict(["a"])
    with pytest.raises(NotFittedError):
        copy.predict_proba(["a"])


def test_in_a_pipeline_under_cross_validation_and_a_search(learner, texts, labels):
    strip = FunctionTransformer(lambda rows: [row.strip() for row in rows])
    pipeline = Pipeline([("strip", strip), ("classify", FewShotClassifier(learner, num_samples=0))])
    scores = cross_val_score(pipeline, texts[:12], labels[:12], cv=2)
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()
    search = GridSearchCV(FewShotClassifier(learner, num_samples=0), {"support_size": np.array([2, 4])}, cv=2)
    search.fit(texts[:12], labels[:12])
    assert search.best_params_["support_size"] in (2, 4)
    assert len(search.best_estimator_.posterior_.task.rows) == search.best_params_["support_size"]


def test_a_saved_learner_is_loaded_once_for_all_clones(learner, texts, labels, tmp_path, monkeypatch):
    folder = learner.save(tmp_path / "adapter")
    loaded = []
    load = abmll.Learner.load
    monkeypatch.setattr(
        abmll.Learner,
        "load",
        lambda folder: loaded.append(folder) or load(folder, tiny_llama(layers=1), tiny_tokenizer()),
    )
    classifier = FewShotClassifier(str(folder), num_samples=0).fit(texts[:8], labels[:8])
    other = clone(classifier).fit(texts[:8], labels[:8])
    assert len(loaded) == 1
    assert other.learner_ is classifier.learner_
    np.testing.assert_array_equal(other.predict_proba(texts), classifier.predict_proba(texts))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((["a", "b"], ["x"]), "X has 2 texts and y 1 labels"),
        ((["a", "b"], None), "requires y to be passed, but the target y is None"),
        ((["a", "b"], ["x", "x"]), "there is one class only, 'x'"),
        ((["a", 3], ["x", "y"]), r"texts\[1\] is int, not text"),
        ((["a", None], ["x", "y"]), r"texts\[1\] is missing"),
        ((np.zeros((2, 3)), ["x", "y"]), r"X has the shape \(2, 3\): give one text for each row"),
        ((["a", "b"], [0.5, 1.7]), "Unknown label type: continuous"),
    ],
)
def test_mistakes_are_value_errors_that_say_what_to_do(learner, given, message):
    with pytest.raises(ValueError, match=message):
        FewShotClassifier(learner).fit(*given)


def test_a_model_that_is_none():
    with pytest.raises(AbmllError, match="model is int: give a Learner, the folder of one, or a language model's name"):
        FewShotClassifier(3).fit(["a", "b"], ["x", "y"])


def test_importing_it_loads_no_language_model_library():
    code = "import sys, abmll.sklearn; print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "try:\n    import abmll.sklearn\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "abmll.sklearn needs scikit-learn: pip install 'abmll[sklearn]'."
