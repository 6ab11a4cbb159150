"""How good and how honest predicted probabilities are: pure functions on tensors, computed in float64.

Conventions. `probs` is (examples, choices) with rows that sum to 1; `log_probs` is (samples, examples,
choices) in nats, one distribution per posterior sample; `targets` is (examples,). An absent choice (examples
may have different numbers of choices) has probability 0, i.e. log-probability -inf. The prediction is the
most probable choice, the first one on a tie; its probability is the *confidence*. Every result is a float64
tensor on the device of the input.

`docs/metrics.md` says in words what each number means and where it misleads.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.evaluation import formulas
from abmll.evaluation.formulas import NUM_BINS, BinEdges, ReliabilityCurve, RiskCoverage

TOLERANCE = 1e-3
"""How far from 1 the sum of a distribution may lie (float32 softmax: 1e-6; bfloat16 arithmetic: a few 1e-4)."""


def mixture(log_probs: Float[Tensor, "S N C"]) -> Float[Tensor, "N C"]:
    """Log-probabilities (examples, choices) of the average of the samples' distributions, in nats.

    log (1/S) Σ_s p_s: probabilities are averaged, never logits.

    Raises:
        AbmllError: If a value is NaN or positive, a distribution does not sum to 1, or a dimension is empty.
    """
    return formulas.mixture(_checked_log_probs(log_probs))


def nll(log_probs: Float[Tensor, "S N C"], targets: Int[Tensor, "N"]) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of the targets under the mixture of the samples, in nats per example.

    -(1/N) Σ_n [logsumexp_s log p_s(y_n) - log S]; at most the mean of the samples' own NLLs (Jensen).

    Raises:
        AbmllError: As `mixture`, or if a target is out of range or names an absent choice.
    """
    log_mean = mixture(log_probs)
    _check_targets(log_mean, targets)
    return _nll(log_mean, targets)


def accuracy(probs: Float[Tensor, "N C"], targets: Int[Tensor, "N"]) -> Float[Tensor, ""]:
    """Fraction of examples whose most probable choice (the first on a tie) is the target."""
    return _confidence_and_correct(probs, targets)[1].double().mean()


def macro_f1(probs: Float[Tensor, "N C"], targets: Int[Tensor, "N"]) -> Float[Tensor, ""]:
    """F1 score of each class, averaged over the classes that occur as a target or as a prediction.

    F1_c = 2·TP_c / (2·TP_c + FP_c + FN_c). A class is a *position* among the choices.
    """
    return formulas.macro_f1(_checked(probs, targets), targets)


def brier(probs: Float[Tensor, "N C"], targets: Int[Tensor, "N"]) -> Float[Tensor, ""]:
    """Mean over examples of the squared distance Σ_c (p_c - 1[c = y])² to the one-hot target, in [0, 2].

    Source: Brier 1950, the sum over classes; twice the one-sided form that some libraries use for two
    classes.
    """
    return formulas.brier(_checked(probs, targets), targets)


def ece(
    probs: Float[Tensor, "N C"],
    targets: Int[Tensor, "N"],
    num_bins: int = NUM_BINS,
    bin_edges: BinEdges = "right",
) -> Float[Tensor, ""]:
    """Expected calibration error: Σ_b (n_b/N)·|accuracy_b - confidence_b| over equal-width bins, in [0, 1].

    Source: Guo et al. 2017 (15 bins, (lo, hi], L1). `bin_edges="left"` gives [lo, hi) bins; unlike
    torchmetrics, a confidence of exactly 1 then still belongs to the last bin and not to one more of its own.
    """
    return formulas.ece(reliability_curve(probs, targets, num_bins, bin_edges))


def max_calibration_error(
    probs: Float[Tensor, "N C"],
    targets: Int[Tensor, "N"],
    num_bins: int = NUM_BINS,
    bin_edges: BinEdges = "right",
) -> Float[Tensor, ""]:
    """Largest |accuracy_b - confidence_b| over the non-empty bins of `ece` (MCE), in [0, 1]."""
    return formulas.gaps(reliability_curve(probs, targets, num_bins, bin_edges)).max()


def adaptive_ece(probs: Float[Tensor, "N C"], targets: Int[Tensor, "N"], num_bins: int = NUM_BINS) -> Float[Tensor, ""]:
    """Calibration error over bins of equal mass: min(num_bins, N) bins whose sizes differ by at most one
    example.

    Examples of equal confidence share their mean correctness before they are cut into bins, so that the
    number does not depend on the order of the rows. Source: Nixon et al. 2019 (of the top choice only).
    """
    _check_bins(num_bins)
    return formulas.adaptive_ece(*formulas.sorted_with_shared_ties(*_confidence_and_correct(probs, targets)), num_bins)


