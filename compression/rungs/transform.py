"""Any rate from a quarter of a bit to six: residuals in a calibrated basis, bits where the energy is.

Per frame: components y = r A; one amplitude per component and one per token, sent as changes from the last frame; bits
per component by reverse water-filling from those amplitudes; trellis codes in bit planes. The payload's size is that
of the rate, side information included. (Goyal, "Theoretical foundations of transform coding", 2001; docs/codec.md)
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinwire.compression.errors import NonFiniteError, PayloadError, RungError
from thinwire.compression.packing import BITS_1
from thinwire.compression.rungs.base import Rung
from thinwire.compression.rungs.memory import RungMemory
from thinwire.compression.sums import column_sums, row_sums
from thinwire.compression.transform import rice, trellis
from thinwire.compression.transform.amplitudes import LIMIT, amplitudes, energy_codes
from thinwire.compression.transform.basis import Basis
from thinwire.compression.transform.water import bits_per_component

MIN_MILLIBITS, MAX_MILLIBITS = 250, 6_000
KEY_FRAME_MILLIBITS = 3_000
LARGEST_ENERGY = 2.0**110
TOKEN_LIMIT = 40
_BEND_BITS = 3
"""From here on pictures gain less from a bit: at 6 bits they come nearly as near as with int8, never nearer."""

_LEADER = struct.Struct("<HhBB")  # basis tag, common change of components, Rice parameters of components and of tokens


@dataclass(frozen=True, slots=True)
class _Amplitudes:
    """Codes in quarter octaves, as both ends will have them, and the bytes that say how they changed."""

    component_C: Tensor
    token_R: Tensor
    side: Tensor


@dataclass(frozen=True, slots=True)
class TransformRung(Rung):
    """millibits per value, side information included, header not; 250 to 6,000, or RungError.

    distortion: that of a scalar rung whose pictures come as near (bench fidelity, in-box model): what is lost here is
    lost where it costs least, in a metric of its own, so the share that is lost would not compare.

    Payload: leader (6 bytes), changes of component and token amplitudes (Rice codes), bit planes, zeros. Needs a stream
    that was opened with a basis (RungError).
    """

    millibits: int
    wire_id: int = 7
    name: str = field(init=False)
    distortion: float = field(init=False)
    carries_key_frames: bool = field(init=False)

    def __post_init__(self) -> None:
        if not MIN_MILLIBITS <= self.millibits <= MAX_MILLIBITS:
            raise RungError(
                f"transform rate: expected {MIN_MILLIBITS} to {MAX_MILLIBITS} millibits, got {self.millibits}"
            )
        object.__setattr__(self, "name", f"transform-{self.millibits}")
        bits = self.millibits / 1000
        halvings = 3.4 * min(bits, _BEND_BITS) + 1.5 * max(bits - _BEND_BITS, 0)
        object.__setattr__(self, "distortion", 1.4 * 2.0**-halvings)
        object.__setattr__(self, "carries_key_frames", self.millibits >= KEY_FRAME_MILLIBITS)

    def payload_bytes(self, rows: int, channels: int, dtype: torch.dtype) -> int:
        """Return what the rate allows, and at least room for the leader and one bit per amplitude."""
        least = _LEADER.size + -(-(rows + channels) // 8)
        return max(-(-rows * channels * self.millibits // 8_000), least)

    def encode(self, tensor_RC: Tensor, dtype: torch.dtype, memory: RungMemory) -> Tensor:
        """Transform, measure, allocate, quantise, pack; raises NonFiniteError and RungError."""
        return self.encode_components(required_basis(memory, self).components(tensor_RC), dtype, memory)

    def encode_components(
        self,
        components_RC: Tensor,
        dtype: torch.dtype,
        memory: RungMemory,
        quantise: Callable[[Tensor, Tensor, Tensor], Tensor] = trellis.quantised,
    ) -> Tensor:
        """Do as `encode`, from what the basis made of the tensor; `quantise` does as trellis.quantised."""
        basis = required_basis(memory, self)
        rows, channels = components_RC.shape
        size = self.payload_bytes(rows, channels, dtype)
        payload = torch.zeros(size, dtype=torch.uint8, device=components_RC.device)
        found = self._measure(components_RC, basis, memory, payload.numel())
        at = found.side.numel()
        payload[:at] = found.side
        bits_C = bits_per_component(found.component_C, rows, payload.numel() - at)
        order = _coded_order(bits_C)
        scale_codes_RC = found.token_R[:, None].int() + found.component_C[None, order].int()
        even_RC = components_RC[:, order] * amplitudes(-scale_codes_RC)
        codes_RC = quantise(even_RC, amplitudes(2 * found.token_R.int()), bits_C[order])
        for plane, width in enumerate(_plane_widths(bits_C)):
            packed = BITS_1.pack((codes_RC[:, :width] >> plane & 1).reshape(-1))
            payload[at : at + packed.numel()] = packed
            at += packed.numel()
        return payload

    def _measure(self, y_RC: Tensor, basis: Basis, memory: RungMemory, payload_bytes: int) -> _Amplitudes:
        """Measure amplitudes of tokens and components; say how they changed in at most half of the payload."""
        rows, channels = y_RC.shape
        energy_C = column_sums(y_RC * y_RC) / max(rows, 1)
        if not bool((energy_C <= LARGEST_ENERGY).all()):
            raise NonFiniteError(f"{self.name}: expected finite values up to 2**55; send the tensor raw")
        wanted_R = self._token_codes(y_RC, energy_codes(energy_C), payload_bytes) - memory.token_codes
        room_bits = max(8 * (payload_bytes // 2 - _LEADER.size), rows + channels)
        own_R, k_token, token_bits = rice.affordable(
            wanted_R.clamp(-rice.LARGEST, rice.LARGEST), rows + (room_bits - rows - channels) // 2
        )
        token_R = memory.token_codes + own_R
        even_RC = y_RC * amplitudes(-token_R)[:, None]
        wanted_C = energy_codes(column_sums(even_RC * even_RC) / max(rows, 1)) - memory.component_codes
        common = int(wanted_C.median()) if channels else 0
        own_C, k_component, _ = rice.affordable(
            (wanted_C - common).clamp(-rice.LARGEST, rice.LARGEST), room_bits - token_bits
        )
        leader = _LEADER.pack(basis.tag, common, k_component, k_token)
        changes = torch.cat([rice.write(own_C, k_component), rice.write(own_R, k_token)])
        side = torch.cat([_as_tensor(leader).to(y_RC.device), _bytes_of(changes)])
        return _Amplitudes(_limited(memory.component_codes.int() + common + own_C), token_R, side)

    def _token_codes(self, y_RC: Tensor, component_C: Tensor, payload_bytes: int) -> Tensor:
        """How loud each token is, over the components that are about to be coded."""
        bits_C = bits_per_component(component_C, y_RC.shape[0], payload_bytes)
        active_C = (bits_C > 0) | (component_C == component_C.max() if component_C.numel() else bits_C > 0)
        even_RC = torch.where(active_C, y_RC * amplitudes(-component_C), torch.zeros_like(y_RC))
        energy_R = row_sums(even_RC * even_RC) / max(int(active_C.sum()), 1)
        return energy_codes(energy_R).clamp(-TOKEN_LIMIT, TOKEN_LIMIT)

    def decode(
        self, payload: Tensor, rows: int, channels: int, dtype: torch.dtype, memory: RungMemory
    ) -> tuple[Tensor, RungMemory]:
        """Undo `encode`; raises PayloadError for another basis or bytes that no encoder writes."""
        components_RC, after = self.decode_components(payload, rows, channels, memory)
        return required_basis(memory, self).residual(components_RC), after

    def decode_components(
        self, payload: Tensor, rows: int, channels: int, memory: RungMemory
    ) -> tuple[Tensor, RungMemory]:
        """Do as `decode`, but stop at the components: [rows, channels] float32."""
        basis = required_basis(memory, self)
        component_C, token_R, at = _read_amplitudes(payload, rows, channels, memory)
        bits_C = bits_per_component(component_C, rows, payload.numel() - at)
        order = _coded_order(bits_C)
        codes_RC = torch.zeros(rows, order.numel(), dtype=torch.int16, device=payload.device)
        for plane, width in enumerate(_plane_widths(bits_C)):
            size = BITS_1.stride(rows * width)
            codes_RC[:, :width] |= BITS_1.unpack(payload[at : at + size], rows * width).view(rows, width) << plane
            at += size
        if bool(payload[at:].any()):
            raise PayloadError("frame payload: expected zeros after the last bit plane; ask for a key frame")
        scale_codes_RC = token_R[:, None].int() + component_C[None, order].int()
        components_RC = torch.zeros(rows, channels, dtype=torch.float32, device=payload.device)
        components_RC[:, order] = trellis.values(codes_RC, bits_C[order]) * amplitudes(scale_codes_RC)
        return components_RC, RungMemory(basis, component_C, token_R)


def required_basis(memory: RungMemory, rung: TransformRung) -> Basis:
    """Return the stream's basis; raises RungError where it was opened without one."""
    if memory.basis is None:
        raise RungError(
            f"{rung.name}: expected a stream opened with a basis, got none; calibrate, or use a scalar rung"
        )
    return memory.basis


