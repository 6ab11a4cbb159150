"""The text of an adapter's configuration file: equal for equal configurations."""

from __future__ import annotations

import json
from typing import Any


def sorted_json(config: dict[str, Any]) -> str:
    """JSON whose sets (lists of module names) are in alphabetical order, so that equal configs are equal files."""
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    return json.dumps(config, indent=2, sort_keys=True) + "\n"
