"""The door to a Hugging Face causal language model with the adapters META and TASK."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, Unpack

import torch
from torch import Tensor
from torch.nn.functional import pad

from abmll.adapters.library import only, routed
from abmll.adapters.roles import adapter_parameters
from abmll.adapters.stacked import stacked
from abmll.core.errors import AbmllError
from abmll.core.notices import tell
from abmll.core.types import META, Example, Features, Gate, PassRequest, Requested, Role, Terms
from abmll.gaussian.stochastic_pass import StochasticPass, UnfitLayer, stochastic_pass
from abmll.language.context import check_tokens, context_of
from abmll.language.dropout import AdapterDropout
from abmll.language.functional import called_at
from abmll.language.letters import NEEDED, letter_agreement, letters_fit, some_of_each
from abmll.language.packing import PackedModel
from abmll.language.packing.batch import Batch, scored_lengths
from abmll.language.prompt import Encoded, PromptFormat, encode

ROOM = 64
"""Tokens of the longest answer that is expected, where a length must be named before any is seen."""


class CausalLMLikelihood:
    """p(choice | question, φ) under a causal LM; implements `abmll.core.types.Likelihood`.

    Args:
        model: a PEFT model with the adapters "meta" and "task" (`abmll.adapters.attach_roles`).
        tokenizer: its tokenizer.
        prompt: how questions are put and answers scored.
        batch_size: how many questions a prediction pass takes.
    """

    def __init__(self, model: Any, tokenizer: Any, prompt: PromptFormat | None = None, *, batch_size: int = 32) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.prompt = prompt or PromptFormat()
        self.batch_size = batch_size
        base = model.get_base_model()
        self._context = context_of(base)
        longest = min(self.prompt.max_tokens + ROOM, self._context or self.prompt.max_tokens + ROOM)
        self._packed = PackedModel(model, _pad_id(tokenizer, base), context=self._context, longest=longest)
        self._encoded: dict[Example, Encoded] = {}
        self._parameters: dict[str, dict[str, Tensor]] = {}
        self._dropout = AdapterDropout(model)
        self._substituted: Callable[..., Any] | None = None
        self._stacked = False

    def __repr__(self) -> str:
        return f"CausalLMLikelihood({type(self.model.get_base_model()).__name__}, {self.prompt!r})"

    def settle(self, examples: Sequence[Example]) -> None:
        """Replaces answer = "auto" by what the model can do, found on examples as it stands; else does nothing.

        Args:
            examples: A few rows; their labels are not looked at. Whatever is asked first is taken if nobody settles it.
        """
        if self.prompt.answer != "auto":
            return
        asked, auto = some_of_each([examples]), self.prompt
        agreement = None
        if letters_fit(examples):
            self.prompt = replace(auto, answer="letters")
            try:
                agreement = letter_agreement(lambda rows: self.choice_log_probs(rows)[0], asked)
            except AbmllError:  # too long with all choices listed, say: such rows cannot be answered by letters
                agreement = None
        answer: Literal["letters", "text"] = "letters" if agreement is not None and agreement >= NEEDED else "text"
        self.prompt = replace(auto, answer=answer)
        self._encoded.clear()
        found = "rows do not fit letters" if agreement is None else f"agreement of answers by letters {agreement:.2f}"
        tell(f'answer = "{answer}" ({found}; {NEEDED} is needed for letters).')

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in, whatever the adapters are kept in."""
        dtype: torch.dtype = self.model.get_base_model().dtype
        return dtype

    def parameters(self, role: Role) -> dict[str, Tensor]:
        if role not in self._parameters:
            self._parameters[role] = dict(adapter_parameters(self.model, role))
        return dict(self._parameters[role])

    @contextmanager
    def at(self, params: Mapping[Role, Mapping[str, Tensor]]) -> Iterator[None]:
        """See `FunctionalLikelihood.at`. Raises AbmllError under gradient checkpointing or fused attention."""
        own = {id(tensor): name for name, tensor in self.model.named_parameters()}
        tensors = {
            own[id(parameter)]: params[role][name]
            for role in params
            for name, parameter in self.parameters(role).items()
        }
        with called_at(self.model, tensors) as self._substituted:
            try:
                yield
            finally:
                self._substituted = None

    @contextmanager
    def stacked(self, params: Mapping[str, Tensor]) -> Iterator[None]:
        """See `StackedLikelihood.stacked`."""
        self._packed.examine()  # in here the model has the adapters of several tasks
        with stacked(self.model, params):
            self._stacked = True
            try:
                yield
            finally:
                self._stacked = False

    @contextmanager
    def only(self, index: int, count: int) -> Iterator[None]:
        """See `LibraryLikelihood.only`."""
        self._packed.examine()
        with only(self.model, index, count):
            yield

    @contextmanager
    def routed(self, gates: Mapping[str, Gate]) -> Iterator[None]:
        """See `LibraryLikelihood.routed`."""
        self._packed.examine()  # which of two LoRAs is asked hangs on the last digit: no ground to compare passes on
        with routed(self.model, gates):
            yield

    @contextmanager
    def terms(self, examples: Sequence[Example], **requested: Unpack[Requested]) -> Iterator[Terms]:
        """See `Likelihood.terms`; one pass over all `examples`, so the caller chooses the batch.

        Without sampling it may be several, of texts of like length, which come to the same with less padding.
        """
        request = PassRequest(**requested)
        self.settle(examples)
        encoded = [self.encode(example) for example in examples]
        known = [example.known_target for example in examples]
        targets = torch.tensor(known, device=self.model.device)
        by_tokens = self.prompt.loss == "tokens"
        by_length = not request.sample and not self._stacked
        if by_tokens:
            answers = [[[*item.choices[target], *item.ending]] for item, target in zip(encoded, known, strict=True)]
            batches = self._pack(encoded, answers, [item.supervised for item in encoded], by_length=by_length)
        else:
            batches = self._pack(encoded, [item.choices for item in encoded], by_length=by_length)
        with self._stochastic_pass(META if request.kl or request.hyper_prior else None, **requested) as stochastic:
            log_probs = self._packed.log_probs(batches, stochastic, self._substituted)
            if by_tokens:
                nll = -log_probs.sum((1, 2))
            else:
                nll = -self._choices(log_probs, batches).gather(1, targets[:, None]).squeeze(1)
            num_tokens = sum(int(batch.counted.sum()) for batch in batches)
            yield Terms(nll, stochastic.kl(), stochastic.hyper(), num_tokens)

    @torch.no_grad()
    def choice_log_probs(self, examples: Sequence[Example], *, num_samples: int = 0) -> Tensor:
        """See `Likelihood.choice_log_probs`. Questions of like length share a pass, as do a question's samples.

        The noise of a sample depends on its place in the pass: from one state of the global generator the same
        questions in the same order have the same samples, other questions beside them give others.
        """
        if not examples:
            raise AbmllError("nothing to predict: the list of examples is empty.")
        self.settle(examples)
        encoded = [self.encode(example) for example in examples]
        samples = max(1, num_samples)
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].prefix))
        width = max(len(item.choices) for item in encoded)
        out = torch.full((samples, len(encoded), width), -torch.inf)
        step = max(1, self.batch_size // samples)
        for start in range(0, len(order), step):
            chosen = order[start : start + step]
            items = [encoded[i] for i in chosen] * samples
            batches = self._pack(items, [item.choices for item in items])
            with self._stochastic_pass(sample=num_samples > 0) as stochastic:
                log_probs = self._choices(self._packed.log_probs(batches, stochastic), batches)
            out[:, chosen, : log_probs.shape[1]] = log_probs.view(samples, len(chosen), -1).to("cpu", out.dtype)
        return out

    @contextmanager
    def choice_graph(self, examples: Sequence[Example]) -> Iterator[Tensor]:
        """See `Likelihood.choice_graph`; one pass over all `examples`."""
        self.settle(examples)
        encoded = [self.encode(example) for example in examples]
        batches = self._pack(encoded, [item.choices for item in encoded])
        with self._stochastic_pass() as stochastic:
            yield self._choices(self._packed.log_probs(batches, stochastic, self._substituted), batches)

    @contextmanager
    def features(self, examples: Sequence[Example]) -> Iterator[Features]:
        """See `FeatureLikelihood.features`. Without a graph, questions of like length share a pass."""
        if not examples:
            raise AbmllError("nothing to read: the list of examples is empty.")
        self.settle(examples)
        encoded = [self.encode(example) for example in examples]
        order = list(range(len(encoded)))
        step = len(order)
        if not torch.is_grad_enabled():
            order.sort(key=lambda i: len(encoded[i].prefix))
            step = self.batch_size
        width = max(len(item.choices) for item in encoded)
        parts = []
        with self._stochastic_pass() as stochastic:
            for start in range(0, len(order), step):
                items = [encoded[i] for i in order[start : start + step]]
                batches = self._pack(items, [item.choices for item in items])
                scores, hidden = self._packed.with_hidden(batches, stochastic)
                log_probs = self._choices(scores, batches)
                parts.append((hidden, pad(log_probs, (0, width - log_probs.shape[1]), value=-torch.inf)))
            back = torch.tensor(order, device=self.model.device).argsort()
            hidden, log_probs = (torch.cat(part)[back] for part in zip(*parts, strict=True))
            yield Features(hidden, log_probs, [self._answers(example) for example in examples])

    def encode(self, example: Example) -> Encoded:
        """Token ids of an example; each distinct example is tokenised once, if it has no demonstrations.

        Demonstrations make every prompt of a long meta-training new, and keeping them all would fill the memory.
        """
        if example in self._encoded:
            return self._encoded[example]
        encoded = encode(example, self.tokenizer, self.prompt, self._context)
        ids = (token for part in (encoded.prefix, *encoded.choices, encoded.ending) for token in part)
        check_tokens(self.model.get_base_model(), self.tokenizer, ids)
        if not example.demonstrations:
            self._encoded[example] = encoded
        return encoded

    def _answers(self, example: Example) -> list[tuple[int, ...]]:
        """The tokens of its choices' texts. Of letters too: a letter says where a choice stands, not which it is."""
        if self.prompt.answer == "letters":
            texts = self.tokenizer(list(example.choices), add_special_tokens=False)["input_ids"]
            return [tuple(tokens) for tokens in texts]
        return [tuple(choice) for choice in self.encode(example).choices]

    def _pack(
        self,
        encoded: Sequence[Encoded],
        answers: Sequence[Sequence[Sequence[int]]],
        supervised: list[int] | None = None,
        *,
        by_length: bool = False,
    ) -> list[Batch]:
        return self._packed.pack([item.prefix for item in encoded], answers, supervised, by_length=by_length)

    @contextmanager
    def _stochastic_pass(self, prior: str | None = None, **requested: Unpack[Requested]) -> Iterator[StochasticPass]:
        self._dropout.on = requested.get("sample", False)
        try:
            with stochastic_pass(prior=prior, **requested) as record:
                yield record
        except UnfitLayer as error:
            base = self.model.get_base_model()
            path = next((path for path, module in base.named_modules() if module is error.layer), "a layer")
            raise AbmllError(f"{path!r} of this {type(base).__name__}: {error}") from error
        finally:
            self._dropout.on = False

    def _choices(self, log_probs: Tensor, batches: Sequence[Batch]) -> Tensor:
        """(n, c): normalised over the choices that exist; -inf where there is none."""
        total = log_probs.sum(-1)
        lengths = scored_lengths(batches)
        if self.prompt.score == "mean":
            total = total / lengths.clamp(min=1)
        return total.masked_fill(lengths == 0, -torch.inf).log_softmax(-1)


def _pad_id(tokenizer: Any, base: Any) -> int:
    """A token for the padding, of which nothing depends: one that the model has an embedding for."""
    rows = base.get_input_embeddings().weight.shape[0]
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, getattr(base.config, "eos_token_id", None))
    return next((i for i in ids if isinstance(i, int) and 0 <= i < rows), 0)