def _limited(codes: Tensor) -> Tensor:
    return codes.clamp(-LIMIT, LIMIT).to(torch.int16)


def _coded_order(bits_C: Tensor) -> Tensor:
    """Components that have bits, those with the most first, then by index."""
    order = torch.argsort(-bits_C, stable=True)
    return order[: int((bits_C > 0).sum())]


def _plane_widths(bits_C: Tensor) -> list[int]:
    """How many components have more than 0, 1, 2, ... bits, as long as there are any."""
    widths = [int((bits_C > plane).sum()) for plane in range(trellis.MAX_BITS)]
    return [width for width in widths if width]


def _as_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _bytes_of(bits: Tensor) -> Tensor:
    """[n] bits -> [ceil(n / 8)] uint8, the first in the lowest bit of the first byte."""
    padded = torch.nn.functional.pad(bits, (0, -bits.numel() % 8)).view(-1, 8).to(torch.int16)
    weights = torch.tensor([1 << place for place in range(8)], dtype=torch.int16, device=bits.device)
    return (padded * weights).sum(dim=1).to(torch.uint8)


def _read_amplitudes(payload: Tensor, rows: int, channels: int, memory: RungMemory) -> tuple[Tensor, Tensor, int]:
    """Return component codes, token codes and where the bit planes begin."""
    tag, common, k_component, k_token = _LEADER.unpack(bytes(payload[: _LEADER.size].cpu().numpy()))
    basis = memory.basis
    if basis is None or tag != basis.tag:
        raise PayloadError("frame payload: expected another basis; give both ends the same calibration file")
    if max(k_component, k_token) > rice.MAX_PARAMETER:
        raise PayloadError(f"frame payload, Rice parameters: expected up to {rice.MAX_PARAMETER}; ask for a key frame")
    most = (rows + channels) * (2 * rice.LARGEST + 2 + rice.MAX_PARAMETER)
    data = payload[_LEADER.size : _LEADER.size + -(-most // 8)].cpu()
    bits = (data[:, None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten().tolist()
    own_C, at = rice.read(bits, 0, channels, k_component)
    own_R, at = rice.read(bits, at, rows, k_token)
    end = -(-at // 8) * 8
    if any(bits[at:end]):
        raise PayloadError("frame payload: expected zeros after the scale changes; ask for a key frame")
    component_C = memory.component_codes.int() + common + torch.tensor(own_C, dtype=torch.int32, device=payload.device)
    token_R = memory.token_codes + torch.tensor(own_R, dtype=torch.int16, device=payload.device)
    if bool((token_R.abs() > TOKEN_LIMIT).any()):
        raise PayloadError(f"frame payload, tokens: expected amplitudes within {TOKEN_LIMIT}; ask for a key frame")
    return _limited(component_C), token_R.to(torch.int16), _LEADER.size + end // 8
