"""What stands where a language model would, for methods that ask none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NoReturn, Unpack

from torch import Tensor

from abmll.core.types import Example, Method, Requested, Role, Terms


def needs_model(method: Method) -> bool:
    """Whether a method asks the language model at all.

    An adaptation that does not says so by an attribute `needs_model = False`; its method then learns nothing across
    tasks, and is evaluated without loading a model.
    """
    return method.meta_learner is not None or getattr(method.adaptation, "needs_model", True)


class NoModel:
    """A `Likelihood` without parameters, which cannot be asked anything."""

    def parameters(self, role: Role) -> dict[str, Tensor]:
        return {}

    def terms(self, examples: Sequence[Example], **requested: Unpack[Requested]) -> AbstractContextManager[Terms]:
        self._refuse()

    def choice_log_probs(self, examples: Sequence[Example], *, num_samples: int = 0) -> Tensor:
        self._refuse()

    def choice_graph(self, examples: Sequence[Example]) -> AbstractContextManager[Tensor]:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise TypeError("this method says needs_model = False, and asked the model.")
