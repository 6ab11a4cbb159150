"""Makes the embedded model: `python -m abmll.default.pretrain --out DIR --seed 0`.

Trains a byte-level BPE tokenizer and a small Llama-architecture language model on the text of `world.documents`, and
writes both to DIR in Hugging Face's layout, with `training.json`: losses, tokens, parameters, wall time. The stream of
documents is endless and each is seen once, so the training and the held-out loss differ only by noise.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from abmll.default.tasks import FAMILIES
from abmll.default.vocabulary import ASPECTS, ATTRIBUTES, KINDS, NAMES, QUESTION_WORDS
from abmll.default.world import OPINION_QUESTIONS, documents

BOS, EOS, PAD = "<s>", "</s>", "<pad>"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the model becomes, apart from the world."""

    seed: int = 0
    vocab_size: int = 1280
    hidden_size: int = 96
    num_layers: int = 3
    num_heads: int = 4
    intermediate_size: int = 256
    initializer_range: float = 0.08
    max_length: int = 256
    num_steps: int = 3000
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    answer_weight: float = 25.0
    weight_decay: float = 0.05
    warmup: float = 0.03
    tokenizer_documents: int = 20_000
    heldout_documents: int = 2_000


def words() -> list[str]:
    """Every word that should be one token: attributes, nouns, names, labels, option letters."""
    found = [word for attribute in ATTRIBUTES.values() for word in (attribute.name, *attribute.words)]
    found += [noun for kind in KINDS.values() for noun in kind.nouns]
    found += [choice for family in FAMILIES.values() for choice in family.choices]
    found += [choice for _, choices in OPINION_QUESTIONS for choice in choices]
    found += QUESTION_WORDS
    return [*dict.fromkeys(found), *ASPECTS, *NAMES, *"ABCDEFGH"]


def train_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Byte-level BPE: encodes any UTF-8 text, and the world's words in one token each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    corpus = [*islice(documents(recipe.seed, "tokenizer"), recipe.tokenizer_documents)]
    corpus += [f" {word}" for word in words()] * 200
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=recipe.max_length,
        clean_up_tokenization_spaces=False,
    )


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained model, its initial weights a function of the seed."""
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden_size,
            num_hidden_layers=recipe.num_layers,
            num_attention_heads=recipe.num_heads,
            num_key_value_heads=recipe.num_heads,
            intermediate_size=recipe.intermediate_size,
            initializer_range=recipe.initializer_range,
            max_position_embeddings=recipe.max_length,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def by_length(texts: Iterator[str], size: int, pool: int = 8) -> Iterator[str]:
    """The same texts, those of each `pool` batches sorted by length: a third less padding."""
    while chunk := sorted(islice(texts, pool * size), key=len):
        yield from chunk


def batches(
    texts: Iterator[str], tokenizer: PreTrainedTokenizerFast, size: int, answer_weight: float = 1.0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of whole documents, right-padded: token ids and loss weights, both (documents, tokens).

    Padding weighs 0, an answer (the token between "Answer:" and the end) `answer_weight`, all else 1.
    """
    while chunk := [text + EOS for text in islice(texts, size)]:
        encoded = tokenizer(chunk, padding=True, padding_side="right", return_tensors="pt")
        weights = encoded.attention_mask.float()
        for row, text in enumerate(chunk):
            if "\nAnswer:" in text:
                weights[row, int(encoded.attention_mask[row].sum()) - 2] = answer_weight
        yield encoded.input_ids, weights


def next_token_nll(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """Negative log-likelihood in nats of every token but the first, (documents, tokens - 1).

    Padding stands on the right, where causal attention hides it from every token that counts: no mask is needed.
    """
    logits = model(input_ids=ids).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")


@torch.no_grad()
def heldout_loss(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> dict[str, float]:
    """Mean negative log-likelihood in nats of documents from a stream of their own: per token, and per answer."""
    texts = islice(documents(recipe.seed, "heldout"), recipe.heldout_documents)
    total, answers, num_tokens, num_answers = 0.0, 0.0, 0, 0
    for ids, weights in batches(texts, tokenizer, 250, answer_weight=2.0):
        nll, weights = next_token_nll(model, ids), weights[:, 1:]
        total += float(nll[weights > 0].sum())
        num_tokens += int((weights > 0).sum())
        answers += float(nll[weights > 1].sum())
        num_answers += int((weights > 1).sum())
    return {"heldout_loss": round(total / num_tokens, 4), "heldout_answer_loss": round(answers / num_answers, 4)}


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    start = max(1, round(recipe.warmup * recipe.num_steps))
    if step < start:
        return (step + 1) / start
    return 0.5 * (1.0 + math.cos(math.pi * (step - start) / max(1, recipe.num_steps - start)))


def pretrain(recipe: Recipe, out: Path, log_every: int = 200) -> dict[str, object]:
    """Trains tokenizer and model, writes them to `out`, and returns what `training.json` holds."""
    started = time.perf_counter()
    tokenizer = train_tokenizer(recipe)
    model = build_model(recipe, tokenizer)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, recipe))
    curve: list[dict[str, float]] = []
    recent: list[tuple[float, float]] = []
    num_tokens = 0
    stream = batches(
        by_length(documents(recipe.seed), recipe.batch_size), tokenizer, recipe.batch_size, recipe.answer_weight
    )
    for step, (ids, weights) in enumerate(stream, start=1):
        nll, weights = next_token_nll(model, ids), weights[:, 1:]
        ((nll * weights).sum() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        counted = weights > 0
        num_tokens += int(counted.sum())
        recent.append((nll.detach()[counted].mean().item(), nll.detach()[weights > 1.0].mean().item()))
        if step % log_every == 0 or step == recipe.num_steps:
            loss, answer_loss = (round(sum(column) / len(recent), 4) for column in zip(*recent, strict=True))
            curve.append({"step": step, "loss": loss, "answer_loss": answer_loss})
            seconds = time.perf_counter() - started
            print(
                f"step {step:>6}/{recipe.num_steps}  loss {loss:.4f}  answer {answer_loss:.4f}  {seconds:.0f} s",
                flush=True,
            )
            recent = []
        if step == recipe.num_steps:
            break
    model.eval()
    report: dict[str, object] = {
        "recipe": asdict(recipe),
        "parameters": model.num_parameters(),
        "tokens": num_tokens,
        "train_loss": curve[-1]["loss"],
        **heldout_loss(model, tokenizer, recipe),
        "wall_seconds": round(time.perf_counter() - started, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "curve": curve,
    }
    # float16 halves the file; the loader turns it back into float32 (rounding costs < 1e-4 nats a token).
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "training.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write model and tokenizer to")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=Recipe.num_steps, help="optimiser steps")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report = pretrain(Recipe(seed=arguments.seed, num_steps=arguments.steps), arguments.out)
    print(
        {
            key: report[key]
            for key in ("parameters", "tokens", "train_loss", "heldout_loss", "heldout_answer_loss", "wall_seconds")
        }
    )


if __name__ == "__main__":
    main()
