"""The formulas of `calibration`, for arguments that were checked: float64, probabilities (examples, choices) whose rows
sum to 1, `confidence` and `correct` (examples,) of `judged`.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

BinEdges = Literal["right", "left"]
"""Which edge belongs to a bin: "right" is (lo, hi] (Guo et al. 2017), "left" is [lo, hi), 1.0 in the last bin."""

NUM_BINS = 15
"""Bins of confidence, as Guo et al. 2017 take them."""


class ReliabilityCurve(NamedTuple):
    """Per bin of confidence, all (bins,): edges, number of examples, mean confidence and accuracy (NaN if none)."""

    low: Tensor
    high: Tensor
    num_examples: Tensor
    confidence: Tensor
    accuracy: Tensor


class RiskCoverage(NamedTuple):
    """Error rate of the k most confident examples, k = 1..N: `coverage` k/N (N,), `risk` (N,), `area` its mean."""

    coverage: Tensor
    risk: Tensor
    area: Tensor


def mixture(log_probs: Tensor) -> Tensor:
    return torch.logsumexp(log_probs, dim=0) - math.log(len(log_probs))


def nll(log_mean: Tensor, targets: Tensor) -> Tensor:
    log_target = log_mean.gather(1, targets.long()[:, None])[:, 0]
    return -log_target.mean()


def macro_f1(probs: Tensor, targets: Tensor) -> Tensor:
    num_classes = probs.shape[1]
    predicted = probs.argmax(1)
    hits = torch.bincount(targets[predicted == targets], minlength=num_classes).double()
    seen = torch.bincount(predicted, minlength=num_classes) + torch.bincount(targets, minlength=num_classes)
    return (2 * hits[seen > 0] / seen[seen > 0]).mean()


def brier(probs: Tensor, targets: Tensor) -> Tensor:
    one_hot = torch.nn.functional.one_hot(targets.long(), probs.shape[1]).double()
    return (probs - one_hot).square().sum(1).mean()


def gaps(curve: ReliabilityCurve) -> Tensor:
    return (curve.accuracy - curve.confidence).abs().nan_to_num()


def ece(curve: ReliabilityCurve) -> Tensor:
    return (gaps(curve) * curve.num_examples / curve.num_examples.sum()).sum()


def adaptive_ece(confidence: Tensor, correct: Tensor, num_bins: int = NUM_BINS) -> Tensor:
    """Of `sorted_with_shared_ties`."""
    num_bins = min(num_bins, len(confidence))
    # As torch.tensor_split cuts: the first bins have one example more.
    size, more = divmod(len(confidence), num_bins)
    sizes = torch.tensor([size + (b < more) for b in range(num_bins)], device=confidence.device)
    bins = torch.arange(num_bins, device=confidence.device).repeat_interleave(sizes)
    gap = confidence.new_zeros(num_bins).index_add_(0, bins, confidence - correct)
    return gap.abs().sum() / len(confidence)


def entropy(probs: Tensor) -> Tensor:
    terms: Tensor = torch.special.entr(probs)
    return terms.sum(-1)


def mutual_information(log_probs: Tensor, entropy_of_mean: Tensor) -> Tensor:
    return (entropy_of_mean - entropy(log_probs.exp()).mean(0)).clamp(min=0)


def reliability_curve(
    confidence: Tensor, correct: Tensor, num_bins: int = NUM_BINS, bin_edges: BinEdges = "right"
) -> ReliabilityCurve:
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64, device=confidence.device)
    index = torch.bucketize(confidence, edges, right=bin_edges == "left") - 1
    index = index.clamp(0, num_bins - 1)
    count = torch.bincount(index, minlength=num_bins).double()
    sum_confidence = torch.zeros_like(count).index_add_(0, index, confidence)
    sum_correct = torch.zeros_like(count).index_add_(0, index, correct.double())
    return ReliabilityCurve(edges[:-1], edges[1:], count, sum_confidence / count, sum_correct / count)


def risk_coverage(confidence: Tensor, correct: Tensor) -> RiskCoverage:
    """Of `sorted_with_shared_ties`."""
    k = torch.arange(1, len(confidence) + 1, dtype=torch.float64, device=confidence.device)
    risk = (1 - correct.flip(0)).cumsum(0) / k
    return RiskCoverage(k / len(confidence), risk, risk.mean())


def judged(probs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    confidence, predicted = probs.max(1)
    # A sum of exponentials may pass 1 by a few ulp; a confidence may not.
    return confidence.clamp(max=1), predicted == targets


def sorted_with_shared_ties(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """`key` ascending, and `value` in that order with its mean over each group of equal keys."""
    unique, group, count = key.unique(return_inverse=True, return_counts=True)
    mean = torch.zeros_like(unique).index_add_(0, group, value.double()) / count
    return unique.repeat_interleave(count), mean.repeat_interleave(count)
