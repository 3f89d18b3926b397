"""One process that samples as if its keys and values had travelled: every image token of every layer goes through the
codec and comes back, shard by shard, in every step.

Harsher than a ring of as many ranks, where each keeps its own shard exact, and free of the link: fidelity depends on
what is coded, not on who waits for whom. Tensors: [B, H, S, D] batch, heads, tokens, head size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.overrides import TorchFunctionMode

from thinwire.compression import (
    BaseFormat,
    Basis,
    Exchange,
    Kernel,
    Place,
    Role,
    Rung,
    StreamDecoder,
    StreamEncoder,
    StreamId,
)


class TensorCodec(Protocol):
    """What one stream of [rows, channels] tensors goes through: `travel` returns what arrives and the bytes it took."""

    def travel(self, tensor_RC: torch.Tensor, step: int, *, key_frame: bool) -> tuple[torch.Tensor, int]: ...


MakeCodec = Callable[[StreamId, int, int], TensorCodec]


@dataclass(slots=True)
class ThinwireCodec:
    """A sender and a receiver of thinwire's own codec at one rung."""

    encoder: StreamEncoder
    decoder: StreamDecoder
    rung: Rung
    key_rung: Rung

    @classmethod
    def maker(
        cls,
        kernel: Kernel,
        rung: Rung,
        key_rung: Rung,
        order: int,
        base_format: BaseFormat = BaseFormat.FULL,
        bases: Mapping[Place, Basis] | None = None,
        allocated: Mapping[Place, Rung] | None = None,
    ) -> MakeCodec:
        def make(stream: StreamId, rows: int, channels: int) -> ThinwireCodec:
            place = (stream.layer, stream.role)
            opened: dict[str, Any] = {"kernel": kernel, "order": order, "base_format": base_format}
            opened["basis"] = bases[place] if bases is not None else None
            return cls(
                StreamEncoder(stream, rows, channels, torch.float32, **opened),
                StreamDecoder(stream, rows, channels, torch.float32, **opened),
                (allocated or {}).get(place, rung),
                key_rung,
            )

        return make

    def travel(self, tensor_RC: torch.Tensor, step: int, *, key_frame: bool) -> tuple[torch.Tensor, int]:
        rung = self.key_rung if key_frame else self.rung
        sent = self.encoder.encode(tensor_RC, rung=rung, epoch=0, step=step, key_frame=key_frame)
        arrived = self.decoder.decode(sent.frame, rung=rung, epoch=0, step=step, key_frame=key_frame)
        return arrived, sent.frame.numel()


@dataclass(slots=True)
class Traffic:
    """Bytes and values that travelled, key frames apart."""

    key_bytes: int = 0
    key_values: int = 0
    coded_bytes: int = 0
    coded_values: int = 0

    @property
    def coded_bits_per_value(self) -> float:
        """After warm-up: payload, scales and headers."""
        return 8 * self.coded_bytes / max(self.coded_values, 1)

    @property
    def bits_per_value(self) -> float:
        """The whole run, key frames included."""
        return 8 * (self.key_bytes + self.coded_bytes) / max(self.key_values + self.coded_values, 1)


@dataclass
class CodedAttention(TorchFunctionMode):
    """Within the block every attention sees keys and values of image tokens as they arrive.

    `layers` attentions make a step; the first `warmup_steps` are key frames. Text tokens come last and stay exact.
    """

    make: MakeCodec
    layers: int
    image_tokens: int
    shards: int
    warmup_steps: int
    traffic: Traffic = field(default_factory=Traffic)

    def __post_init__(self) -> None:
        super().__init__()
        self._calls = 0
        self._codecs: dict[StreamId, TensorCodec] = {}

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is not torch.nn.functional.scaled_dot_product_attention:
            return function(*args, **kwargs)
        query, key, value, *rest = args
        step, layer = divmod(self._calls, self.layers)
        self._calls += 1
        key = self._travel(key, layer, Role.KEY, step)
        value = self._travel(value, layer, Role.VALUE, step)
        return function(query, key, value, *rest, **kwargs)

    def _travel(self, tensor_BHSD: torch.Tensor, layer: int, role: Role, step: int) -> torch.Tensor:
        batch, heads, _, head_size = tensor_BHSD.shape
        key_frame = step < self.warmup_steps
        arrived = []
        for source, shard_BHSD in enumerate(tensor_BHSD[:, :, : self.image_tokens].chunk(self.shards, dim=2)):
            rows_RC = shard_BHSD.transpose(1, 2).reshape(-1, heads * head_size).contiguous()
            stream = StreamId(Exchange.RING, layer, role, 0, source)
            if stream not in self._codecs:
                self._codecs[stream] = self.make(stream, *rows_RC.shape)
            decoded_RC, size = self._codecs[stream].travel(rows_RC, step, key_frame=key_frame)
            self._count(size, rows_RC.numel(), key_frame=key_frame)
            arrived.append(decoded_RC.view(batch, -1, heads, head_size).transpose(1, 2))
        return torch.cat([*arrived, tensor_BHSD[:, :, self.image_tokens :]], dim=2)

    def _count(self, size: int, values: int, *, key_frame: bool) -> None:
        if key_frame:
            self.traffic.key_bytes += size
            self.traffic.key_values += values
        else:
            self.traffic.coded_bytes += size
            self.traffic.coded_values += values
