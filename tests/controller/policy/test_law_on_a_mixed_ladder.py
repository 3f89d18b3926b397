"""Rungs of two families: less loss at fewer bits is better, unless computing it takes longer than it saves."""

import pytest

from thinwire.controller.policy import forecast, law
from thinwire.controller.policy.forecast import Outlook
from thinwire.controller.policy.reports import Limits, Rung

OFF = Rung("off", 32_000)
LIMITS = Limits(True, 250, 16_000, 15, 0, 1, 28)


def ladder(transform_seconds: float) -> tuple[Rung, ...]:
    half = transform_seconds / 2
    transforms = ((2000, 2010, 0.0135), (1000, 1010, 0.1005), (250, 265, 0.45))
    return (
        OFF,
        Rung("bits3", 3200, 1e-9, 1e-9, 0.0345),
        Rung("bits2", 2200, 1e-9, 1e-9, 0.1175),
        Rung("bits1", 1200, 1e-9, 1e-9, 0.3634),
        *(Rung(f"transform-{rate}", millibits, half, half, loss) for rate, millibits, loss in transforms),
    )


def chosen(rungs: tuple[Rung, ...], bytes_per_second: float, budget_seconds: float) -> str:
    values = 1_000_000
    priced = [
        Outlook(rung, values * (rung.millibits / 8000 / bytes_per_second + rung.codec_seconds_per_value))
        for rung in forecast.allowed(rungs, LIMITS, 0)
    ]
    return law.choose(priced, budget_seconds, compute_seconds=0.5).rung.name


def test_less_loss_comes_first_whatever_it_weighs() -> None:
    assert [rung.name for rung in forecast.allowed(ladder(1e-9), LIMITS, 0)] == [
        "off",
        "transform-2000",
        "bits3",
        "transform-1000",
        "bits2",
        "bits1",
        "transform-250",
    ]


@pytest.mark.parametrize(
    ("transform_seconds", "bytes_per_second", "expected"),
    [
        (1e-9, 6e6, "transform-2000"),
        (1e-9, 3e6, "transform-1000"),
        (1e-9, 1e6, "transform-250"),
        (1e-6, 6e6, "bits2"),
        (1e-6, 3e6, "bits1"),
        (1e-6, 1e12, "off"),
    ],
)
def test_a_transform_that_computes_longer_than_it_saves_gives_way_to_a_scalar_rung(
    transform_seconds: float, bytes_per_second: float, expected: str
) -> None:
    assert chosen(ladder(transform_seconds), bytes_per_second, budget_seconds=0.06) == expected
