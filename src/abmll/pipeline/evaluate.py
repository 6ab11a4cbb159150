"""The second stage: predictions of one or several methods on held-out tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path

from abmll.card import read_card
from abmll.config import RunConfig, load_config
from abmll.core.errors import AbmllError
from abmll.core.folders import hold
from abmll.data.episodes import evaluation_episode
from abmll.data.suite import Suite
from abmll.evaluation.evaluate import evaluate
from abmll.evaluation.predictions import Cell, CellKey, append_cell, decode_cell, encode_cell, index
from abmll.evaluation.queries import QUERIES, queries_of, write_queries
from abmll.language import PromptFormat
from abmll.methods import build_method
from abmll.methods.parts.no_model import NoModel, needs_model
from abmll.pipeline.adapter_record import record_adapter, require_same_adapter
from abmll.pipeline.build import build_learner, join_ranks, load_learner, load_tasks
from abmll.pipeline.preflight import Findings, places_of
from abmll.pipeline.references import with_references
from abmll.pipeline.run_record import RUN_FILE, require_same_run, write_run_record
from abmll.pipeline.settle import settled
from abmll.pipeline.train import episodes_of, train_learner
from abmll.training.distributed import Ranks, Unheard, together
from abmll.training.loop import CHECKPOINTS
from abmll.training.progress import progress_bar

PREDICTIONS = "predictions.jsonl"


def evaluate_run(config: RunConfig, adapter: Path | None, out: Path, *, progress: bool = True) -> Path:
    """Appends to `out`/predictions.jsonl every cell of the run that it does not hold yet, and returns the file.

    With an adapter, that one is adapted and evaluated with every seed. Without, each method is first meta-trained with
    each seed (under `out`/METHOD/seed-N, going on where an earlier call stopped), so that the seeds repeat the whole
    experiment.

    Started by `torchrun`, the ranks share the cells between them; rank 0 alone reads and writes `out`.

    Raises:
        AbmllError: Before anything is trained, for held-out tasks that cannot be evaluated, and for settings or an
            adapter that differ from those of the cells in `out`.
    """
    path = out / PREDICTIONS
    ranks = join_ranks(config)
    own, config = set(config.method.names), with_references(config)
    require_same_passes(config)
    prompt = None if adapter is None else read_card(adapter).prompt_format
    findings = Findings()
    suite = findings.of(lambda: load_tasks(config))
    ranks.first(lambda: require_ready(findings, config, suite, out, trained=adapter is None, prompt=prompt))
    assert suite is not None
    with ExitStack() as held:
        ranks.first(lambda: held.enter_context(hold(out)))
        config = settled(config, suite, out, adapter)
        ranks.first(lambda: require_same_evaluation(out, config) if path.is_file() else None)
        _evaluate(config, suite, own, adapter, out, ranks, progress=progress)
    return path


def _evaluate(
    config: RunConfig,
    suite: Suite,
    own: set[str],
    adapter: Path | None,
    out: Path,
    ranks: Ranks,
    *,
    progress: bool,
) -> None:
    path = out / PREDICTIONS
    evaluated = dict.fromkeys(config.method.names) | dict.fromkeys(own, adapter)
    ranks.first(lambda: prepare_folder(config, evaluated, out))
    # References first: their model is let go before the adapter's is loaded.
    for name in sorted(config.method.names, key=own.__contains__):
        if evaluated[name] is None:
            for seed in config.evaluation.seeds:
                evaluate_method(config, suite, name, seed, out, ranks=ranks, progress=progress)
            continue
        assert adapter is not None
        done = done_cells(path, ranks)
        seeds = [s for s in config.evaluation.seeds if not is_complete(config, suite, name, s, done)]
        if seeds:
            _require_method(name, adapter)
            learner = load_learner(config, adapter, name)
            append_predictions(learner.evaluate, suite, config, name, seeds, path, done, ranks, progress=progress)
    ranks.first(lambda: write_texts(config, suite, out))


def require_ready(
    findings: Findings,
    config: RunConfig,
    suite: Suite | None,
    out: Path,
    *,
    trained: bool = True,
    prompt: PromptFormat | None = None,
) -> None:
    """Raises AbmllError for all that is wrong with tasks, rows, device and output folder, before a model is loaded.

    Args:
        findings: What is known to be wrong already.
        config: The run.
        suite: Its tasks; None if they cannot be read, which is then among the findings.
        out: Its output folder.
        trained: Whether methods are meta-trained, so that the training tasks count too.
        prompt: How rows are put, if not as the run says.
    """
    findings.of_folder(out)
    methods = [build_method(name, **config.method.options_for(name)) for name in config.method.names]
    trained = trained and any(method.meta_learner is not None for method in methods)
    if any(map(needs_model, methods)):
        findings.of_device(config.model)
    if suite is not None:
        findings.of(lambda: require_judgeable(suite, config))
        if trained:
            findings.of(lambda: episodes_of(suite.train, config, config.seed))
    if suite is not None and any(map(needs_model, methods)):
        tasks = [*(suite.train if trained else ()), *getattr(suite, config.evaluation.split)]
        prompt = prompt or PromptFormat(**config.prompt.model_dump())
        findings.of_rows(config.model, prompt, places_of(tasks))
    findings.raise_all()


def write_texts(config: RunConfig, suite: Suite, out: Path) -> None:
    """Writes beside the predictions what the examples asked, if the run wants texts to be kept."""
    evaluation, seeds = config.evaluation, sorted({key.seed for key in index(out / PREDICTIONS)})
    if evaluation.texts and seeds:
        tasks = getattr(suite, evaluation.split)
        write_queries(out / QUERIES, queries_of(tasks, seeds, evaluation.num_query, max(evaluation.support_sizes)))


def prepare_folder(config: RunConfig, evaluated: Mapping[str, Path | None], out: Path) -> None:
    """Writes beside the predictions in `out` what makes them.

    Args:
        config: The run.
        evaluated: Method name to the adapter that is evaluated; None for methods to be trained.
        out: The folder.

    Raises:
        AbmllError: If cells of another adapter are there.
    """
    done = index(out / PREDICTIONS)
    for name, adapter in evaluated.items():
        require_same_adapter(out, name, adapter, done)
    write_run_record(out, config, config.evaluation.seeds)
    for name, adapter in evaluated.items():
        record_adapter(out, name, adapter)


def done_cells(path: Path, ranks: Ranks) -> set[CellKey]:
    """The cells in the predictions file, as rank 0 finds it."""
    return {CellKey(*key) for key in ranks.agree(lambda: sorted(index(path)))}


def require_same_passes(config: RunConfig) -> None:
    """Raises AbmllError for a budget of seconds if ranks share a copy of the model: all of them must take its steps."""
    if config.model.shard > 1 and (config.evaluation.adaptation_seconds or config.evaluation.same_seconds_as):
        raise AbmllError(
            f"evaluation.adaptation_seconds gives every rank its own number of steps, but the {config.model.shard} "
            "ranks that hold one model between them (model.shard) must take the same. Remove adaptation_seconds and "
            "set the method's num_steps, or set model.shard=1."
        )


def require_same_evaluation(out: Path, config: RunConfig) -> None:
    """Raises AbmllError if the cells in `out` were made with other settings than those of this run."""
    free = [
        "method.name",
        "evaluation.seeds",
        "evaluation.references",
        "evaluation.texts",
        "output",
        "tune",
        "model.shard",
    ]
    if (out / RUN_FILE).is_file():
        before = load_config(out / RUN_FILE).evaluation.support_sizes
        # Queries are the rows beyond the largest support set: with the same largest, they stay the same.
        if max(before) == max(config.evaluation.support_sizes):
            free.append("evaluation.support_sizes")
    require_same_run(out, config, free=free)


def require_judgeable(suite: Suite, config: RunConfig) -> None:
    """Raises AbmllError if the split to be evaluated on is empty, or a task of it too small for the support sizes."""
    evaluation = config.evaluation
    for task in suite.require(evaluation.split):
        largest = max(evaluation.support_sizes)
        evaluation_episode(task, 0, 0, evaluation.num_query, max_support=largest, order=evaluation.order)


def evaluate_method(
    config: RunConfig,
    suite: Suite,
    name: str,
    seed: int,
    out: Path,
    *,
    ranks: Ranks | None = None,
    progress: bool = True,
) -> None:
    """Meta-trains one method with one seed, if it learns across tasks, and appends the cells that are missing."""
    path = out / PREDICTIONS
    ranks = ranks or Ranks()
    done = done_cells(path, ranks)
    if is_complete(config, suite, name, seed, done):
        return
    method = build_method(name, **config.method.options_for(name))
    if not needs_model(method):
        judge = partial(evaluate, NoModel(), method)
        append_predictions(judge, suite, config, name, [seed], path, done, ranks, progress=progress)
        return
    learner = build_learner(config, name, seed=seed)
    if learner.method.meta_learner is not None:
        trainer = ranks.agree(lambda: trainer_of(config, name, seed, out))
        folder = out / trainer / f"seed-{seed}"
        train_learner(learner, suite, config, folder, seed, resume=True, progress=progress, save=trainer == name)
    append_predictions(learner.evaluate, suite, config, name, [seed], path, done, ranks, progress=progress)


def trainer_of(config: RunConfig, name: str, seed: int, out: Path) -> str:
    """The method of the run under whose name this one's meta-training lies.

    Methods that differ in their adaptation alone (multi-task LoRA, and every posterior that starts from it) have the
    same meta-training, bit for bit: it is done once. Whoever has done it is taken, else the first that is named.
    """
    key = training_key(config, name)
    alike = [other for other in config.method.names if training_key(config, other) == key] or [name]
    trained = [other for other in alike if (out / other / f"seed-{seed}" / CHECKPOINTS).is_dir()]
    return (trained or alike)[0]


def training_key(config: RunConfig, name: str) -> str:
    """What a method's meta-training depends on besides the run: equal for methods that share it."""
    method = build_method(name, **config.method.options_for(name))
    if method.meta_learner is None:
        return f"{name} learns nothing across tasks"
    key = repr((method.adapter, method.meta_learner, method.outer))
    # A repr that shows an address tells nothing of what is inside: such a method shares with none.
    return f"{name}: {key}" if " at 0x" in key else key


