"""A Gaussian prior over the output head's weights, and the posterior that a support set leaves of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.types import Features

NEWTON_STEPS, HALVINGS, TOLERANCE = 50, 50, 1e-10
MOST = 12_000
"""Scores of labelled rows, rows times choices: matrices of that width take 1.2 GB each."""
LEAST = -1e4
"""Log-probabilities below it count as it: what a model gives e^-10000 is impossible enough."""
JITTER = 1e-9


@dataclass(frozen=True)
class HeadPrior:
    """What is believed of a task before it shows a label: the score of choice c of a row with hidden state h is

        f_c = a · log p(c | θ) + mean over c's tokens v of (w_v · x + b_v),    x = (h - centre) / size,
        a ~ N(scale_mean, scale_std²),    w_v ~ N(0, weight_std² I),    b_v ~ N(0, bias_std²)

    and p(c) = softmax(f)_c. w_v and b_v are what the task adds to the output head's row of token v. Centre and size
    are of the support set's hidden states, so that |x|² is 1 on average.

    All of it is linear in (a, w, b). So f is a Gaussian process, and only inner products of the x are needed: a matrix
    as wide as there are choices in the support set, whatever the width of the model.

    Rows are predicted by a cold posterior: f's covariance given the labels times `temperature`. The prior allows a task
    every direction of the hidden states, and most are used by none: the doubt that is left in them is too much.

    Attributes:
        scale_mean, scale_std, weight_std, bias_std: as above.
        temperature: 1 is Bayes' own posterior, 0 its mean.

    Source: of cold posteriors, Wenzel et al. 2020, arXiv 2002.02405; here of the prediction alone, not of the mode.

    Raises:
        AbmllError: For values out of range.
    """

    scale_mean: float = 0.7
    scale_std: float = 0.4
    weight_std: float = 3.0
    bias_std: float = 0.5
    temperature: float = 0.5

    def __post_init__(self) -> None:
        if min(self.scale_mean, self.scale_std, self.weight_std, self.bias_std, self.temperature) < 0:
            raise AbmllError(f"a head's prior takes no number below 0, got {self}.")

    def kernel(self, first: Scores, second: Scores, overlap: Tensor) -> Tensor:
        """Cov(f_c(row), f_d(row')), (n, c, m, d); 0 for choices that are absent.

        Args:
            first, second: n and m rows of the same task.
            overlap: (A, A), `overlaps` of its answers.
        """
        similar = (first.x @ second.x.mT)[:, None, :, None]
        left = Scores(first.x, first.offset[..., None, None], first.answer[..., None, None])
        return self._covariance(similar, left, second, overlap)

    def own(self, rows: Scores, overlap: Tensor) -> Tensor:
        """Cov(f_c, f_d) of each row, (n, c, d): what `kernel` has where a row meets itself."""
        similar = rows.x.square().sum(-1)[:, None, None]
        left = Scores(rows.x, rows.offset[..., None], rows.answer[..., None])
        right = Scores(rows.x, rows.offset[:, None], rows.answer[:, None])
        return self._covariance(similar, left, right, overlap)

    def _covariance(self, similar: Tensor, first: Scores, second: Scores, overlap: Tensor) -> Tensor:
        """Of scores whose places broadcast with each other, `similar` being the inner products of their x."""
        shared = overlap[first.answer.clamp_min(0), second.answer.clamp_min(0)]
        weights = (self.weight_std**2 * similar + self.bias_std**2) * shared
        scale = self.scale_std**2 * first.offset * second.offset
        return (weights + scale) * (first.present & second.present)


class Scores(NamedTuple):
    """Rows as the head sees them, float64 on the CPU.

    Attributes:
        x: (n, width).
        offset: (n, c) log p(c | θ), less its mean over a row's choices; 0 where there is none.
        answer: (n, c) which of the task's answers a choice is; -1 for none.
    """

    x: Tensor
    offset: Tensor
    answer: Tensor

    @property
    def present(self) -> Tensor:
        """(n, c) where there is a choice."""
        return self.answer >= 0

    def at(self, rows: Tensor | slice) -> Scores:
        """Some of the rows."""
        return Scores(self.x[rows], self.offset[rows], self.answer[rows])


class Space(NamedTuple):
    """What turns hidden states into x. centre: (width,). size: ()."""

    centre: Tensor
    size: Tensor

    @classmethod
    def of(cls, hidden: Tensor) -> Space:
        """That of some rows, (n, width)."""
        hidden = hidden.to("cpu", torch.float64)
        centre = hidden.mean(0)
        square = (hidden - centre).square().sum(-1).mean()
        # of one row, or of equal ones, nothing is known but where they are: any size will do
        return cls(centre, torch.where(square > 0, square, hidden.square().sum(-1).mean() + 1e-30).sqrt())


Answer = tuple[int, ...]


def scores(features: Features, space: Space, answers: Sequence[Answer]) -> Scores:
    """Rows as the head sees them.

    Args:
        features: what a pass made of them.
        space: of the task.
        answers: those of the task, for their numbers; every choice is among them.
    """
    x = (features.hidden.to("cpu", torch.float64) - space.centre) / space.size
    number = {answer: place for place, answer in enumerate(answers)}
    answer = torch.full(features.log_probs.shape, -1)
    for row, choices in enumerate(features.answers):
        answer[row, : len(choices)] = torch.tensor([number[choice] for choice in choices])
    present = answer >= 0
    log_probs = features.log_probs.to("cpu", torch.float64).masked_fill(~present, 0.0).clamp_min(LEAST)
    offset = (log_probs - log_probs.sum(-1, keepdim=True) / present.sum(-1, keepdim=True)).masked_fill(~present, 0.0)
    return Scores(x, offset, answer)


def labelled_scores(features: Features, space: Space, answers: Sequence[Answer]) -> Scores:
    """`scores` of rows with labels, of which a matrix as wide as there are scores is made.

    Raises:
        AbmllError: For more than `MOST` scores.
    """
    rows, choices = features.log_probs.shape
    if rows * choices > MOST:
        raise AbmllError(
            f"{rows} labelled rows of {choices} choices are {rows * choices} scores, and a head of a task's own takes "
            f"{MOST} at once. Give fewer rows, or take a method by gradient steps (abmll-adam)."
        )
    return scores(features, space, answers)


def answers_of(*several: Features) -> list[Answer]:
    """Every answer once, in the order in which they are met."""
    return list(dict.fromkeys(choice for features in several for row in features.answers for choice in row))


def overlaps(answers: Sequence[Answer]) -> Tensor:
    """Cov of what two answers' tokens add, for weights of variance 1: the share of pairs of tokens that are equal."""
    place = {token: column for column, token in enumerate({token for answer in answers for token in answer})}
    shares = torch.zeros(len(answers), len(place), dtype=torch.float64)  # of each token in an answer
    for row, answer in enumerate(answers):
        for token in answer:
            shares[row, place[token]] += 1 / len(answer)
    return shares @ shares.mT


class Fit(NamedTuple):
    """Laplace's approximation of p(f | labels).

    Attributes:
        dual: (n·c,), where f = offset + K dual; at the mode it is the gradient of the log-likelihood, y - p.
        whitened: (n·c, n·c) the matrix G with Cov(f*) = K** - (G K*ᵀ)ᵀ(G K*ᵀ).
    """

    dual: Tensor
    whitened: Tensor


def fit(kernel: Tensor, offset: Tensor, targets: Tensor, present: Tensor) -> Fit:
    """The mode of p(f | labels) by Newton's method, and the curvature there.

    The log-posterior is concave, so there is one mode; a step that would lower it is halved. The gradient by the
    kernel and the offset is exact: the last Newton step is taken with a graph, and at the mode a Newton step does not
    depend on where it starts.

    Args:
        kernel: (n·c, n·c), 0 for choices that are absent.
        offset: (n, c), E f.
        targets: (n,).
        present: (n, c).

    Returns:
        The fit; NaN for a kernel or an offset that is not finite, as sums give NaN for NaN.

    Source: Rasmussen and Williams 2006, "Gaussian processes for machine learning", section 3.5.
    """
    if not (kernel.isfinite().all() and offset.isfinite().all()):
        return Fit(math.nan * offset.flatten(), math.nan * kernel)
    right = torch.nn.functional.one_hot(targets, offset.shape[-1]).to(offset).flatten()
    with torch.no_grad():
        dual = _mode(kernel, offset, right, present)
        start = offset + (kernel @ dual).view_as(offset)
    dual = _newton(kernel, offset, right, start, present)
    root = _root(_log_p(offset + (kernel @ dual).view_as(offset), present))
    lower = torch.linalg.cholesky(_inner(kernel, root))
    return Fit(dual, torch.linalg.solve_triangular(lower, root.mT, upper=False))


def _mode(kernel: Tensor, offset: Tensor, right: Tensor, present: Tensor) -> Tensor:
    """The dual at the mode."""

    def height(dual: Tensor) -> float:
        pull = kernel @ dual
        log_p = _log_p(offset + pull.view_as(offset), present).flatten()
        return float(log_p[right > 0].sum() - 0.5 * dual @ pull)

    dual = torch.zeros_like(right)
    best = height(dual)
    for _ in range(NEWTON_STEPS):
        start = offset + (kernel @ dual).view_as(offset)
        step = _newton(kernel, offset, right, start, present) - dual
        for _ in range(HALVINGS):
            higher = height(dual + step)
            if higher >= best - TOLERANCE * (1 + abs(best)):
                break
            step = step / 2
        gain, dual, best = higher - best, dual + step, higher
        if gain < TOLERANCE * (1 + abs(best)):
            break
    return dual


def _newton(kernel: Tensor, offset: Tensor, right: Tensor, start: Tensor, present: Tensor) -> Tensor:
    """The dual after one full Newton step from the scores `start`."""
    log_p = _log_p(start, present)
    root = _root(log_p)
    b = root @ (root.mT @ (start - offset).flatten()) + right - log_p.exp().flatten()
    lower = torch.linalg.cholesky(_inner(kernel, root))
    return b - root @ torch.cholesky_solve((root.mT @ (kernel @ b))[:, None], lower).squeeze(1)


def _inner(kernel: Tensor, root: Tensor) -> Tensor:
    """I + RᵀKR."""
    return torch.eye(len(kernel), dtype=kernel.dtype) + root.mT @ kernel @ root


def _log_p(scores: Tensor, present: Tensor) -> Tensor:
    return scores.masked_fill(~present, -torch.inf).log_softmax(-1)


def _root(log_p: Tensor) -> Tensor:
    """R (n·c, n·c) with RRᵀ = diag(p) - ppᵀ row by row: the likelihood's curvature by its scores."""
    half = (0.5 * log_p).exp()  # not the root of p, whose derivative has no bound where p is 0
    root: Tensor = torch.block_diag(*(torch.diag_embed(half) - log_p.exp()[..., None] * half[:, None]))
    return root


def moments(found: Fit, cross: Tensor, own: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (m, d) and covariance (m, d, d) of the scores of new rows, each row for itself.

    Args:
        found: what the labels say.
        cross: (n·c, m, d), Cov(f, f*).
        own: (m, d, d), Cov(f*) of each row.
        offset: (m, d), E f*.
    """
    half = torch.einsum("ij,jmd->imd", found.whitened, cross)
    return offset + torch.einsum("i,imd->md", found.dual, cross), own - torch.einsum("imc,imd->mcd", half, half)


def draws(mean: Tensor, covariance: Tensor, present: Tensor, count: int) -> Tensor:
    """`count` settings of softmax(f), f ~ N(mean, covariance), in logs, (count, ..., c): their average is E softmax(f).

    No noise is drawn: they are a Sobol sequence's, of equal weight, mean 0 and variance 1 in each direction.

    Args:
        mean: (..., c).
        covariance: (..., c, c).
        present: (..., c); the first choice always is.
        count: how many; 0 takes the mean alone.
    """
    rest = mean[..., 1:] - mean[..., :1]  # only differences count
    shown = rest.expand(max(1, count), *rest.shape)
    if count and rest.shape[-1]:
        of_first = covariance[..., 1:, :1] + covariance[..., :1, 1:]
        spread = covariance[..., 1:, 1:] - of_first + covariance[..., :1, :1]
        here = (present[..., 1:, None] & present[..., None, 1:]).to(spread)
        eye = torch.eye(rest.shape[-1], dtype=rest.dtype)
        spread = spread * here
        size = spread.diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(1e-12)[..., None, None]
        spread = spread + JITTER * size * eye
        lower = torch.linalg.cholesky(spread) if spread.isfinite().all() else math.nan * spread
        nodes = _nodes(count, rest.shape[-1])
        shown = rest + torch.einsum("...cd,sd->s...c", lower, nodes)
    scored = torch.cat([torch.zeros_like(shown[..., :1]), shown], -1)
    return scored.masked_fill(~present, -torch.inf).log_softmax(-1)


def _nodes(count: int, dimensions: int) -> Tensor:
    """(count, dimensions) settings of a standard normal, float64."""
    places = torch.quasirandom.SobolEngine(dimensions).draw(count, dtype=torch.float64)
    nodes: Tensor = torch.special.ndtri((places + 0.5 / count) % 1)
    nodes = nodes - nodes.mean(0)
    nodes = nodes / nodes.square().mean(0).sqrt().clamp_min(1e-12)
    return nodes


def evidence(prior: HeadPrior, features: Features, targets: Tensor, blocks: int, count: int) -> Tensor:
    """Mean log-probability of a row's label, each predicted from the blocks of rows before its own.

    Rows are dealt into `blocks` runs as they stand. A run is predicted from those before it, in every rotation of
    them: the chain rule's log evidence of the labels, a run at a time, averaged over orders in which every run is once
    the first, once the second, and so on.

    Args:
        features, targets: of n rows of one task, with a graph.
        blocks: into how many runs; fewer if there are fewer rows.
        count: nodes of the expectation over f.

    Returns:
        A number of nats, below 0.
    """
    answers = answers_of(features)
    rows = labelled_scores(features, Space.of(features.hidden), answers)
    n = len(targets)
    blocks = min(blocks, n)
    kernel = prior.kernel(rows, rows, overlaps(answers))
    runs = torch.tensor_split(torch.arange(n), blocks)
    total = kernel.new_zeros(())
    for seen in range(blocks):
        for turn in range(blocks):
            order = [runs[(turn + place) % blocks] for place in range(seen + 1)]
            known = torch.cat(order[:-1]) if seen else runs[0][:0]
            total = total + _predicted(prior, kernel, rows, targets, known, order[-1], count).sum()
    return total / (n * blocks)


def _predicted(
    prior: HeadPrior, kernel: Tensor, rows: Scores, targets: Tensor, known: Tensor, asked: Tensor, count: int
) -> Tensor:
    """Log-probabilities (m,) of the labels of `asked` from those of `known`."""
    offset = prior.scale_mean * rows.offset
    mean, covariance = offset[asked], kernel[asked, :, asked]
    if len(known):
        size = len(known) * offset.shape[-1]
        inside = kernel[known][:, :, known].reshape(size, size)
        found = fit(inside, offset[known], targets[known], rows.present[known])
        cross = kernel[known][:, :, asked].reshape(size, *mean.shape)
        mean, covariance = moments(found, cross, covariance, mean)
    each = draws(mean, prior.temperature * covariance, rows.present[asked], count)
    right = each.gather(-1, targets[asked].expand(len(each), -1)[..., None]).squeeze(-1)
    return right.logsumexp(0) - math.log(len(each))
