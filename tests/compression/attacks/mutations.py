"""Frames damaged at random, from seeds: what a broken link, a broken sender or a forger might send.

Every kind but `FORGED` leaves a frame that no sender wrote, and it must be refused. `FORGED` changes the payload and
writes a fitting CRC-32: such a frame may say something else, but nothing that is not finite and nothing that brings
the receiver down.
"""

import random
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import torch

from tests.compression.attacks.frames import resealed
from tests.compression.cases import DTYPES, STREAM, drifting, kernel_named
from thinwire.compression import (
    HEADER_BYTES,
    RAW,
    RUNGS,
    BaseFormat,
    Basis,
    FrameError,
    Rung,
    StreamDecoder,
    StreamEncoder,
    TransformRung,
)

HEAD_SIZE = 5
SHAPES = ((3, 5), (1, 1 * HEAD_SIZE), (17, 4 * HEAD_SIZE), (33, 2 * HEAD_SIZE), (2, 13), (1, 1), (0, 7))
TARGETS = (*RUNGS, TransformRung(500), TransformRung(2_000), TransformRung(6_000))
FIELD_OFFSETS = (0, 2, 3, 4, 5, 6, 8, 12, 16, 20, 24, 26, 28, 30, 31, 32, 36)


class Kind(StrEnum):
    """How a frame is damaged."""

    BITS = "bits"
    BYTES = "bytes"
    RUN = "run"
    FIELD = "field"
    CUT = "cut"
    GROWN = "grown"
    SPLICED = "spliced"
    NOISE = "noise"
    FORGED = "forged"


@dataclass(slots=True)
class Outcome:
    """What became of a batch of frames. wrong: what must not happen, in words that allow to repeat it."""

    frames: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    forged_read: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        """Take another batch in."""
        self.frames += other.frames
        self.kinds += other.kinds
        self.refusals += other.refusals
        self.forged_read += other.forged_read
        self.wrong += other.wrong


@dataclass(frozen=True, slots=True)
class Target:
    """A receiver in the middle of a stream, as two functions of a batch's seed: its rung and how it was opened."""

    rung: Rung
    shape: tuple[int, int]
    dtype: torch.dtype
    order: int
    base_format: BaseFormat
    kernel: str

    @classmethod
    def drawn(cls, seed: int) -> "Target":
        """Every rung in turn, everything else at random."""
        chance = random.Random(seed)
        rung = TARGETS[seed % len(TARGETS)]
        shapes = [shape for shape in SHAPES if not isinstance(rung, TransformRung) or shape[1] % HEAD_SIZE == 0]
        return cls(
            rung,
            chance.choice(shapes),
            chance.choice(DTYPES),
            chance.randrange(3),
            chance.choice(list(BaseFormat)),
            chance.choice(("native", "eager")),
        )

    def opened(self) -> tuple[StreamDecoder, bytes, bytes]:
        """Return a receiver that has heard one frame, that frame, and the next."""
        heads = self.shape[1] // HEAD_SIZE
        basis = _basis(heads) if isinstance(self.rung, TransformRung) else None
        opened = {"order": self.order, "base_format": self.base_format, "kernel": kernel_named(self.kernel)}
        encoder = StreamEncoder(STREAM, *self.shape, self.dtype, basis=basis, **opened)
        decoder = StreamDecoder(STREAM, *self.shape, self.dtype, basis=basis, **opened)
        first, second = (
            encoder.encode(x, rung=rung, epoch=0, step=step, key_frame=step == 0).frame
            for step, (x, rung) in enumerate(zip(drifting(*self.shape, self.dtype, 2), (RAW, self.rung), strict=True))
        )
        decoder.decode(first, rung=RAW, epoch=0, step=0, key_frame=True)
        return decoder, bytes(first.numpy()), bytes(second.numpy())


