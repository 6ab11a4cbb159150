"""The one place that touches PEFT's closed list of adapter types."""

from __future__ import annotations

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType

NAME = "ABMLL"
PREFIX = "abmll_"


def register() -> None:
    """Makes `get_peft_model`, `PeftModel.from_pretrained` etc. know the type "ABMLL". Does nothing the second time.

    `register_peft_method` accepts only members of the enum `PeftType`, and PEFT has no way to add one from outside.
    """
    _add_peft_type(NAME)
    if PeftType[NAME] in PEFT_TYPE_TO_CONFIG_MAPPING:
        return
    from abmll.adapters.abmll import AbmllConfig, AbmllModel

    register_peft_method(name=NAME.lower(), config_cls=AbmllConfig, model_cls=AbmllModel, prefix=PREFIX)


def _add_peft_type(name: str) -> None:
    """Extends the enum through the three maps in which the standard library keeps an enum's members."""
    if name in PeftType.__members__:
        return
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    setattr(member, "_sort_order_", len(PeftType.__members__))  # noqa: B010 (type checkers do not know it)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)
