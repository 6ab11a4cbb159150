"""Few-shot text classification in scikit-learn's manner: `fit`, `predict`, `predict_proba`.

    from abmll.sklearn import FewShotClassifier

    classifier = FewShotClassifier("runs/laptop/adapter", question="How was the film?").fit(texts, labels)
    classifier.predict_proba(new_texts)

It goes into pipelines, `cross_val_score` and `GridSearchCV` as other classifiers do; X is a list of texts. Needs the
extra `abmll[sklearn]`. Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from abmll.core.errors import AbmllError

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, column_or_1d
except ImportError as error:
    raise ImportError("abmll.sklearn needs scikit-learn: pip install 'abmll[sklearn]'.") from error

if TYPE_CHECKING:
    from abmll.learner import Learner, Prediction

__all__ = ["FewShotClassifier"]

_SHARED: WeakValueDictionary[tuple[str, ...], Any] = WeakValueDictionary()
"""Learners that were made by name, while an estimator that is fitted holds them: clones share one language model."""


class FewShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of texts that adapts a language model to a handful of labelled ones.

    Args:
        model: a `Learner`; the folder of a meta-trained one (`abmll train` or `Learner.save`), which is what to use if
            you have it; or the name of a language model. A learner is shared by clones, never copied.
        method: for a language model given by name; see `Learner`.
        options: of that method.
        question: what is asked of every text.
        classes: all classes, if not every one of them is in y; or a mapping from labels to the words that the model
            reads: `{0: "negative", 1: "positive"}`.
        support_size: adapt on so many rows, drawn evenly over the classes; None takes all.
        num_samples: posterior samples to average; 0 predicts at the mean.
        random_state: a whole number, of the draw, the adaptation and the samples.

    Attributes:
        classes_: (classes,) the labels, sorted; the columns of `predict_proba`.
        posterior_: the task's `TaskPosterior`, with its own `predict` and `save`.
        learner_: the learner that adapted.
    """

    def __init__(
        self,
        model: Any = "default",
        *,
        method: Any = "abmll",
        options: Mapping[str, Any] | None = None,
        question: str = "",
        classes: Sequence[Any] | Mapping[Any, str] | None = None,
        support_size: int | None = None,
        num_samples: int = 16,
        random_state: int = 0,
    ) -> None:
        self.model = model
        self.method = method
        self.options = options
        self.question = question
        self.classes = classes
        self.support_size = support_size
        self.num_samples = num_samples
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> FewShotClassifier:
        """Adapts to labelled texts.

        Args:
            X: texts: a list, an array, a series, or a table of one column.
            y: a label for each.

        Raises:
            AbmllError: (a ValueError) if they do not fit each other, or there are fewer than two classes.
        """
        if y is None:
            raise AbmllError("requires y to be passed, but the target y is None: give a label for each text.")
        texts, labels = _column(X), column_or_1d(y, warn=True)
        check_classification_targets(labels)
        if len(texts) != len(labels):
            raise AbmllError(f"X has {len(texts)} texts and y {len(labels)} labels: give one label for each text.")
        classes = self.classes if self.classes is not None else np.unique(labels).tolist()
        self.learner_ = self._learner()
        self.posterior_ = self.learner_.adapt(
            texts,
            labels.tolist(),
            question=self.question,
            classes=classes,
            support_size=self.support_size,
            seed=self.random_state,
        )
        self.classes_ = np.array(sorted(self.posterior_.classes, key=lambda one: (str(type(one)), one)))
        return self

    def predict_proba(self, X: Any) -> np.ndarray[Any, Any]:
        """(texts, classes): the probability of each of `classes_`; the same call gives the same numbers."""
        prediction = self._prediction(X)
        order = [prediction.classes.index(label) for label in self.classes_.tolist()]
        probabilities: np.ndarray[Any, Any] = prediction.probabilities.double().numpy()[:, order]
        normalised: np.ndarray[Any, Any] = probabilities / probabilities.sum(1, keepdims=True)
        return normalised

    def predict(self, X: Any) -> np.ndarray[Any, Any]:
        """(texts,): the most probable label of each."""
        probabilities = self.predict_proba(X)
        labels: np.ndarray[Any, Any] = self.classes_[probabilities.argmax(1)]
        return labels

    def _prediction(self, X: Any) -> Prediction:
        check_is_fitted(self)
        return self.posterior_.predict(_column(X), self.num_samples, seed=self.random_state)

    def _learner(self) -> Learner:
        from abmll.card import CARD
        from abmll.learner import Learner

        if isinstance(self.model, Learner):
            return self.model
        if not isinstance(self.model, (str, os.PathLike)):
            raise AbmllError(
                f"model is {type(self.model).__name__}: give a Learner, the folder of one, or a language model's name."
            )
        saved = (Path(self.model) / CARD).is_file()
        method = self.method if isinstance(self.method, str) else f"{self.method!r}"
        key = (os.fspath(self.model), *([] if saved else [method, repr(sorted((self.options or {}).items()))]))
        if key not in _SHARED:
            made = (
                Learner.load(self.model) if saved else Learner(self.model, method=self.method, **(self.options or {}))
            )
            _SHARED[key] = made
            return made
        shared: Learner = _SHARED[key]
        return shared

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.target_tags.required = True
        tags.classifier_tags.poor_score = True  # on numbers that scikit-learn's own checks would draw
        return tags


def _column(X: Any) -> Any:
    """A table of one column as that column; what it holds is checked by `adapt` and `predict`."""
    shape = getattr(X, "shape", None)
    if shape is None or len(shape) == 1:
        return X
    if len(shape) == 2 and shape[1] == 1:
        return X.iloc[:, 0] if hasattr(X, "iloc") else X[:, 0]
    raise AbmllError(f"X has the shape {tuple(shape)}: give one text for each row.")
