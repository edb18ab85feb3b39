"""Inversion losses against loops over float64 numbers, closed forms and numerical gradients."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from raykd import losses

LossOfLogits = Callable[[Tensor], Tensor]


def probabilities(logits: Tensor) -> list[list[float]]:
    """Softmax by hand."""
    rows = [[math.exp(value) for value in row] for row in logits.tolist()]
    return [[value / sum(row) for value in row] for row in rows]


def entropy(p: list[float]) -> float:
    return -sum(value * math.log(value) for value in p)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def centre(rows: list[list[float]]) -> list[float]:
    return [mean(list(column)) for column in zip(*rows, strict=True)]


REFERENCES: dict[str, tuple[LossOfLogits, Callable[[list[list[float]]], float]]] = {
    "onehot": (losses.onehot, lambda p: mean([-math.log(max(r)) for r in p])),
    "onehot_distance": (
        losses.onehot_distance,
        lambda p: mean([sum(abs(v - (v == max(r))) for v in r) for r in p]),
    ),
    "gini": (losses.gini, lambda p: mean([1 - sum(v * v for v in r) for r in p])),
    "lq": (losses.lq, lambda p: mean([sum(math.sqrt(v + 1e-6) for v in r) for r in p])),
    "shannon": (losses.shannon, lambda p: mean([entropy(r) for r in p])),
    "information_entropy": (losses.information_entropy, lambda p: -entropy(centre(p))),
    "per_sample_entropy": (losses.per_sample_entropy, lambda p: -mean([entropy(r) for r in p])),
    "mutual_information": (
        losses.mutual_information,
        lambda p: mean([entropy(r) for r in p]) - entropy(centre(p)),
    ),
}
# Values at C certain rows, one per class, and at uniform rows: (certain and balanced, uniform).
CLOSED_FORMS = {
    "onehot": (0.0, math.log(4)),
    "onehot_distance": (0.0, 1.5),
    "gini": (0.0, 0.75),
    "lq": (math.sqrt(1 + 1e-6) + 3e-3, 4 * math.sqrt(0.25 + 1e-6)),
    "shannon": (0.0, math.log(4)),
    "information_entropy": (-math.log(4), -math.log(4)),
    "per_sample_entropy": (0.0, -math.log(4)),
    "mutual_information": (-math.log(4), 0.0),
}


@pytest.fixture
def logits() -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, dtype=torch.float64, generator=rng) * 2


@pytest.mark.parametrize("name", REFERENCES)
def test_matches_the_formula(name: str, logits: Tensor) -> None:
    loss, reference = REFERENCES[name]
    assert loss(logits).item() == pytest.approx(reference(probabilities(logits)), rel=1e-12)


@pytest.mark.parametrize("name", REFERENCES)
def test_closed_forms(name: str) -> None:
    loss, _ = REFERENCES[name]
    certain, uniform = CLOSED_FORMS[name]
    assert loss(200.0 * torch.eye(4)).item() == pytest.approx(certain, abs=1e-6)
    assert loss(torch.zeros(3, 4)).item() == pytest.approx(uniform, rel=1e-6)


@pytest.mark.parametrize("name", REFERENCES)
def test_gradient(name: str, logits: Tensor) -> None:
    assert torch.autograd.gradcheck(REFERENCES[name][0], (logits.requires_grad_(),))


@pytest.mark.parametrize("name", REFERENCES)
def test_a_thousand_classes_with_underflow_stay_finite(name: str) -> None:
    logits = torch.zeros(8, 1000)
    logits[:, 0] = 500.0
    logits.requires_grad_()
    loss = REFERENCES[name][0](logits)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_per_sample_entropy_makes_each_image_less_certain() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0]], requires_grad=True)
    losses.per_sample_entropy(logits).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] > 0, "a descent step must lower the top logit"


def test_entropy_of_two_shares_is_that_of_the_whole(logits: Tensor) -> None:
    logits.requires_grad_()
    (whole,) = torch.autograd.grad(losses.information_entropy(logits), logits)
    shares = logits.chunk(2)
    means = [share.softmax(1).mean(0) for share in shares]
    both = losses.information_entropy(shares[0], lambda mean: (mean + means[1]) / 2)
    assert both.item() == pytest.approx(losses.information_entropy(logits).item(), rel=1e-12)
    (split,) = torch.autograd.grad(both, logits)
    torch.testing.assert_close(split, whole)


@pytest.mark.parametrize("per_sample_sum", [False, True])
def test_activation(per_sample_sum: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(4, 3, dtype=torch.float64, generator=rng, requires_grad=True)
    sums = [sum(abs(value) for value in row) for row in features.tolist()]
    expected = -mean(sums) / (1 if per_sample_sum else 3)
    assert losses.activation(features, per_sample_sum).item() == pytest.approx(expected, rel=1e-12)
    assert losses.activation(torch.full((2, 5), -3.0), per_sample_sum).item() == (-15.0 if per_sample_sum else -3.0)
    assert torch.autograd.gradcheck(lambda f: losses.activation(f, per_sample_sum), (features,))


def layers(seed: int, *shape: int) -> list[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(*shape, c, dtype=torch.float64, generator=rng),
            torch.rand(*shape, c, dtype=torch.float64, generator=rng),
        )
        for c in (3, 5)
    ]


def test_bn_statistics() -> None:
    batch, running = layers(0), layers(1)
    expected = sum(
        math.sqrt(sum((a - b) ** 2 for a, b in zip(x.tolist(), y.tolist(), strict=True)))
        for seen, stored in zip(batch, running, strict=True)
        for x, y in zip(seen, stored, strict=True)
    )
    assert losses.bn_statistics(batch, running).item() == pytest.approx(expected, rel=1e-12)
    three_four_five = [(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 4.0]))]
    zero = [(torch.zeros(2), torch.tensor([1.0, 0.0]))]
    assert losses.bn_statistics(three_four_five, zero).item() == 7.0
    flat = [tensor.requires_grad_() for layer in batch for tensor in layer]
    assert torch.autograd.gradcheck(lambda *x: losses.bn_statistics([(x[0], x[1]), (x[2], x[3])], running), flat)


def test_bn_relative_measures_every_distance_by_what_it_is_compared_with() -> None:
    batch, running = layers(0), [(mean, var.abs() + 0.1) for mean, var in layers(1)]
    expected = 0.0
    for (m, v), (mu, s) in zip(batch, running, strict=True):
        of_mean = math.sqrt(sum((a - b) ** 2 for a, b in zip(m.tolist(), mu.tolist(), strict=True)))
        of_var = math.sqrt(sum((a - b) ** 2 for a, b in zip(v.tolist(), s.tolist(), strict=True)))
        expected += of_mean / math.sqrt(sum(s.tolist())) + of_var / math.sqrt(sum(b * b for b in s.tolist()))
    assert losses.bn_relative(batch, running).item() == pytest.approx(expected / len(batch), rel=1e-12)
    flat = tuple(tensor.requires_grad_() for pair in batch for tensor in pair)
    assert torch.autograd.gradcheck(lambda *x: losses.bn_relative([(x[0], x[1]), (x[2], x[3])], running), flat)


def test_bn_relative_is_the_same_at_any_scale_and_for_more_of_the_same_layers() -> None:
    batch, running = layers(0), [(mean, var.abs() + 0.1) for mean, var in layers(1)]
    value = losses.bn_relative(batch, running)
    scaled, of_scaled = ([(10 * mean, 100 * var) for mean, var in one] for one in (batch, running))
    torch.testing.assert_close(losses.bn_relative(scaled, of_scaled), value)
    torch.testing.assert_close(losses.bn_relative([*batch, *batch], [*running, *running]), value)
    wide, of_wide = ([(mean.repeat(3), var.repeat(3)) for mean, var in one] for one in (batch, running))
    torch.testing.assert_close(losses.bn_relative(wide, of_wide), value)
    dead = [(mean, torch.zeros_like(var)) for mean, var in running]
    assert losses.bn_relative(batch, dead).isfinite(), "of a layer whose channels are all constant"


def test_bn_statistics_per_class_is_the_mean_over_classes() -> None:
    batch, running = layers(0, 4), layers(1)
    rows = [losses.bn_statistics([(m[k], v[k]) for m, v in batch], running) for k in range(4)]
    expected = torch.stack(rows).mean().item()
    assert losses.bn_statistics(batch, running).item() == pytest.approx(expected, rel=1e-12)


def test_matched_statistics_have_zero_gradient_not_nan() -> None:
    seen = torch.ones(3, requires_grad=True)
    losses.bn_statistics([(seen, seen)], [(torch.ones(3), torch.ones(3))]).backward()
    assert seen.grad is not None and seen.grad.tolist() == [0.0, 0.0, 0.0]


def test_bn_statistics_wants_equally_many_layers() -> None:
    with pytest.raises(ValueError, match="shorter"):
        losses.bn_statistics(layers(0), layers(1)[:1])


def slow_divergence(mean: float, var: float, stored_mean: float, stored_var: float) -> float:
    """KL between two Gaussians as an integral of p ln(p / q), by the trapezoidal rule over 12 deviations."""
    spread = math.sqrt(var)
    total, steps = 0.0, 4000
    for i in range(steps + 1):
        x = mean + 12 * spread * (2 * i / steps - 1)
        log_p = -((x - mean) ** 2) / (2 * var) - math.log(2 * math.pi * var) / 2
        log_q = -((x - stored_mean) ** 2) / (2 * stored_var) - math.log(2 * math.pi * stored_var) / 2
        total += math.exp(log_p) * (log_p - log_q)
    return total * 24 * spread / steps


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_bn_divergence(eps: float) -> None:
    batch = [(m, v + 0.1) for m, v in layers(0, 2)]
    running = [(m, v + 0.1) for m, v in layers(1)]
    expected = 0.0
    for (means, variances), (stored_mean, stored_var) in zip(batch, running, strict=True):
        for k in range(2):
            for c in range(means.shape[1]):
                values = (means[k, c], variances[k, c] + eps, stored_mean[c], stored_var[c] + eps)
                expected += slow_divergence(*map(float, values)) / 2
    assert losses.bn_divergence(batch, running, eps).item() == pytest.approx(expected, rel=1e-9)
    flat = [tensor.requires_grad_() for layer in batch for tensor in layer]
    assert torch.autograd.gradcheck(lambda *x: losses.bn_divergence([(x[0], x[1]), (x[2], x[3])], running, eps), flat)


def test_bn_divergence_in_closed_form() -> None:
    running = [(m, v + 0.1) for m, v in layers(1)]
    assert losses.bn_divergence(running, running).item() == 0.0
    # A mean off by one deviation costs 1/2; a variance of e times too much (e - 2) / 2; each in two channels.
    ones, zeros = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    assert losses.bn_divergence([(zeros, ones)], [(ones, ones)], eps=0).item() == pytest.approx(1.0)
    assert losses.bn_divergence([(zeros, ones * math.e)], [(zeros, ones)], eps=0).item() == pytest.approx(math.e - 2)


def test_bn_divergence_of_a_constant_channel_is_finite() -> None:
    var = torch.zeros(3, requires_grad=True)
    loss = losses.bn_divergence([(torch.zeros(3), var)], [(torch.zeros(3), torch.ones(3))])
    loss.backward()
    assert loss.isfinite() and var.grad is not None and var.grad.isfinite().all()


def slow_variation(images: Tensor) -> float:
    total = 0.0
    for image in images.tolist():
        height, width = len(image[0]), len(image[0][0])
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            squares = 0.0
            for plane in image:
                for y in range(height):
                    for x in range(width):
                        if y + dy < height and 0 <= x + dx < width:
                            squares += (plane[y + dy][x + dx] - plane[y][x]) ** 2
            total += math.sqrt(squares)
    return total / len(images)


def test_image_priors() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(3, 2, 4, 5, dtype=torch.float64, generator=rng, requires_grad=True)
    assert losses.total_variation(images).item() == pytest.approx(slow_variation(images), rel=1e-12)
    norms = [math.sqrt(sum(v * v for v in image.flatten().tolist())) for image in images]
    assert losses.image_l2(images).item() == pytest.approx(mean(norms), rel=1e-12)
    assert torch.autograd.gradcheck(losses.total_variation, (images,))
    assert torch.autograd.gradcheck(losses.image_l2, (images,))


def test_image_priors_in_closed_form() -> None:
    columns = torch.zeros(2, 1, 2, 2)
    columns[..., 1] = 1.0
    # Two horizontal steps of 1 give sqrt 2, no vertical one, and each diagonal has one step.
    assert losses.total_variation(columns).item() == pytest.approx(math.sqrt(2) + 2)
    assert losses.image_l2(columns).item() == pytest.approx(math.sqrt(2))
    flat = torch.ones(1, 1, 3, 3, requires_grad=True)
    losses.total_variation(flat).backward()
    assert flat.grad is not None and flat.grad.abs().max() == 0