def attack(seed: int, frames: int) -> Outcome:
    """Send `frames` damaged frames at the receiver that `seed` draws; equal arguments, equal outcome."""
    target, chance = Target.drawn(seed), random.Random(seed ^ 0x7477)
    decoder, first, good = target.opened()
    outcome, before = Outcome(), decoder.checksum()
    kinds = list(Kind)
    for number in range(frames):
        kind = chance.choice(kinds)
        frame = MUTATIONS[kind](good, chance)
        if frame == good:
            frame = good[:-1]  # what changed nothing is cut instead
        where = f"seed {seed}, frame {number}, {kind}, {target.rung.name} on {target.kernel}"
        outcome.frames += 1
        outcome.kinds[kind] += 1
        try:
            arrived = decoder.decode(as_frame(frame), rung=target.rung, epoch=0, step=1)
        except FrameError as refusal:
            outcome.refusals[type(refusal).__name__] += 1
            if decoder.checksum() != before:
                outcome.wrong.append(f"{where}: refused, and yet the state changed")
            continue
        except Exception as error:
            outcome.wrong.append(f"{where}: {type(error).__name__}: {error}")
            continue
        outcome.forged_read += kind is Kind.FORGED
        if kind is not Kind.FORGED:
            outcome.wrong.append(f"{where}: accepted")
        elif target.rung is not RAW and target.dtype is torch.float32 and not bool(torch.isfinite(arrived).all()):
            outcome.wrong.append(f"{where}: read as something that is not finite")
        decoder.reset()
        decoder.decode(as_frame(first), rung=RAW, epoch=0, step=0, key_frame=True)
    return outcome


def as_frame(data: bytes) -> torch.Tensor:
    """[n] uint8."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _bits(frame: bytes, chance: random.Random) -> bytes:
    broken = bytearray(frame)
    for _ in range(chance.randint(1, 8)):
        broken[chance.randrange(len(frame))] ^= 1 << chance.randrange(8)
    return bytes(broken)


def _bytes(frame: bytes, chance: random.Random) -> bytes:
    broken = bytearray(frame)
    for _ in range(chance.randint(1, 4)):
        broken[chance.randrange(len(frame))] = chance.randrange(256)
    return bytes(broken)


def _run(frame: bytes, chance: random.Random) -> bytes:
    begin = chance.randrange(len(frame))
    end = chance.randint(begin + 1, len(frame))
    filler = bytes([chance.choice((0, 255, 0x74))]) * (end - begin)
    return frame[:begin] + filler + frame[end:]


def _field(frame: bytes, chance: random.Random) -> bytes:
    offset, code = chance.choice(FIELD_OFFSETS), chance.choice("BHI")
    width = min(struct.calcsize(code), HEADER_BYTES - offset)
    value = chance.choice((0, 1, 0x7F, 0x80, 0xFFFFFFFF, chance.getrandbits(32)))
    return frame[:offset] + value.to_bytes(4, "little")[:width] + frame[offset + width :]


def _cut(frame: bytes, chance: random.Random) -> bytes:
    return frame[: chance.randrange(len(frame))]


def _grown(frame: bytes, chance: random.Random) -> bytes:
    return frame + chance.randbytes(chance.randint(1, 64))


def _spliced(frame: bytes, chance: random.Random) -> bytes:
    """A piece moved to where another was, as when packets change places."""
    size = chance.randint(1, max(len(frame) // 2, 1))
    source, target = (chance.randint(0, len(frame) - size) for _ in range(2))
    return frame[:target] + frame[source : source + size] + frame[target + size :]


def _noise(frame: bytes, chance: random.Random) -> bytes:
    return (
        frame[:HEADER_BYTES] + chance.randbytes(len(frame) - HEADER_BYTES)
        if chance.random() < 0.5
        else (chance.randbytes(len(frame)))
    )


def _forged(frame: bytes, chance: random.Random) -> bytes:
    if len(frame) == HEADER_BYTES:
        return frame
    broken = bytearray(frame)
    for _ in range(chance.randint(1, 6)):
        broken[chance.randrange(HEADER_BYTES, len(frame))] = chance.randrange(256)
    return resealed(bytes(broken))


MUTATIONS: dict[Kind, Callable[[bytes, random.Random], bytes]] = {
    Kind.BITS: _bits,
    Kind.BYTES: _bytes,
    Kind.RUN: _run,
    Kind.FIELD: _field,
    Kind.CUT: _cut,
    Kind.GROWN: _grown,
    Kind.SPLICED: _spliced,
    Kind.NOISE: _noise,
    Kind.FORGED: _forged,
}


def _basis(heads: int) -> Basis:
    turned, _ = torch.linalg.qr(torch.randn(heads, HEAD_SIZE, HEAD_SIZE, generator=torch.Generator().manual_seed(0)))
    return Basis(turned.contiguous(), turned.mT.contiguous(), torch.zeros(heads * HEAD_SIZE, dtype=torch.int16))
