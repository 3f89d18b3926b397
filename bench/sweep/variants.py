"""What is compared: every way of making the same picture over the same links."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from thinwire.proto.thinwire.v1alpha1 import run_spec_pb2 as pb


class Kind(StrEnum):
    """Whose exchange a variant runs."""

    ONE_PROCESS = "one process"
    UPSTREAM = "xfuser"
    PATCHES = "uncompressed patches"
    """Patch modes, which xfuser does not have over gloo: our exchange of whole values."""
    COMPACTFUSION = "CompactFusion's math"
    THINWIRE = "thinwire"


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the table. `rung`: a rung's name; empty for upstream's and for the adaptive one."""

    name: str
    kind: Kind
    ring: int = 1
    ulysses: int = 1
    pipefusion: int = 1
    patch_mode: pb.PatchMode.ValueType = pb.PATCH_MODE_NONE
    rung: str = ""
    pictures: int = 1
    """Made one after the other by the same ranks; the last is the one that counts, the others are told as well."""
    min_millibits: int | None = None
    """The lowest rate that the law may choose, where it is another than the setting's."""

    @property
    def ranks(self) -> int:
        """How many it takes."""
        return self.ring * self.ulysses * self.pipefusion

    @property
    def session(self) -> tuple[object, ...]:
        """Variants with the same can be made one after the other by the same ranks; empty: by ranks of its own."""
        if self.adaptive or self.kind is Kind.ONE_PROCESS:
            return ()
        return (self.kind, self.ring, self.ulysses, self.pipefusion, self.patch_mode)

    @property
    def adaptive(self) -> bool:
        """Whether the law chooses the rung."""
        return self.kind is Kind.THINWIRE and not self.rung

    @property
    def is_coded(self) -> bool:
        """Whether fewer bytes travel than the values have."""
        return self.kind in (Kind.THINWIRE, Kind.COMPACTFUSION) and self.rung != "off"


ADAPTIVE = Variant("thinwire adaptive", Kind.THINWIRE, ring=2, pictures=2)
FROM_600 = Variant("thinwire adaptive from 600", Kind.THINWIRE, ring=2, pictures=2, min_millibits=600)
PIPEFUSION = Variant("thinwire adaptive PipeFusion", Kind.THINWIRE, pipefusion=2, pictures=2)
OFF = Variant("thinwire off", Kind.THINWIRE, ring=2, rung="off")
RING = Variant("xfuser ring", Kind.UPSTREAM, ring=2)
ONE_BIT = Variant("cf-1bit", Kind.COMPACTFUSION, ring=2, rung="cf-1bit")
ONE_PROCESS = Variant("one process", Kind.ONE_PROCESS)

_RUNGS = (
    "transform-500",
    "transform-600",
    "transform-750",
    "transform-1000",
    "transform-2000",
    "bits1",
    "bits2",
    "int4",
)
_COMPACTFUSION = ("cf-2bit", "cf-lowrank32")

VARIANTS: tuple[Variant, ...] = (
    ONE_PROCESS,
    ADAPTIVE,
    FROM_600,
    PIPEFUSION,
    *(Variant(f"thinwire {rung}", Kind.THINWIRE, ring=2, rung=rung) for rung in _RUNGS),
    OFF,
    ONE_BIT,
    *(Variant(name, Kind.COMPACTFUSION, ring=2, rung=name) for name in _COMPACTFUSION),
    RING,
    Variant("xfuser Ulysses", Kind.UPSTREAM, ulysses=2),
    Variant("xfuser PipeFusion", Kind.UPSTREAM, pipefusion=2),
    Variant("thinwire PipeFusion int4", Kind.THINWIRE, pipefusion=2, rung="int4"),
    Variant("patch all-gather", Kind.PATCHES, ring=2, patch_mode=pb.PATCH_MODE_GATHER),
    Variant("DistriFusion", Kind.PATCHES, ring=2, patch_mode=pb.PATCH_MODE_DISTRIFUSION),
)
QUICK = (ADAPTIVE, ONE_BIT, RING, ONE_PROCESS)