def ece_per_example(probs: Float[Tensor, "N C"], targets: Int[Tensor, "N"]) -> Float[Tensor, ""]:
    """Mean |confidence - correct| over examples, in [0, 1]: a binned ECE with one example a bin.

    Not a calibration error: a perfectly calibrated predictor of confidence p scores 2p(1 - p). It is the
    number that the ABMLL paper's code reports as "ECE", kept for comparison with its tables.
    """
    confidence, correct = _confidence_and_correct(probs, targets)
    return (confidence - correct.double()).abs().mean()


def auroc(probs: Float[Tensor, "N C"], targets: Int[Tensor, "N"]) -> Float[Tensor, ""]:
    """Probability that a right prediction is more confident than a wrong one; ties count one half (midranks).

    NaN where it is undefined: all predictions right, or all wrong.
    """
    confidence, correct = _confidence_and_correct(probs, targets)
    return separability(confidence[correct], confidence[~correct])


def separability(high: Float[Tensor, "P"], low: Float[Tensor, "Q"]) -> Float[Tensor, ""]:
    """Probability that a value of `high` exceeds one of `low`, ties counting one half: the AUROC of telling them
    apart.

    The Mann-Whitney statistic over P·Q. NaN if either is empty.
    """
    values = torch.cat([high, low]).double()
    if not len(high) or not len(low):
        return values.new_tensor(float("nan"))
    high, (low, _) = values[: len(high)], values[len(high) :].sort()
    below = torch.searchsorted(low, high) + torch.searchsorted(low, high, right=True)  # twice: ties count one half
    return below.sum().double() / (2 * len(high) * len(low))


def entropy(probs: Float[Tensor, "N C"]) -> Float[Tensor, "N"]:
    """Entropy -Σ_c p_c log p_c of each example's distribution, in nats, in [0, log C]."""
    return formulas.entropy(_checked_probs(probs))


def margin(probs: Float[Tensor, "N C"]) -> Float[Tensor, "N"]:
    """The probability of each example's most probable choice less that of its second, in [0, 1]."""
    first, second = torch.topk(_checked_probs(probs), 2, dim=-1).values.unbind(-1)
    return first - second


def mutual_information(log_probs: Float[Tensor, "S N C"]) -> Float[Tensor, "N"]:
    """H(mean_s p_s) - mean_s H(p_s) of each example, in nats, in [0, log S]: what the posterior samples
    disagree on.

    The part of the uncertainty that more support examples could remove (BALD); 0 for a single sample.
    Rounding below zero is cut off.
    """
    log_probs = _checked_log_probs(log_probs)
    return formulas.mutual_information(log_probs, formulas.entropy(formulas.mixture(log_probs).exp()))


def reliability_curve(
    probs: Float[Tensor, "N C"],
    targets: Int[Tensor, "N"],
    num_bins: int = NUM_BINS,
    bin_edges: BinEdges = "right",
) -> ReliabilityCurve:
    """Mean confidence and accuracy in `num_bins` equal-width bins of confidence over [0, 1].

    Raises:
        AbmllError: For num_bins < 1, an unknown `bin_edges`, or invalid probabilities or targets.
    """
    _check_bins(num_bins)
    if bin_edges not in ("right", "left"):
        raise AbmllError(f"bin_edges={bin_edges!r}: choose 'right' for (lo, hi] bins or 'left' for [lo, hi).")
    return formulas.reliability_curve(*_confidence_and_correct(probs, targets), num_bins, bin_edges)


def risk_coverage(probs: Float[Tensor, "N C"], targets: Int[Tensor, "N"]) -> RiskCoverage:
    """Error rate among the most confident examples at every coverage, and the area under it (AURC, lower is
    better).

    Within a group of equal confidence the errors are spread evenly: the expectation over random tie-breaking.
    Source: Geifman & El-Yaniv 2017; area as the mean risk over the N coverages k/N.
    """
    return formulas.risk_coverage(*formulas.sorted_with_shared_ties(*_confidence_and_correct(probs, targets)))


def all_metrics(log_probs: Float[Tensor, "S N C"], targets: Int[Tensor, "N"]) -> dict[str, float]:
    """Every number of this module that is one a set of predictions, by its name in `metrics.METRICS`.

    Each is what its function gives for the mixture of the samples, to rounding; what several need is computed once.

    Raises:
        AbmllError: As `nll`.
    """
    log_probs = _checked_log_probs(log_probs)
    log_mean = formulas.mixture(log_probs)
    _check_targets(log_mean, targets)
    probs = log_mean.exp()
    confidence, correct = formulas.judged(probs, targets)
    curve = formulas.reliability_curve(confidence, correct)
    ordered = formulas.sorted_with_shared_ties(confidence, correct)
    entropies = formulas.entropy(probs)
    values = {
        "accuracy": correct.double().mean(),
        "nll": _nll(log_mean, targets),
        "ece": formulas.ece(curve),
        "brier": formulas.brier(probs, targets),
        "macro_f1": formulas.macro_f1(probs, targets),
        "mce": formulas.gaps(curve).max(),
        "adaptive_ece": formulas.adaptive_ece(*ordered),
        "ece_per_example": (confidence - correct.double()).abs().mean(),
        "auroc": separability(confidence[correct], confidence[~correct]),
        "aurc": formulas.risk_coverage(*ordered).area,
        "confidence": confidence.mean(),
        "entropy": entropies.mean(),
        "mutual_information": formulas.mutual_information(log_probs, entropies).mean(),
    }
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))