def _require_method(name: str, adapter: Path) -> None:
    if (found := read_card(adapter).method) != name:
        raise AbmllError(
            f"the adapter in {adapter} was trained by {found!r}, but the run names method {name!r}. "
            f"Add method.name={found}, or give another adapter."
        )


def append_predictions(
    judge: Callable[..., Iterable[Cell]],
    suite: Suite,
    config: RunConfig,
    name: str,
    seeds: Sequence[int],
    path: Path,
    done: set[CellKey],
    ranks: Ranks,
    *,
    progress: bool = True,
) -> None:
    """Evaluates one method on the run's split and appends its cells, each as soon as it is there.

    Args:
        judge: `Learner.evaluate`, or `evaluate` of a method that needs no model.

    The missing cells are dealt out to the ranks, or, if several hold one copy of the model, to the copies: all ranks
    of a copy make the same cell, because every pass through its weights needs them all. What a cell holds depends on
    neither.
    """
    evaluation = config.evaluation
    wanted = [key for seed in seeds for key in cell_keys(config, suite, name, seed)]
    missing = [key for key in wanted if key not in done]
    copies = ranks.size // config.model.shard
    own = set(missing[ranks.rank // config.model.shard :: copies])
    cells = chain.from_iterable(
        judge(
            tasks=getattr(suite, evaluation.split),
            name=name,
            seed=seed,
            support_sizes=evaluation.support_sizes,
            num_samples=evaluation.num_samples,
            num_query=evaluation.num_query,
            known_families={task.family for task in suite.train},
            done=set(wanted) - own,
            adaptation_seconds=evaluation.adaptation_seconds,
            order=evaluation.order,
        )
        for seed in seeds
    )
    title = f"evaluating {name}, seed {', '.join(map(str, seeds))}"
    with progress_bar(0, len(missing), visible=progress and ranks.is_first, title=title) as show:
        for begun in range(0, len(missing), copies):
            _append_next(cells, path, ranks, config.model.shard)
            show({"step": min(begun + copies, len(missing))})


def _append_next(cells: Iterator[Cell], path: Path, ranks: Ranks, shard: int) -> None:
    """Every copy of the model makes its next cell, and rank 0 appends them; an error ends all ranks."""
    if ranks.size == 1:
        append_cell(path, next(cells))
        return
    line, failure = b"", None
    try:
        with together(shard > 1):
            cell = next(cells, None)
        if cell is not None and ranks.rank % shard == 0:
            line = encode_cell(cell)
    except Unheard:
        raise
    except Exception as error:
        failure = error
    lines = ranks.exchange(line, failure)

    def append() -> None:
        for line in lines:
            if line:
                append_cell(path, decode_cell(line))

    ranks.first(append)


def cell_keys(config: RunConfig, suite: Suite, name: str, seed: int) -> list[CellKey]:
    """The cells of a method and seed, in the order in which they are made."""
    tasks = getattr(suite, config.evaluation.split)
    return [CellKey(name, seed, task.name, size) for size in config.evaluation.support_sizes for task in tasks]


def is_complete(config: RunConfig, suite: Suite, name: str, seed: int, done: set[CellKey]) -> bool:
    """Whether every cell of a method and seed is done."""
    keys = cell_keys(config, suite, name, seed)
    return bool(keys) and done.issuperset(keys)
