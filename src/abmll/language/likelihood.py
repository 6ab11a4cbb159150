"""The door to a Hugging Face causal language model with the adapters META and TASK."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from abmll.adapters.roles import adapter_parameters
from abmll.adapters.stacked import stacked
from abmll.core.divergence import stochastic_pass
from abmll.core.errors import AbmllError
from abmll.core.notices import tell
from abmll.core.types import META, Estimator, Example, Role, Terms
from abmll.language.batch import Batch, pack, score
from abmll.language.dropout import adapter_dropouts, switch
from abmll.language.functional import called_at
from abmll.language.letters import NEEDED, letter_agreement, letters_fit, some_of_each
from abmll.language.prompt import Encoded, PromptFormat, encode
from abmll.language.trunk import Trunk

MASKS_4D = {"eager", "sdpa"}
"""Attention implementations that take the mask of several multi-token choices behind one prompt."""


class CausalLMLikelihood:
    """p(choice | question, φ) under a causal LM; implements `abmll.core.types.Likelihood`.

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
        self._pad_id = next(
            (
                i
                for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, base.config.eos_token_id)
                if isinstance(i, int)
            ),
            0,
        )
        takes = inspect.signature(base.forward).parameters
        # By index, not by number: the last columns are a view that is not contiguous, from which torch makes a batched
        # product with a copy of the vocabulary's matrix for every row.
        self._keeps_columns = "logits_to_keep" in takes and "Tensor" in str(takes["logits_to_keep"].annotation)
        self._takes_positions = "position_ids" in takes
        self._attention = getattr(base.config, "_attn_implementation", "eager")
        self._encoded: dict[Example, Encoded] = {}
        self._parameters: dict[str, dict[str, Tensor]] = {}
        self._dropouts = adapter_dropouts(model)
        self._substituted: Callable[..., Any] | None = None
        self._trunk = Trunk.of(model, self._logits_of_own, takes_masks=self._attention in MASKS_4D)

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
        if self._trunk is not None:
            self._trunk.check()  # in here the model takes no batches but T equal blocks of rows
        with stacked(self.model, params):
            yield

    @contextmanager
    def terms(
        self,
        examples: Sequence[Example],
        *,
        sample: bool = False,
        kl: Estimator | None = None,
        hyper_prior: bool = False,
        prior_only: bool = False,
    ) -> Iterator[Terms]:
        """See `Likelihood.terms`; one pass over all `examples`, so the caller chooses the batch."""
        self.settle(examples)
        encoded = [self.encode(example) for example in examples]
        targets = torch.tensor([item.target for item in encoded], device=self.model.device)
        by_tokens = self.prompt.loss == "tokens"
        if by_tokens:
            answers = [[[*item.choices[item.target], *item.ending]] for item in encoded]
            batch = self._pack(encoded, answers, [item.supervised for item in encoded])
        else:
            batch = self._pack(encoded, [item.choices for item in encoded])
        self.model.train()
        if self._trunk is not None:
            self._trunk.still()
        switch(self._dropouts, sample)
        with stochastic_pass(
            sample=sample,
            prior=META if kl or hyper_prior else None,
            estimator=kl or "closed_form",
            hyper_prior=hyper_prior,
            prior_only=prior_only,
            mask=batch.token_mask,
        ) as stochastic:
            log_probs = score(self._logits(batch), batch)
            if by_tokens:
                nll = -log_probs.sum((1, 2))
            else:
                nll = -self._choices(log_probs, batch).gather(1, targets[:, None]).squeeze(1)
            yield Terms(nll, stochastic.kl(), stochastic.hyper(), int(batch.token_mask.sum()))

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
        self.model.eval()
        switch(self._dropouts, num_samples > 0)
        for start in range(0, len(order), step):
            chosen = order[start : start + step]
            items = [encoded[i] for i in chosen] * samples
            batch = self._pack(items, [item.choices for item in items])
            with stochastic_pass(sample=num_samples > 0, mask=batch.token_mask):
                log_probs = self._choices(score(self._logits(batch), batch), batch)
            out[:, chosen, : log_probs.shape[1]] = log_probs.view(samples, len(chosen), -1).to("cpu", out.dtype)
        return out

    @contextmanager
    def choice_graph(self, examples: Sequence[Example]) -> Iterator[Tensor]:
        """See `Likelihood.choice_graph`; one pass over all `examples`."""
        self.settle(examples)
        encoded = [self.encode(example) for example in examples]
        batch = self._pack(encoded, [item.choices for item in encoded])
        self.model.eval()
        with stochastic_pass(mask=batch.token_mask):
            yield self._choices(score(self._logits(batch), batch), batch)

    def encode(self, example: Example) -> Encoded:
        """Token ids of an example; each distinct example is tokenised once, if it has no demonstrations.

        Demonstrations make every prompt of a long meta-training new, and keeping them all would fill the memory.
        """
        if example.demonstrations:
            return encode(example, self.tokenizer, self.prompt)
        if example not in self._encoded:
            self._encoded[example] = encode(example, self.tokenizer, self.prompt)
        return self._encoded[example]

    def _pack(
        self,
        encoded: Sequence[Encoded],
        answers: Sequence[Sequence[Sequence[int]]],
        supervised: list[int] | None = None,
    ) -> Batch:
        prefixes = [item.prefix for item in encoded]
        batch = pack(prefixes, answers, pad_id=self._pad_id, supervised=supervised)
        if batch.attention is not None and self._attention not in MASKS_4D:
            raise AbmllError(
                f"choices of several tokens need a mask that attn_implementation={self._attention!r} does not "
                'take. Load the model with attn_implementation="sdpa", or ask for letters (answer = "letters").'
            )
        if self._trunk is not None:
            batch = self._trunk.filled(batch)
        return batch.to(self.model.device)

    def _logits(self, batch: Batch) -> Tensor:
        """(n, k, vocabulary): the model's predictions in the kept columns."""
        with nullcontext() if self._trunk is None else self._trunk.stands_for(batch.hidden):
            return self._logits_by(self._substituted or self.model, batch)

    def _logits_of_own(self, batch: Batch) -> Tensor:
        """`_logits` of the model as it stands, trunk and all."""
        return self._logits_by(self.model, batch)

    def _logits_by(self, call: Callable[..., Any], batch: Batch) -> Tensor:
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False}
        if batch.attention is None:
            inputs["attention_mask"] = batch.token_mask.long()
        else:
            # Additive: eager attention adds the mask, and fused kernels take it just the same.
            blocked = torch.finfo(self.model.dtype).min
            mask = torch.zeros(batch.attention.shape, dtype=self.model.dtype, device=batch.attention.device)
            inputs["attention_mask"] = mask.masked_fill(~batch.attention, blocked)[:, None]
        if self._takes_positions:
            inputs["position_ids"] = batch.position_ids
        if not self._keeps_columns:
            return call(**inputs).logits[:, batch.kept]
        return call(**inputs, logits_to_keep=batch.kept).logits

    def _choices(self, log_probs: Tensor, batch: Batch) -> Tensor:
        """(n, c): normalised over the choices that exist; -inf where there is none."""
        total = log_probs.sum(-1)
        lengths = batch.scored.sum(-1)
        if self.prompt.score == "mean":
            total = total / lengths.clamp(min=1)
        return total.masked_fill(lengths == 0, -torch.inf).log_softmax(-1)
