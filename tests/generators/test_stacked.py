"""Layers of many members at once: their statistics, in any precision."""

import pytest
import torch

from raykd.errors import UsageError
from raykd.generators import GeneratorBank, GeneratorConfig
from raykd.generators.stacked import batch_norm
from tests.generators.test_bank import B, Z, made, noise


@pytest.mark.parametrize("plain", [False, True])
def test_statistics_of_bfloat16_maps_are_those_of_float32(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: plain)
    maps = (3 + torch.randn(2, 5, 4, 4, 6, generator=torch.Generator().manual_seed(0))).bfloat16()
    mean, variance = torch.zeros(2, 6), torch.zeros(2, 6)
    assert batch_norm(maps, None, None, 1e-5, 0.2, (mean, variance)).dtype == torch.bfloat16
    exact_variance, exact_mean = torch.var_mean(maps.double(), (1, 2, 3))
    torch.testing.assert_close(mean, 0.1 * exact_mean.float(), rtol=1e-5, atol=0)
    torch.testing.assert_close(variance, 0.1 * exact_variance.float(), rtol=1e-5, atol=0)


def test_statistics_do_not_cancel_where_the_mean_is_large() -> None:
    bank, plain = (made(architecture="dcgan", dtype=torch.float32) for _ in range(2))
    with torch.no_grad():
        for each in (bank, plain):
            each.get_parameter("project.bias").add_(1000.0)
    z = noise(3, B, Z)
    torch.testing.assert_close(bank(z.float()), plain.double()(z).float(), rtol=0.01, atol=0.01)


def test_a_single_number_has_no_variance() -> None:
    bank = GeneratorBank((0, 1), GeneratorConfig(width=8), channels=1, size=4)
    bank.initialise(0)
    with pytest.raises(UsageError, match="several images per member"):
        bank(torch.randn(2, 1, 100))
    assert bank.eval()(torch.randn(2, 1, 100)).isfinite().all()
