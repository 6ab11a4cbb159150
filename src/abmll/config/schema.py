"""Everything that a run file may say: one frozen model a section, one described field a line.

A default of None means what the method, the suite or the model itself prefers. Types are strict: TOML knows whole
numbers from text, so a quoted number is a mistake and is told as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from abmll.rules import Amount, Count, Names, Positive, Rank, Schedule, Text, Tokens, distinct


class Section(BaseModel):
    """A table of a run file. Frozen; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


def not_empty(value: Any) -> Any:
    """Refuses the empty text, which Python takes for the current folder."""
    if value == "":
        raise ValueError("an empty path")
    return value


# TOML has only lists and text where Python wants tuples and paths: these two are read leniently.
FilePath = Annotated[Path, Field(strict=False), BeforeValidator(not_empty)]
Seconds = Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)]
Counts = Annotated[tuple[Amount, ...], Field(strict=False, min_length=1), AfterValidator(distinct)]


class ModelConfig(Section):
    """The language model to adapt; its own weights are never changed."""

    name: str = Field(
        default="default",
        min_length=1,
        description='Hugging Face name or folder of a causal LM, or a name of `abmll models list`: "default" is the '
        'small one in the package, "smollm2" a real one that is fetched on first use.',
    )
    revision: str | None = Field(
        default=None, min_length=1, description="Branch, tag or commit of a Hugging Face model."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Type of the model's own weights; adapters always stay float32. \"auto\" is the model's own type "
        "where the device has arithmetic for it, else float32.",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        examples=["auto", "cpu", "mps", "cuda", "cuda:1"],
        description='Where to compute; "auto" takes a GPU if there is one.',
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Recompute activations in the backward pass: much less memory, about a third slower.",
    )
    shard: int = Field(
        default=1,
        ge=1,
        description="How many processes hold one copy of the model's weights between them, if one GPU cannot (FSDP2); "
        "needs torchrun.",
    )
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flex_attention"] | None = Field(
        default=None, description="Attention kernel of transformers; unset takes the model's own."
    )


class DataConfig(Section):
    """The tasks, and which of them meta-training never sees."""

    suite: str = Field(
        default="default",
        min_length=1,
        description='A shipped suite ("default", "default-wide", "concepts": generated), a folder of task files or a '
        "suite TOML.",
    )
    folder: FilePath | None = Field(
        default=None, description="Where the suite's task files lie, for suites that ship without them."
    )
    held_out: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Fraction of tasks to hold out, in whole families; unset takes the suite's own split.",
    )
    split_seed: int | None = Field(
        default=None, ge=0, description="Draws the families that held_out takes; unset takes the suite's own."
    )
    max_rows: int | None = Field(
        default=None, ge=2, description="Read at most this many rows of each task; unset reads all."
    )


class PromptConfig(Section):
    """How an example becomes text, and an answer a probability."""

    answer: Literal["auto", "letters", "text"] = Field(
        default="auto",
        description='Answer by the letter of a listed choice, or by the "text" of the choice itself; "auto" takes '
        "letters if the model answers by them.",
    )
    score: Literal["mean", "sum"] = Field(
        default="mean",
        description="Log-likelihood of an answer of several tokens: mean over its tokens, or their sum.",
    )
    loss: Literal["choices", "tokens"] = Field(
        default="choices",
        description="Cross-entropy over the choices, or over the vocabulary at each answer token.",
    )
    instruction: str = Field(default="", description="Put before every prompt, verbatim.")
    max_tokens: Tokens = Field(
        default=512,
        description="Longest prompt; a longer one loses the middle of its text, never its choices.",
    )
    max_question_tokens: Tokens | None = Field(
        default=None,
        description="Longest question, and longest demonstration of it, in a prompt; unset leaves them max_tokens.",
    )
    chat: bool = Field(default=False, description="Wrap the prompt in the tokenizer's chat template (instruct models).")


class AdapterConfig(Section):
    """The low-rank parameters that are learned."""

    r: Rank = Field(default=8, description="Rank of every low-rank product.")
    lora_alpha: Count = Field(default=16, description="Scaling: the product is multiplied by lora_alpha / r.")
    target_modules: Text | Names = Field(
        default="all-linear",
        description='Layers to adapt: names such as ["q_proj", "v_proj"], a regular expression, or "all-linear".',
    )
    upper_layers: Count | None = Field(
        default=None,
        description="Adapt only so many blocks, the last ones; what those below make of a row is computed once and "
        "kept. Unset adapts all.",
    )


