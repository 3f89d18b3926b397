"""Figures out of a controller's /metrics page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True)
class Figures:
    """Every sample of one scrape: name and, for a histogram's buckets, the upper bound -> value, labels summed over."""

    samples: dict[tuple[str, float], float]

    @classmethod
    def of(cls, text: str) -> Figures:
        samples: dict[tuple[str, float], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = (sample.name, float(sample.labels.get("le", "nan")) if "le" in sample.labels else 0.0)
                samples[key] = samples.get(key, 0.0) + sample.value
        return cls(samples)

    def total(self, name: str) -> float:
        return self.samples.get((name, 0.0), 0.0)

    def since(self, before: Figures, name: str) -> float:
        return self.total(name) - before.total(name)

    def quantiles_since(self, before: Figures, histogram: str) -> dict[str, float]:
        """Quantiles of what a histogram took in between, interpolated within its buckets as Prometheus does."""
        name = f"{histogram}_bucket"
        bounds = sorted(bound for key, bound in self.samples if key == name)
        counts = [self.samples[name, bound] - before.samples.get((name, bound), 0.0) for bound in bounds]
        return {label: _quantile(bounds, counts, share) for label, share in QUANTILES.items()}


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Quantiles of single values: the smallest value that is not below the share."""
    ordered = sorted(values)
    return {label: ordered[math.ceil(share * len(ordered)) - 1] for label, share in QUANTILES.items()}


def _quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float:
    if not counts or not counts[-1]:
        return 0.0
    wanted = share * counts[-1]
    lower, below = 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=True):
        if count >= wanted:
            if math.isinf(bound):
                return lower
            inside = count - below
            return lower + (bound - lower) * ((wanted - below) / inside if inside else 1.0)
        lower, below = bound, count
    return lower
