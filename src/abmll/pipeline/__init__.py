"""The stages as the command line runs them: from a validated run file to files on disk."""

from abmll.pipeline.compare import Budget, compare_run
from abmll.pipeline.demo import demo_run
from abmll.pipeline.evaluate import evaluate_run
from abmll.pipeline.predict import adapt_run, predict_run
from abmll.pipeline.train import learn_from_loras, train_run
from abmll.pipeline.trial import try_run
from abmll.pipeline.tune import tune_run

__all__ = [
    "Budget",
    "adapt_run",
    "compare_run",
    "demo_run",
    "evaluate_run",
    "learn_from_loras",
    "predict_run",
    "train_run",
    "try_run",
    "tune_run",
]
