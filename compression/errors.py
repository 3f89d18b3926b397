"""Everything the codec refuses, as types. A message says what was expected, what came, and what to do."""


class CodecError(Exception):
    """The root of all errors of the codec."""


class TensorError(CodecError, ValueError):
    """A tensor or buffer of the wrong shape, dtype, device or layout was handed in."""


class NonFiniteError(CodecError, ValueError):
    """A tensor holds NaN, Inf or magnitudes beyond 2**60, which a coded rung cannot carry; state is untouched.

    A raw frame carries them bit for bit; the base then holds zero in their places.
    """


class RungError(CodecError, ValueError):
    """An unknown rung, a rate outside the ladder, or a rung that cannot serve as a key frame."""


class CalibrationError(CodecError, ValueError):
    """A calibration file is broken, of another version, or of another model."""


class FrameError(CodecError):
    """A received frame was refused; the decoder's state is untouched. Ask the sender for a key frame."""


class LengthError(FrameError):
    """The frame is shorter or longer than rung and shape demand.

    difference: the first field in which its header differs from what was agreed, what was expected and what came; None
    where it has no header or the same.
    """

    def __init__(
        self, expected_bytes: int, got_bytes: int, difference: tuple[str, object, object] | None = None
    ) -> None:
        said = "" if difference is None else " (its header, {}: expected {}, got {})".format(*difference)
        super().__init__(f"frame: expected {expected_bytes} bytes, got {got_bytes}{said}; ask for a key frame")
        self.expected_bytes = expected_bytes
        self.got_bytes = got_bytes
        self.difference = difference


class HeaderMismatch(FrameError):  # noqa: N818  (it names the fact, its subclasses the faults)
    """A header field differs from what this exchange expects."""

    def __init__(self, field: str, expected: object, got: object) -> None:
        super().__init__(f"frame header, {field}: expected {expected}, got {got}; ask for a key frame")
        self.field = field
        self.expected = expected
        self.got = got


class MagicError(HeaderMismatch):
    """The bytes are no frame of thinwire at all."""


class VersionError(HeaderMismatch):
    """The frame speaks another version of the wire format; run the same thinwire on every rank."""


class ChecksumError(FrameError):
    """The payload's CRC-32 differs from the one in the header."""

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(f"frame payload: expected CRC-32 {expected:#010x}, got {got:#010x}; ask for a key frame")
        self.expected = expected
        self.got = got


class PayloadError(FrameError):
    """The payload passes its CRC-32 and yet is nothing that an encoder writes."""
