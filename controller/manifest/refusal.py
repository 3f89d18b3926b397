"""Why a manifest is refused: one sentence per reason, the same in every place that refuses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_SENTENCE = re.compile(r"expected (?P<expected>.+?), got (?P<got>.+?); (?P<remedy>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One thing that is wrong: which field, what was expected, what came, what to do."""

    field: str
    expected: str
    got: str
    remedy: str

    @classmethod
    def of(cls, field: str, sentence: str) -> Refusal:
        """Take apart `sentence`, "expected ..., got ...; what to do"; ValueError if it is another one."""
        parts = _SENTENCE.fullmatch(sentence)
        if parts is None:
            raise ValueError(f'expected a sentence "expected ..., got ...; ...", got {sentence!r}; mend the rule')
        return cls(field, parts["expected"], parts["got"], parts["remedy"])

    def __str__(self) -> str:
        """Give the refusal in one line."""
        line = f"{self.field}: expected {self.expected}, got {self.got}; {self.remedy}"
        return "".join(character if character.isprintable() else repr(character)[1:-1] for character in line)


class ManifestError(Exception):
    """A manifest that cannot be run; `refusals` has every reason."""

    def __init__(self, refusals: Iterable[Refusal]) -> None:
        self.refusals = tuple(refusals)
        super().__init__("\n".join(str(refusal) for refusal in self.refusals))
