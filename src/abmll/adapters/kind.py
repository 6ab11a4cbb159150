"""Which kinds of model can be scored, told from their configuration before anything is computed."""

from __future__ import annotations

from typing import Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from abmll.core.errors import AbmllError

_NEEDED = (
    "A causal language model is needed, which reads a text from left to right and predicts what follows (GPT, Llama, "
    "Qwen, Mistral, Gemma, Mamba, …)."
)
_SEQUENCE_TO_SEQUENCE = ("ForConditionalGeneration", "ForSeq2SeqLM", "EncoderDecoderModel")


def check_kind(config: Any, model: Any = None) -> None:
    """Refuses encoder-decoder models and encoders, by what a configuration says and what it was saved by.

    transformers makes a causal language model of the decoder half of some (BART), and of an encoder that sees what
    comes after (BERT), without a word.

    Args:
        config: A model's configuration, of transformers; of anything else nothing is known, and nothing refused.
        model: The model, if it is there already.

    Raises:
        AbmllError: For those; it names the kind and what is needed.
    """
    kind = getattr(config, "model_type", None)
    if not kind:
        return
    saved_by = list(getattr(config, "architectures", None) or [])
    names = [type(model).__name__] if model is not None else []
    who = (names or saved_by or [kind])[0]
    by_name = any(name.endswith(_SEQUENCE_TO_SEQUENCE) for name in (*names, *saved_by))
    if getattr(config, "is_encoder_decoder", False) or (by_name and _reads_with_an_encoder(kind)):
        raise AbmllError(f"{who} ({kind}) is an encoder-decoder model. {_NEEDED}")
    encoder = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and getattr(config, "is_decoder", None) is False
    if encoder or (kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        decoder = " One that was trained as a decoder is loaded with is_decoder=True." if encoder else ""
        raise AbmllError(f"{who} ({kind}) is an encoder, which sees the whole text at once. {_NEEDED}{decoder}")
    if model is not None and hasattr(model, "get_output_embeddings") and model.get_output_embeddings() is None:
        raise AbmllError(f"{who} ({kind}) has no language model's head. {_NEEDED} Load it by AutoModelForCausalLM.")
    if model is not None and hasattr(model, "get_input_embeddings"):
        try:
            table = getattr(model.get_input_embeddings(), "weight", None)
        except NotImplementedError:
            table = None
        if table is None:
            raise AbmllError(f"{who} ({kind}) has no one table of embeddings for the tokens of a text. {_NEEDED}")
    if model is not None and hasattr(model, "forward") and not hasattr(model, "prepare_inputs_for_generation"):
        raise AbmllError(f"{who} ({kind}) cannot continue a text. {_NEEDED} Load it by AutoModelForCausalLM.")


def _reads_with_an_encoder(kind: str) -> bool:
    """Whether models of this type are encoder-decoders unless they say otherwise: not those that see images as well."""
    from transformers import CONFIG_MAPPING

    return kind in CONFIG_MAPPING and bool(getattr(CONFIG_MAPPING[kind](), "is_encoder_decoder", False))
