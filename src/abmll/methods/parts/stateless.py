"""The state of a meta-learner that has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abmll.core.errors import AbmllError


class Stateless:
    """Mixin: everything that this meta-learner knows lies in META."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state:
            raise AbmllError(
                f"the checkpoint holds meta-learner state ({', '.join(list(state)[:3])}) that "
                f"{type(self).__name__} has no use for. Resume with the method that wrote it."
            )
