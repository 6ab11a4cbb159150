"""The PEFT tuners, and the two adapters ("meta" and "task") that every method works on.

Importing this package teaches PEFT the adapter type "ABMLL", so that PEFT's own functions can load a saved adapter.
"""

from abmll.adapters.register import register

register()

from abmll.adapters.abmll import AbmllConfig, AbmllModel  # noqa: E402 (the type must exist before its config does)
from abmll.adapters.export import export_sample  # noqa: E402
from abmll.adapters.roles import (  # noqa: E402
    adapter_parameters,
    attach_roles,
    copy_adapter,
    load_adapter,
    save_adapter,
)

__all__ = [
    "AbmllConfig",
    "AbmllModel",
    "adapter_parameters",
    "attach_roles",
    "copy_adapter",
    "export_sample",
    "load_adapter",
    "register",
    "save_adapter",
]