class MethodConfig(Section):
    """What learns. `abmll train` takes one method, `abmll evaluate` may compare several."""

    name: str | Names = Field(default="abmll", description="A method, or for evaluate a list of them.")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Keyword options of the method; a table [method.options.NAME] is for that method alone.",
    )
    tuned: FilePath | None = Field(
        default=None,
        description="File that `abmll tune` wrote; its options hold where this run file says nothing else.",
    )

    @property
    def names(self) -> tuple[str, ...]:
        """The methods, always as a tuple."""
        return (self.name,) if isinstance(self.name, str) else self.name

    def options_for(self, name: str) -> dict[str, Any]:
        """The keyword options of one method: the shared ones that it knows, then its own table."""
        from abmll.config.methods import known_options

        known = known_options(name)
        shared = {key: value for key, value in self.options.items() if key in known}
        own = self.options.get(name)
        return shared | dict(own) if isinstance(own, Mapping) else shared


class EpisodesConfig(Section):
    """One visit to one task: adapt on a support set, be evaluated on a query set."""

    support_size: Count = Field(default=16, description="Labelled examples to adapt on in each training episode.")
    query_size: Amount = Field(default=16, description="Further examples of the same task to be evaluated on.")
    order: Literal["random", "sequential"] = Field(
        default="random", description="How tasks follow each other: drawn at random, or in the suite's order."
    )
    balanced: bool = Field(default=False, description="Draw support sets with equally many examples of every class.")


class TrainingConfig(Section):
    """The outer loop."""

    num_steps: Count = Field(default=500, description="Outer steps.")
    episodes_per_step: Count = Field(default=1, description="Episodes whose gradients are averaged in one outer step.")
    learning_rate: Positive | None = Field(
        default=None, description="Of the outer optimiser; unset takes the method's own."
    )
    schedule: Schedule | None = Field(
        default=None, description="Of the outer learning rate; unset takes the method's own."
    )
    max_grad_norm: Positive | None = Field(
        default=None, description="Clip the meta-gradient to this norm; unset takes the method's own."
    )
    checkpoint_every: Count = Field(default=100, description="Outer steps between two checkpoints.")
    keep_checkpoints: Count = Field(default=2, description="How many of the newest checkpoints to keep.")
    tensorboard: bool = Field(
        default=False, description="Also write TensorBoard events (needs the extra abmll[tensorboard])."
    )


class EvaluationConfig(Section):
    """What is measured on the held-out tasks. Supports are nested and queries shared, so comparisons are paired."""

    support_sizes: Counts = Field(
        default=(16,), description="Numbers of labelled examples to adapt on; 0 is zero-shot."
    )
    num_samples: Amount = Field(
        default=16, description="Posterior samples to average at prediction; 0 predicts at the mean."
    )
    num_query: Count | None = Field(
        default=None, description="Examples to predict for each task and seed; unset takes all that remain."
    )
    seeds: Counts = Field(default=(0, 1, 2), description="Each draws its own support sets.")
    split: Literal["test", "validation", "train"] = Field(default="test", description="Which tasks of the suite.")
    order: Literal["random", "file"] = Field(
        default="random",
        description='Of a task\'s rows: drawn by the seed, or as they stand in their "file", as in published runs.',
    )
    references: bool = Field(
        default=True,
        description="Also judge uniform, label-frequency and pretrained (zero-shot), which every number should be read "
        "against; the first two take no pass of the model.",
    )
    texts: bool = Field(
        default=True,
        description="Keep the texts of the examples beside the predictions (queries.jsonl), for the report's mistakes; "
        "false for private ones.",
    )
    adaptation_seconds: Seconds | None = Field(
        default=None,
        description="Adapt with as many gradient steps as fit into these seconds, one number for each support size or "
        "one for all; unset takes the method's own number of steps.",
    )
    same_seconds_as: str | None = Field(
        default=None,
        min_length=1,
        description="For compare: the method whose median seconds of adaptation, at each support size, all others get.",
    )


class TuneConfig(Section):
    """`abmll tune`: random search over the options of each method, evaluated on the validation tasks alone."""

    trials: int = Field(
        default=16, ge=1, description="Settings that are tried for each method, its defaults among them."
    )
    metric: Literal["nll", "brier", "accuracy", "ece"] = Field(
        default="nll", description="What decides: the mean over validation tasks and support sizes."
    )
    num_steps: int | None = Field(
        default=None, ge=1, description="Outer steps of a trial; unset trains as long as training.num_steps says."
    )
    held_out: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="Fraction of the training tasks to choose by, in whole families, where the suite has no validation "
        "tasks (as with data.held_out).",
    )
    seed: int = Field(default=0, ge=0, description="Of the options drawn, and of a trial's training and support sets.")


class RunConfig(Section):
    """A whole run."""

    seed: int = Field(default=0, ge=0, description="Of initialisation, episodes and posterior samples in training.")
    output: FilePath = Field(default=Path("runs/run"), description="Folder for everything that the run writes.")
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    prompt: PromptConfig = PromptConfig()
    adapter: AdapterConfig = AdapterConfig()
    method: MethodConfig = MethodConfig()
    episodes: EpisodesConfig = EpisodesConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tune: TuneConfig = TuneConfig()
