"""A language model with one method attached: meta-train, adapt, predict, evaluate, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from abmll.adapters import load_adapter
from abmll.card import read_card
from abmll.config.schema import EvaluationConfig
from abmll.core.errors import AbmllError
from abmll.core.finite import require_finite_posterior
from abmll.core.folders import hold
from abmll.core.seeds import derive_seed, seeded
from abmll.core.types import META, Likelihood, Method, Metrics, Posterior, Role
from abmll.data.episodes import Order, RowOrder, Size
from abmll.data.task import Task
from abmll.evaluation.evaluate import evaluate
from abmll.evaluation.predictions import CellKey
from abmll.learner.adapted_model import AdaptedModel
from abmll.learner.attachment import working
from abmll.learner.checked import require_rows, require_tasks
from abmll.learner.chosen import method_of_card
from abmll.learner.evaluation import Evaluation
from abmll.learner.folder import adapter_as_it_stands, read_posterior, require_same, write_folder
from abmll.learner.from_adapters import learn_from_adapters
from abmll.learner.given import labelled_rows
from abmll.learner.many_tasks import adapt_together
from abmll.learner.meta_training import meta_training
from abmll.learner.posterior import TaskPosterior
from abmll.learner.tasks import Tasks, held_out_tasks, training_tasks
from abmll.rules import Amount, Count, plain, require, rules_of
from abmll.training.log import Record
from abmll.training.loop import TrainingResult, train
from abmll.training.settings import Training


class Learner(AdaptedModel):
    """A causal LM with one method attached.

    Args:
        model: a name (`"default"`, `"smollm2"`, a Hugging Face name), the path of a folder, or a causal LM of
            transformers with linear layers. PEFT wraps it in place, and its weights stay frozen.
        tokenizer: its tokenizer; left out with a name, which brings its own.
        method: a name (`abmll config --methods` lists them), `"package.module:factory"`, a function that makes a
            method, or an `abmll.Method`.
        prompt: how questions are put and answers scored.
        r: rank of the adapter.
        lora_alpha: its scaling: the product of the factors is multiplied by lora_alpha / r.
        target_modules: the layers to adapt: names, a regular expression, or "all-linear".
        upper_layers: how many blocks are adapted, from the last one down; None adapts all. What the blocks below make
            of a row is computed once and kept (docs/performance.md).
        prediction_batch_size: how many questions a prediction pass takes; a method's own `batch_size` is another thing.
        seed: of the adapter's initialisation.
        dtype: of the weights of a model given by name: "auto", "float32", "bfloat16" or "float16".
        device: where a model given by name computes: "auto", "cpu", "cuda", ...
        revision: branch, tag or commit of a Hugging Face model.
        **options: the method's own options, for a method given by name or as a function.

    Raises:
        AbmllError: For an unknown model, method, option or layer, and for values of a wrong type or out of range.
    """

    _loaded: TaskPosterior | None = None

    def meta_train(
        self,
        tasks: Tasks | None = None,
        *,
        from_adapters: Sequence[str | PathLike[str]] | None = None,
        training: Training | None = None,
        support_size: Size = 16,
        query_size: Size = 16,
        order: Order = "random",
        balanced: bool = False,
        learning_rate: float | None = None,
        schedule: str | None = None,
        max_grad_norm: float | None = None,
        directory: str | PathLike[str] | None = None,
        resume: bool = False,
        progress: bool = True,
        on_step: Callable[[Record], None] | None = None,
        validate: Callable[[Likelihood], Metrics] | None = None,
        settings: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> TrainingResult:
        """Learns θ over tasks: the outer loop, as `abmll train` runs it.

        Args:
            tasks: the tasks to train on, a suite (its training side), a folder of task files, a suite TOML, or the name
                of a suite. None with `from_adapters`: θ is then what those say, and nothing is trained.
            from_adapters: folders of LoRAs that PEFT has trained, one a task, on the layers and with the rank of this
                learner: θ is set to the mean of what they change and to their spread about it (docs/from-adapters.md).
                Meta-training goes on from there if `tasks` are given. Not with `resume`, which knows where it was.
            training: steps, episodes a step, seed, checkpoints; see `abmll.Training`. Its fields may also be given by
                themselves: `num_steps=200`.
            support_size: labelled examples to adapt on in an episode, or a range (least, most) to draw from.
            query_size: further examples of the same task to be evaluated on, likewise.
            order: "random" draws a task for every episode; "sequential" takes them in turn.
            balanced: draw support sets with equally many examples of every class.
            learning_rate: of the outer optimiser; None takes the method's own.
            schedule: of that rate, "constant", "linear" or "cosine"; None takes the method's own.
            max_grad_norm: clip the meta-gradient to this norm; None takes the method's own.
            directory: gets `training.jsonl` and `checkpoints/`; without it nothing is kept.
            resume: go on from the newest checkpoint in `directory`.
            progress: show a bar.
            on_step: called after every outer step with its record (loss, rate, seconds, ...).
            validate: called every `training.validate_every` steps; its numbers join the record as `validation_…`.
            settings: further facts that a resumed run must share.

        Returns:
            What was done: steps, seconds, the last record.

        Raises:
            AbmllError: For options that break their rules, tasks that cannot be read or are too small, and everything
                that `abmll.training.loop.train` refuses.
        """
        asked = meta_training(
            training,
            fields,
            support_size=support_size,
            query_size=query_size,
            order=order,
            balanced=balanced,
            learning_rate=learning_rate,
            schedule=schedule,
            max_grad_norm=max_grad_norm,
        )
        for name, given in {"on_step": on_step, "validate": validate}.items():
            if given is not None and not callable(given):
                raise AbmllError(f"{name} is {type(given).__name__}: it must be a function.")
        if tasks is None and from_adapters is None:
            raise AbmllError("meta_train needs tasks to train on, or from_adapters=[…], folders of trained LoRAs.")
        if from_adapters is not None and resume:
            raise AbmllError(
                "from_adapters is where training starts, and resume=True goes on from a checkpoint: not both."
            )
        found = () if tasks is None else training_tasks(tasks)
        if from_adapters is not None:
            begun = time.perf_counter()
            with working(self):
                said = learn_from_adapters(self, from_adapters)
            if tasks is None:
                return TrainingResult(0, 0, time.perf_counter() - begun, None, {}, said)
        with working(self):
            self.settle(found)
            require_tasks(self, found)
            result = train(
                self.likelihood,
                asked.of(self.method),
                asked.episodes(found),
                asked.training,
                directory=None if directory is None else Path(directory),
                resume=resume,
                progress=progress,
                on_step=on_step,
                validate=validate,
                settings=settings,
            )
        self.trained_steps = max(self.trained_steps, result.num_steps)
        return result

    def adapt(
        self,
        data: Any,
        labels: Any = None,
        *,
        question: str | None = None,
        classes: Sequence[Any] | Mapping[Any, str] | None = None,
        support_size: int | None = None,
        balanced: bool = True,
        name: str | None = None,
        seed: int = 0,
    ) -> TaskPosterior:
        """The posterior of a task given its labelled rows. Earlier posteriors stay valid.

        Args:
            data: texts, with `labels`; or a task, examples, the path of a task file, a table (a pandas frame, a Hugging
                Face data set, rows or columns as dictionaries) with columns such as "text" and "label".
            labels: one for each text: texts, whole numbers, or true and false; or the name of a table's column.
            question: what is asked of every row, such as "Is the review positive or negative?".
            classes: all classes, if not every one of them is among the labels; or a mapping from labels to the words
                that the model reads: `{0: "negative", 1: "positive"}`.
            support_size: adapt on so many of the rows, drawn by `seed`; None takes all.
            balanced: draw equally many rows of every class.
            name: of the task.
            seed: of the draw and of the adaptation's noise.

        Raises:
            AbmllError: If `data` cannot be read, a row has no label, there are too few rows or fewer than two classes,
                or the learner's adapter is no longer in its model.
        """
        rules = {"support_size": Count | None, "balanced": bool, "seed": int}
        require(rules, {"support_size": support_size, "balanced": balanced, "seed": seed})
        task = labelled_rows(data, labels, question=question, classes=classes, name=name)
        task = task.drawn(plain(support_size), plain(seed), balanced=balanced)
        begun = time.perf_counter()
        with working(self), seeded(derive_seed("adapt", plain(seed))):
            self.likelihood.settle(task.rows)
            require_rows(self, task)
            inner = self.method.adaptation.adapt(self.likelihood, list(task.rows))
        require_finite_posterior(inner, f"task {task.name!r} by {self.name}")
        return TaskPosterior(self, inner, task, time.perf_counter() - begun)

    def adapt_many(self, supports: Sequence[Any], *, tasks_at_once: int = 4) -> list[TaskPosterior]:
        """The posteriors of several tasks, as `adapt` gives them but for rounding, with one pass a step for many tasks.

        A gain of about a sixth on a processor, for a multiple of the memory: see docs/performance.md.

        Args:
            supports: what `adapt` takes without labels, for each task.
            tasks_at_once: how many share a pass; its memory grows with them.

        Raises:
            AbmllError: For methods that adapt by more than gradient steps at the adapter's mean.
        """
        require({"tasks_at_once": Count}, {"tasks_at_once": tasks_at_once})
        return adapt_together(self, [labelled_rows(support) for support in supports], tasks_at_once)

    def evaluate(
        self,
        tasks: Tasks,
        *,
        name: str | None = None,
        seed: int = 0,
        support_sizes: Sequence[int] = (16,),
        num_samples: int = 16,
        num_query: int | None = None,
        known_families: Collection[str] = (),
        done: Collection[CellKey] = (),
        adaptation_seconds: Sequence[float] | None = None,
        order: RowOrder = "random",
    ) -> Evaluation:
        """Adapts to tasks that meta-training has not seen, and predicts the rest of their rows.

        Args:
            tasks: the tasks, or a suite (its test side), its name, folder or TOML.
            name: what the method is called in the result; by default its own name.
            seed: of the support sets and of the noise.
            support_sizes: numbers of labelled examples to adapt on; 0 is zero-shot.
            num_samples: posterior samples to average.
            num_query: rows to predict of each task; None takes all that remain.
            known_families: families that meta-training saw; tasks of others are marked.
            done: cells to leave out.
            adaptation_seconds: adapt with as many steps as fit into these seconds, one number for each support size or
                one for all.
            order: of a task's rows: drawn by the seed, or as they stand in their "file".

        Returns:
            The cells, made as they are asked for, with `.table()` and `.summary()`.

        Raises:
            AbmllError: For options that break their rules, and tasks that are too small or have no labels.
        """
        values = {
            "support_sizes": support_sizes,
            "num_samples": num_samples,
            "num_query": num_query,
            "seed": seed,
            "order": order,
        }
        require(rules_of(EvaluationConfig) | {"seed": Amount}, values)
        found = held_out_tasks(tasks)
        with working(self):
            self.settle(found)
            require_tasks(self, found)
        return Evaluation(
            evaluate(
                self.likelihood,
                self.method,
                name or self.name,
                found,
                seed=plain(seed),
                support_sizes=support_sizes,
                num_samples=plain(num_samples),
                num_query=plain(num_query),
                known_families=known_families,
                done=done,
                adaptation_seconds=adaptation_seconds,
                order=order,
            )
        )

    def save(
        self,
        directory: str | PathLike[str],
        *,
        role: Role = META,
        posterior: Posterior | TaskPosterior | None = None,
        task: Task | None = None,
    ) -> Path:
        """Writes θ (or, with `posterior`, one task's φ) as a PEFT adapter folder.

        The adapter of a posterior is its mean; that of an ensemble, which has none, is θ. A posterior that is more
        than one setting of the adapter (Laplace, SWAG, an ensemble, demonstrations, ...) is whole in
        `posterior.safetensors`. `lora/` is the mean of a Gaussian adapter as an ordinary LoRA, for plain servers; a
        point adapter is one itself. No file is a pickle.

        Args:
            directory: is made; other files in it stay.
            role: which of the two adapters, without a posterior.
            posterior: what `adapt` returned; its question and its classes are kept, so that new rows need neither.
            task: what a posterior was adapted to that does not say so itself.

        Raises:
            AbmllError: If the folder cannot be written or is in another process's hands, or the posterior is another
                learner's.
        """
        directory = Path(directory)
        with working(self), hold(directory):
            return write_folder(self, directory, role, posterior, task)

    @classmethod
    def load(
        cls,
        directory: str | PathLike[str],
        model: Any = None,
        tokenizer: Any = None,
        *,
        method: str | Method | Callable[..., Method] | None = None,
        prediction_batch_size: int = 32,
        dtype: str | None = None,
        device: str | None = None,
    ) -> Learner:
        """The learner that `save` wrote, on its base model.

        META and TASK both hold the adapter that was saved, and `posterior()` is the posterior.

        Args:
            directory: the adapter folder.
            model: its base model, or a name for it; None loads what the folder names.
            tokenizer: of a model that is given as an object.
            method: needed only if the adapter's method is from outside this package: its name again, the function that
                makes it, or an `abmll.Method`. A folder alone never makes this library import other code.
            prediction_batch_size: as for a new learner.
            dtype: of the weights of a model loaded by name; by default what the adapter was made with.
            device: where a model loaded by name computes.

        Raises:
            AbmllError: If a file of the folder is missing, damaged, of another folder or made for another base model.
        """
        directory = Path(directory)
        card = read_card(directory)
        chosen = method_of_card(card, directory, method)
        if model is None:
            if not card.base_model:
                raise AbmllError(
                    f"{directory} does not say which base model it belongs to: give its name, or model and tokenizer."
                )
            model, dtype = card.base_model, dtype or card.asked_dtype
        try:
            learner = cls(
                model,
                tokenizer,
                chosen.method,
                prompt=card.prompt_format,
                prediction_batch_size=prediction_batch_size,
                dtype=dtype,
                device=device,
                **card.adapter.model_dump(),
            )
        except AbmllError as error:
            made_for = f", which was made for the base model {card.base_model!r}" if card.base_model else ""
            raise AbmllError(f"cannot load the adapter in {directory}{made_for}: {error}") from error
        learner._chosen = chosen
        load_adapter(learner.model, META, directory)
        learner._loaded = read_posterior(learner, directory, card)
        return learner

    def load_posterior(self, directory: str | PathLike[str]) -> TaskPosterior:
        """A task's posterior from the folder that `TaskPosterior.save` wrote, on this learner's model.

        Many tasks share one model in memory this way. It must have been adapted by the same method, options, prompt
        and kind of adapter.

        Raises:
            AbmllError: If it was not, or a file is missing or damaged.
        """
        directory = Path(directory)
        card = read_card(directory)
        require_same(self, directory, card)
        with working(self):
            return read_posterior(self, directory, card)

    def posterior(self) -> TaskPosterior:
        """The posterior of the adapted task in the folder that was loaded; else the task adapter as it stands."""
        if self._loaded is not None:
            return self._loaded
        return TaskPosterior(self, adapter_as_it_stands(self), None)
