"""The only user of transformers: prompts, batches and the likelihood of a causal language model."""

from abmll.language.likelihood import CausalLMLikelihood
from abmll.language.prompt import PAPER_INSTRUCTION, PromptFormat

__all__ = ["PAPER_INSTRUCTION", "CausalLMLikelihood", "PromptFormat"]
