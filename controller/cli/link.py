"""`--emulate-link RATE[@STEP],...`: what every rank's sends are to be slowed down to, from which step of the job on."""

from __future__ import annotations

import re

from thinwire.controller.cli.errors import Refused
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import EmulatedLinkPhase

_PHASE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z/]+)(?:@(?P<step>\d+))?")
_BITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_BYTES = {"b": 8, "kb": 8 * 10**3, "mb": 8 * 10**6, "gb": 8 * 10**9}
_SLOWEST_BITS_PER_SECOND = 1_000
_FASTEST_BITS_PER_SECOND = 10**13
_HIGHEST_STEP = 2**31 - 1
_EXAMPLE = "such as 400Mbit,40Mbit@60,400Mbit@140 or 5MB/s"


def parse_link(text: str) -> tuple[EmulatedLinkPhase, ...]:
    """Read the option; steps must rise, and the first phase without one begins at step 0. Raises Refused.

    Units count bits (bit, kbit, Mbit, Gbit) or bytes (B/s, kB/s, MB/s, GB/s) per second, in powers of ten.
    """
    phases: list[EmulatedLinkPhase] = []
    for part in text.split(","):
        phase = _phase(part.strip(), is_first=not phases)
        if phases and phase.from_step <= phases[-1].from_step:
            raise _refused(f"steps that rise from phase to phase, got {phase.from_step} after {phases[-1].from_step}")
        phases.append(phase)
    return tuple(phases)


def rate_of(text: str, option: str) -> int:
    """Read one rate, in bits per second; raises Refused in the name of `option`."""
    try:
        phases = parse_link(text)
    except Refused as refused:
        raise Refused(refused.message.replace("--emulate-link", option)) from None
    if len(phases) != 1 or phases[0].from_step:
        raise Refused(f"{option}: expected one rate, got {text!r}; write it such as 400Mbit or 5MB/s")
    return phases[0].bits_per_second


def _phase(part: str, *, is_first: bool) -> EmulatedLinkPhase:
    found = _PHASE.fullmatch(part)
    if found is None:
        raise _refused(f"a rate with a unit {_EXAMPLE}, got {part!r}")
    bits = float(found["number"]) * _bits_of(found["unit"])
    if not _SLOWEST_BITS_PER_SECOND <= bits <= _FASTEST_BITS_PER_SECOND:
        raise _refused(f"a rate from 1 kbit to 10000 Gbit, got {part!r}")
    if found["step"] is None and not is_first:
        raise _refused(f"@STEP after every rate but the first, got {part!r}")
    step = int(found["step"] or 0)
    if step > _HIGHEST_STEP:
        raise _refused(f"a step below 2147483648, got {step}")
    return EmulatedLinkPhase(bits_per_second=round(bits), from_step=step)


def _bits_of(unit: str) -> int:
    name = unit.lower()
    if name in _BITS and not unit.endswith("B"):
        return _BITS[name]
    plain = name.removesuffix("/s")
    if plain in _BYTES and unit.removesuffix("/s").endswith("B"):
        return _BYTES[plain]
    if plain.removesuffix("s") in _BITS:
        return _BITS[plain.removesuffix("s")]
    raise _refused(f"one of the units bit, kbit, Mbit, Gbit, B/s, kB/s, MB/s, GB/s, got {unit!r}")


def _refused(words: str) -> Refused:
    return Refused(f"--emulate-link: expected {words}; write it {_EXAMPLE}")