def _nll(log_mean: Tensor, targets: Tensor) -> Tensor:
    found = formulas.nll(log_mean, targets)
    if found.isinf():
        where = _first(log_mean.gather(1, targets.long()[:, None])[:, 0].isneginf())
        raise AbmllError(f"targets[{where}] names a choice of log-probability -inf: example {where} lacks that choice.")
    return found


def _confidence_and_correct(
    probs: Float[Tensor, "N C"], targets: Int[Tensor, "N"]
) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
    return formulas.judged(_checked(probs, targets), targets)


def _checked(probs: Tensor, targets: Tensor) -> Tensor:
    probs = _checked_probs(probs)
    _check_targets(probs, targets)
    return probs


def _checked_probs(probs: Tensor) -> Tensor:
    if probs.dim() != 2 or probs.numel() == 0:
        raise AbmllError(f"probs has shape {tuple(probs.shape)}: (examples, choices), both at least 1, is needed.")
    probs = probs.double()
    sums = probs.sum(1)
    low, high = probs.aminmax()
    if low >= 0 and high <= 1 + TOLERANCE and _sum_to_one(sums):  # none of which a NaN does
        return probs
    if not probs.isfinite().all():
        raise AbmllError(f"probs[{_first(~probs.isfinite())}] is NaN or infinite: was the model's loss finite?")
    outside = (probs < 0) | (probs > 1 + TOLERANCE)
    if outside.any():
        where = _first(outside)
        found = f"probs[{where}] is {probs[outside][0]:.6g}, outside [0, 1]"
        raise AbmllError(f"{found}: pass probabilities, i.e. exp() of log-probabilities or softmax() of logits.")
    raise _not_normalised(sums, "probs")


def _checked_log_probs(log_probs: Tensor) -> Tensor:
    if log_probs.dim() != 3 or log_probs.numel() == 0:
        shape = tuple(log_probs.shape)
        raise AbmllError(f"log_probs has shape {shape}: (samples, examples, choices), all at least 1, is needed.")
    log_probs = log_probs.double()
    sums = log_probs.exp().sum(-1)
    if log_probs.amax() <= TOLERANCE and _sum_to_one(sums):  # neither of which a NaN does
        return log_probs
    if log_probs.isnan().any():
        raise AbmllError(f"log_probs[{_first(log_probs.isnan())}] is NaN: was the model's loss finite?")
    if (log_probs > TOLERANCE).any():
        where = _first(log_probs > TOLERANCE)
        raise AbmllError(f"log_probs[{where}] is positive: pass log-probabilities, i.e. log_softmax() of logits.")
    raise _not_normalised(sums, "log_probs")


def _sum_to_one(sums: Tensor) -> bool:
    return bool((sums - 1).abs().amax() <= TOLERANCE)


def _not_normalised(sums: Tensor, name: str) -> AbmllError:
    wrong = (sums - 1).abs() > TOLERANCE
    found = f"{name}[{_first(wrong)}] sums to {sums[wrong][0]:.6g} over its choices, not to 1"
    return AbmllError(f"{found}: normalise over them.")


def _check_targets(probs: Tensor, targets: Tensor) -> None:
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise AbmllError(
            f"targets are of type {targets.dtype}: integers, the indices of the right choices, are needed."
        )
    if targets.shape != probs.shape[:1]:
        raise AbmllError(f"targets have shape {tuple(targets.shape)} for {len(probs)} examples: one a row is needed.")
    low, high = targets.aminmax()
    if low < 0 or high >= probs.shape[1]:
        outside = (targets < 0) | (targets >= probs.shape[1])
        where, found = _first(outside), int(targets[outside][0])
        raise AbmllError(f"targets[{where}] is {found}: it must be an index into the {probs.shape[1]} choices.")


def _check_bins(num_bins: int) -> None:
    if num_bins < 1:
        raise AbmllError(f"num_bins={num_bins}: at least 1 bin is needed.")


def _first(mask: Tensor) -> str:
    """Index of the first True, for an error message."""
    return ", ".join(str(int(i)) for i in mask.nonzero()[0])
