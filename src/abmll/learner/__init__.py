"""The library in one object: a language model that learns over many tasks and adapts to new ones."""

from abmll.learner.evaluation import Evaluation
from abmll.learner.learner import Learner
from abmll.learner.loading import load
from abmll.learner.posterior import TaskPosterior
from abmll.learner.prediction import Prediction

__all__ = ["Evaluation", "Learner", "Prediction", "TaskPosterior", "load"]
