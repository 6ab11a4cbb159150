"""A task's posterior, which knows its task: from new rows to predictions, and to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.finite import require_finite_predictions
from abmll.core.seeds import derive_seed, seeded
from abmll.core.types import Posterior
from abmll.evaluation.cross_validation import Help, cross_validated
from abmll.learner.attachment import working
from abmll.learner.given import TaskRows, names_of, rows_to_predict
from abmll.learner.labels import Label
from abmll.learner.prediction import Prediction
from abmll.rules import Amount, require

if TYPE_CHECKING:
    from abmll.learner.learner import Learner


class TaskPosterior:
    """What `Learner.adapt` returns and `abmll.load` gives back. It stays valid whatever the learner does afterwards.

    Attributes:
        learner: the learner that holds the model it predicts with.
        inner: the posterior as its method made it (`abmll.core.types.Posterior`).
        task: what it was adapted to: name, question, classes and rows (none after loading).
        seconds: how long adapting took; None after loading.
    """

    def __init__(self, learner: Learner, inner: Posterior, task: TaskRows | None, seconds: float | None = None) -> None:
        self.learner = learner
        self.inner = inner
        self.task = task
        self.seconds = seconds

    @property
    def classes(self) -> tuple[Label, ...]:
        """The answers to choose from, as the user calls them; () if every row brings its own choices."""
        return () if self.task is None or self.task.labels is None else self.task.labels.names

    def predict(self, data: Any, num_samples: int = 16, *, seed: int = 0) -> Prediction:
        """The prediction of new rows. The same call gives the same numbers, whatever was called before.

        Args:
            data: texts, examples, a task, the path of a file, a table (a pandas frame, a Hugging Face data set, rows or
                columns as dictionaries); labels are not needed and not looked at.
            num_samples: posterior samples to average; 0 predicts at the mean.
            seed: of the samples.

        Raises:
            AbmllError: If `data` is nothing that can be read, its rows bring no choices and the task has none, or the
                learner's adapter is no longer in its model.
        """
        require({"num_samples": Amount, "seed": int}, {"num_samples": num_samples, "seed": seed})
        rows = rows_to_predict(data, self.task)
        with working(self.learner), seeded(derive_seed("predict", seed)):
            log_probs = self.inner.predict(rows, int(num_samples))
        require_finite_predictions(log_probs, [row.id or str(index) for index, row in enumerate(rows)], "these rows")
        labels = self.task.labels if self.task is not None else None
        names = names_of(rows, labels)
        return Prediction(log_probs, names, ids=[row.id for row in rows], targets=[row.target for row in rows])

    def cross_validate(self, *, seed: int = 0) -> Help | None:
        """What adapting is worth on the rows it was done with: each is answered after adapting to others of them.

        Takes four times the adaptation.

        Args:
            seed: of the adaptations' noise.

        Returns:
            The NLL so found beside that of the model as it is and of a uniform distribution; `.helps` says whether it
            is below both. None for fewer than 8 rows, which say nothing.

        Raises:
            AbmllError: If the posterior was loaded: a folder keeps no rows.
        """
        require({"seed": int}, {"seed": seed})
        if self.task is None or not self.task.rows:
            raise AbmllError(
                "the rows that this posterior was adapted to are not known: a folder keeps none. Adapt anew."
            )
        likelihood, adaptation = self.learner.likelihood, self.learner.method.adaptation
        with working(self.learner), seeded(derive_seed("cross-validation", seed)):
            return cross_validated(likelihood, adaptation, self.task.rows)

    def save(self, directory: str | Path) -> Path:
        """Writes the posterior as an adapter folder that `abmll.load`, `abmll predict` and PEFT read.

        It knows its base model, method and options, prompt, question and classes.

        Raises:
            AbmllError: If the folder cannot be written; what was there before is still there then.
        """
        return self.learner.save(directory, posterior=self)

    def mean(self) -> dict[str, Tensor] | None:
        """The adapter's tensors at the posterior's mean; None if it has none, as an ensemble."""
        return self.inner.mean()

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors that make the posterior."""
        return self.inner.state_dict()

    def __repr__(self) -> str:
        if self.task is None:
            return f"TaskPosterior(of no task, by {self.learner.name}: rows must bring their choices)"
        classes = f"classes {list(self.classes)!r}" if self.classes else "choices of each row's own"
        support = f"{len(self.task.rows)} labelled rows" if self.task.rows else "loaded"
        seconds = "" if self.seconds is None else f", {self.seconds:.1f} s"
        return f"TaskPosterior(task {self.task.name!r}, {classes}, by {self.learner.name}, {support}{seconds})"


def inner_of(posterior: Posterior | TaskPosterior, learner: Learner) -> Posterior:
    """The posterior as its method made it. Raises: AbmllError if it is another learner's."""
    if not isinstance(posterior, TaskPosterior):
        return posterior
    if posterior.learner is not learner:
        raise AbmllError(
            f"the posterior of task {posterior.task.name if posterior.task else ''!r} is of another learner: save it "
            "by its own save()."
        )
    return posterior.inner
