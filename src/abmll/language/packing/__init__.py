"""Questions packed into forward passes, in whichever way a model bears."""

from abmll.language.packing.packed import PackedModel

__all__ = ["PackedModel"]
