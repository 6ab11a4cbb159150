"""What a posterior says of rows: answers, probabilities, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.evaluation import calibration
from abmll.evaluation.acquisition import Score, least_sure
from abmll.learner.labels import Label
from abmll.rules import Count, require


class Prediction:
    """The prediction of rows, made of the log-probabilities that any posterior returns.

    Args:
        log_probs: (samples, rows, choices) in nats, normalised over the choices; -inf where a row has fewer.
        choices: the answers of every row, as the user calls them, in the order of `log_probs`.
        ids: the rows' ids.
        targets: the index of each row's right choice, None where it is not known.

    Raises:
        AbmllError: If the shapes disagree, or `log_probs` are no log-probabilities.
    """

    def __init__(
        self,
        log_probs: Tensor,
        choices: Sequence[Sequence[Label]],
        *,
        ids: Sequence[str] = (),
        targets: Sequence[int | None] = (),
    ) -> None:
        if log_probs.dim() != 3 or log_probs.shape[1] != len(choices):
            raise AbmllError(
                f"a prediction of {len(choices)} rows needs log-probabilities (samples, rows, choices); found the "
                f"shape {tuple(log_probs.shape)}."
            )
        self.log_probs = log_probs.detach().cpu()
        self.choices = tuple(tuple(row) for row in choices)
        self.ids = tuple(ids) or tuple(map(str, range(len(self.choices))))
        self.targets = tuple(targets) or (None,) * len(self.choices)
        self._mixture = calibration.mixture(self.log_probs).exp()

    @property
    def classes(self) -> tuple[Label, ...]:
        """The answers, in the order of the columns of `probabilities`; () if every row has choices of its own."""
        return self.choices[0] if len(set(self.choices)) == 1 else ()

    @cached_property
    def probabilities(self) -> Tensor:
        """(rows, classes): the average of the posterior samples' probabilities; 0 for a choice that a row has not."""
        return self._mixture.to(self.log_probs.dtype)

    @cached_property
    def labels(self) -> list[Label]:
        """The most probable answer of every row, as the user calls it."""
        return [row[best] for row, best in zip(self.choices, self._mixture.argmax(1).tolist(), strict=True)]

    @cached_property
    def confidence(self) -> Tensor:
        """(rows,): the probability of the most probable answer."""
        return self.probabilities.amax(1)

    @cached_property
    def entropy(self) -> Tensor:
        """(rows,) in nats: how uncertain the answer is, whatever the reason."""
        return calibration.entropy(self._mixture).to(self.log_probs.dtype)

    @cached_property
    def mutual_information(self) -> Tensor:
        """(rows,) in nats: the part of `entropy` that is the posterior samples' disagreement; more labels lower it."""
        return calibration.mutual_information(self.log_probs).to(self.log_probs.dtype)

    @cached_property
    def margin(self) -> Tensor:
        """(rows,): the probability of the most probable answer less that of the second."""
        return calibration.margin(self._mixture).to(self.log_probs.dtype)

    def least_sure(self, count: int, by: Score = "margin") -> list[int]:
        """The positions of the `count` rows that the posterior is least sure of, first: those to label next, perhaps.

        Args:
            count: how many.
            by: "margin", the two most probable answers closest to each other; or "mutual-information", the posterior's
                samples most at odds, which needs a method whose samples differ.

        Raises:
            AbmllError: For mutual information where all samples agree.
        """
        require({"count": Count, "by": Score}, {"count": count, "by": by})
        return least_sure(self.log_probs.double().log_softmax(-1), count, by)

    @cached_property
    def samples(self) -> Tensor:
        """(samples, rows, classes): the probabilities of each posterior sample."""
        return self.log_probs.exp()

    @property
    def accuracy(self) -> float | None:
        """The share of rows answered right, among those whose right answer is known; None if there is none."""
        pairs = [(t, best) for t, best in zip(self.targets, self._mixture.argmax(1).tolist(), strict=True)]
        known = [target == best for target, best in pairs if target is not None]
        return sum(known) / len(known) if known else None

    def rows(self) -> list[dict[str, Any]]:
        """One dict a row, ready for JSON: id, prediction, confidence, probabilities, entropy, mutual information.

        Numbers have six decimals. A row whose right answer is known also has "correct".
        """
        found = []
        numbers = zip(self._mixture.tolist(), self.entropy.tolist(), self.mutual_information.tolist(), strict=True)
        for index, (probs, entropy, information) in enumerate(numbers):
            choices = self.choices[index]
            row: dict[str, Any] = {
                "id": self.ids[index] or str(index),
                "prediction": self.labels[index],
                "confidence": round(max(probs), 6),
                "probabilities": {str(choice): round(p, 6) for choice, p in zip(choices, probs, strict=False)},
                "entropy": round(entropy, 6),
                "mutual_information": round(information, 6),
            }
            target = self.targets[index]
            if target is not None:
                row["correct"] = self.labels[index] == choices[target]
            found.append(row)
        return found

    def __len__(self) -> int:
        return len(self.choices)

    def __repr__(self) -> str:
        classes = f"classes {list(self.classes)!r}" if self.classes else "choices of each row's own"
        accuracy = "" if self.accuracy is None else f", accuracy {self.accuracy:.3f}"
        return (
            f"Prediction({len(self)} rows, {classes}, {len(self.log_probs)} posterior samples, mean confidence "
            f"{float(self.confidence.mean()):.3f}{accuracy})"
        )
