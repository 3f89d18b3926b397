"""Small codes into bytes, in planes: byte k of a plane of n codes holds codes k, k + stride, k + 2 stride, ...

stride = ceil(n / codes per byte); the first of them sits in the lowest bits. The layout asks nothing but shifts and ors
of whole vectors. Three-bit codes are a plane of their low two bits and a plane of their high bit; trits go five to a
byte in base 3. Codes past the end count as 0, and a decoder refuses anything else there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.compression.errors import PayloadError


@dataclass(frozen=True, slots=True)
class Plane:
    """One plane: digits of `base` (a power of two, or 3), `per_byte` of them in each byte."""

    base: int
    per_byte: int

    def stride(self, count: int) -> int:
        """Bytes of a plane of `count` codes."""
        return -(-count // self.per_byte)

    def pack(self, codes_N: Tensor) -> Tensor:
        """Pack [n] int16 codes below `base` into [stride] uint8."""
        stride = self.stride(codes_N.numel())
        digits = torch.zeros(self.per_byte * stride, dtype=torch.int16, device=codes_N.device)
        digits[: codes_N.numel()] = codes_N
        packed = torch.zeros(stride, dtype=torch.int16, device=codes_N.device)
        for place in reversed(range(self.per_byte)):
            packed = packed * self.base + digits[place * stride : (place + 1) * stride]
        return packed.to(torch.uint8)

    def unpack(self, packed: Tensor, count: int) -> Tensor:
        """Unpack [stride] uint8 into [count] int16; raises PayloadError where no encoder could have written it."""
        digits = []
        rest = packed.to(torch.int16)
        for _ in range(self.per_byte):
            digits.append(rest % self.base)
            rest = rest // self.base
        codes = torch.cat(digits)
        if bool(rest.any()) or bool(codes[count:].any()):
            raise PayloadError("frame payload: expected packed codes and zeros past their end; ask for a key frame")
        return codes[:count]


BITS_1 = Plane(base=2, per_byte=8)
BITS_2 = Plane(base=4, per_byte=4)
BITS_4 = Plane(base=16, per_byte=2)
BITS_8 = Plane(base=256, per_byte=1)
TRITS = Plane(base=3, per_byte=5)


def packed_bytes(planes: tuple[Plane, ...], count: int) -> int:
    """Bytes of `count` codes over all `planes`."""
    return sum(plane.stride(count) for plane in planes)


def pack(planes: tuple[Plane, ...], codes_N: Tensor) -> Tensor:
    """Pack [n] int16 codes, lowest digits into the first plane."""
    parts = []
    rest = codes_N
    for plane in planes:
        parts.append(plane.pack(rest % plane.base))
        rest = rest // plane.base
    return torch.cat(parts)


def unpack(planes: tuple[Plane, ...], packed: Tensor, count: int) -> Tensor:
    """Undo `pack` into [count] int16; raises PayloadError as `Plane.unpack` does."""
    codes = torch.zeros(count, dtype=torch.int16, device=packed.device)
    offset, weight = 0, 1
    for plane in planes:
        stride = plane.stride(count)
        codes = codes + plane.unpack(packed[offset : offset + stride], count) * weight
        offset += stride
        weight *= plane.base
    return codes
