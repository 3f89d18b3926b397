"""Which family runs in which parallel strategy: the one place that decides.

`thinwire validate`, `run` and `plan`, automatic degrees and the table in docs/families.md all ask here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from thinwire.controller.manifest.job import Parallelism, PatchMode


class Strategy(StrEnum):
    """A way to spread one picture, or several, over ranks."""

    RING = "ring"
    ULYSSES = "ulysses"
    PIPEFUSION = "pipefusion"
    CFG = "cfg"
    DATA = "data"
    GATHER = "Gather"
    DISTRIFUSION = "DistriFusion"

    @property
    def is_patch_mode(self) -> bool:
        """Whether it is a mode of the ring and not a degree."""
        return self in (Strategy.GATHER, Strategy.DISTRIFUSION)

    @property
    def field(self) -> str:
        """The manifest's field that asks for it."""
        return f"spec.parallelism.{'patchMode' if self.is_patch_mode else self.value}"


class Standing(StrEnum):
    """Whether a family runs in a strategy."""

    SUPPORTED = "supported"
    REFUSED = "refused"
    NOT_UPSTREAM = "not supported upstream"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A standing and, unless it is supported, the reason."""

    standing: Standing
    reason: str = ""


class Known(Protocol):
    """What a family says about strategies."""

    @property
    def pipeline(self) -> str:
        """Its pipeline class."""

    @property
    def missing_upstream(self) -> Mapping[Strategy, str]:
        """What xfuser does not do for it."""

    @property
    def refused(self) -> Mapping[Strategy, str]:
        """What xfuser does, and thinwire does not let run."""


def verdict(family: Known, strategy: Strategy) -> Verdict:
    """Say whether a family runs in a strategy, and why not."""
    if strategy in family.missing_upstream:
        return Verdict(Standing.NOT_UPSTREAM, family.missing_upstream[strategy])
    if strategy in family.refused:
        return Verdict(Standing.REFUSED, family.refused[strategy])
    return Verdict(Standing.SUPPORTED)


def asked_for(parallelism: Parallelism) -> dict[Strategy, str]:
    """Return the strategies that a manifest asks for, each with what stands in its field."""
    degrees = {
        Strategy.RING: parallelism.ring,
        Strategy.ULYSSES: parallelism.ulysses,
        Strategy.PIPEFUSION: parallelism.pipefusion,
        Strategy.CFG: parallelism.cfg,
        Strategy.DATA: parallelism.data,
    }
    asked = {strategy: str(degree) for strategy, degree in degrees.items() if degree != 1}
    if parallelism.patch_mode is not PatchMode.NONE:
        asked[Strategy(parallelism.patch_mode.value)] = parallelism.patch_mode.value
    return asked
