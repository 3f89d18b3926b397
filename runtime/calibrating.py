"""What a model shows to its calibration: attention observed from within, in three ways.

    BasisAttention  all that attention takes and gives goes through a closed loop of the codec; residuals and gradients
                    make the bases
    CurveAttention  nothing is changed; beside the run each place is coded at each rate: how its error falls with bits
    AloneAttention  one place is coded at one rate, all else is exact: what that does to the picture

Tensors: [B, H, S, D] as attention takes them; [rows, channels] as the codec does.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from thinwire.compression import (
    BITS2,
    RAW,
    Basis,
    BasisMeter,
    Exchange,
    Kernel,
    Place,
    Role,
    Rung,
    StreamDecoder,
    StreamEncoder,
    StreamId,
)
from thinwire.runtime.exchange.moment import Moment
from thinwire.runtime.steps import follow

PROBE_EVERY_STEPS = 4
_WHOLE = (Role.KEY, Role.VALUE)
"""What also travels with all heads at once; queries and outputs only do between ranks that share the heads out."""


def rows_of(tensor_BHSD: torch.Tensor) -> torch.Tensor:
    """[B, H, S, D] -> [B x S, H x D], contiguous."""
    return tensor_BHSD.transpose(1, 2).flatten(0, 1).flatten(1).contiguous()


def block_sizes(role: Role, heads: int, head_size: int, widest: int) -> tuple[int, ...]:
    """Return the sizes of blocks, in channels, that a place needs bases for, the widest first.

    Ranks that share out the heads (Ulysses) send each other a half, a quarter, ... of them. For each of these, and for
    all heads where the role travels so, it is the widest block of whole heads that divides them and the block before,
    and has at most `widest` channels. The last one is a single head.
    """
    shares = [heads] if role in _WHOLE else [heads // 2 if heads % 2 == 0 else 1]
    while shares[-1] % 2 == 0:
        shares.append(shares[-1] // 2)
    sizes, count = [], shares[0]
    for share in (*shares, 1):
        divided = math.gcd(share, count)
        fitting = (heads for heads in range(1, divided + 1) if divided % heads == 0 and heads * head_size <= widest)
        count = max(fitting, default=1)
        sizes.append(count * head_size)
    return tuple(dict.fromkeys(sizes))


class Loop:
    """Both ends of the codec for one tensor of one layer; the first tensor is a key frame."""

    def __init__(self, place: Place, like_RC: torch.Tensor, kernel: Kernel, basis: Basis | None = None) -> None:
        stream = StreamId(Exchange.RING, place[0], place[1], 0, 0)
        rows, channels = like_RC.shape
        dtype, device = like_RC.dtype, like_RC.device
        self.encoder = StreamEncoder(stream, rows, channels, dtype, kernel=kernel, basis=basis, device=device)
        self.decoder = StreamDecoder(stream, rows, channels, dtype, kernel=kernel, basis=basis, device=device)
        self.step = 0

    def prediction(self) -> torch.Tensor:
        """Return what both ends expect next."""
        return self.decoder.prediction()

    def travel(self, tensor_RC: torch.Tensor, rung: Rung) -> torch.Tensor:
        """Return what arrives."""
        said: dict[str, Any] = {"rung": rung if self.step else RAW, "epoch": 0, "step": self.step}
        said["key_frame"] = self.step == 0
        self.step += 1
        return self.decoder.decode(self.encoder.encode(tensor_RC, **said).frame, **said)


@dataclass
class WatchedAttention(TorchFunctionMode):
    """Within `watching`, every tensor that attention in the transformer takes or gives goes through `carried`."""

    moment: Moment
    modules: Sequence[torch.nn.Module]
    kernel: Kernel
    inside: bool = field(default=False, init=False)
    step: int = field(default=-1, init=False)

    def __post_init__(self) -> None:
        super().__init__()

    def begin_prompt(self) -> None:
        """Forget the picture before."""
        self.step = -1

    def carried(self, tensor_BHSD: torch.Tensor, place: Place) -> torch.Tensor:
        """Return what attention goes on with."""
        raise NotImplementedError

    def left(self, module: Any, args: Any, kwargs: Any) -> None:
        """Do what is to be done after a forward of the transformer."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Take the place of attention; everything else goes on as it is."""
        kwargs = kwargs or {}
        if function is not torch.nn.functional.scaled_dot_product_attention or not self.inside:
            return function(*args, **kwargs)
        rest = dict(kwargs) | dict(zip(("query", "key", "value", "attn_mask", "dropout_p"), args, strict=False))
        layer = self.moment.layer
        query, key, value = (
            self.carried(rest.pop(name), (layer, role))
            for name, role in (("query", Role.QUERY), ("key", Role.KEY), ("value", Role.VALUE))
        )
        return self.carried(function(query, key, value, **rest), (layer, Role.OUTPUT))

    @contextmanager
    def watching(self, transformer: torch.nn.Module) -> Iterator[None]:
        """Follow a transformer's forwards while the body runs."""

        def enter(*_: object) -> None:
            self.inside = True
            self.step += 1

        def leave(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            self.left(module, args, kwargs)
            self.inside = False

        handles = [
            transformer.register_forward_pre_hook(enter),
            transformer.register_forward_hook(leave, with_kwargs=True),
        ]
        followed = follow(transformer, self.modules, self.moment)
        try:
            with self:
                yield
        finally:
            followed.remove()
            for handle in handles:
                handle.remove()


@dataclass
class BasisAttention(WatchedAttention):
    """Gathers residuals of a closed loop at 2 bits, and gradients of the guided prediction.

    widest: channels of the widest block that a basis may turn together.
    """

    guidance_scale: float
    widest: int
    meters: dict[Place, BasisMeter] = field(default_factory=dict)
    sizes: dict[Place, tuple[int, ...]] = field(default_factory=dict)
    loops: dict[Place, Loop] = field(default_factory=dict)
    leaves: dict[Place, torch.Tensor] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.generator = torch.Generator().manual_seed(0)

    def begin_prompt(self) -> None:
        """Forget the picture before."""
        super().begin_prompt()
        self.loops.clear()

    def carried(self, tensor_BHSD: torch.Tensor, place: Place) -> torch.Tensor:
        """Pass on what arrives of it."""
        if self.leaves is not None:
            leaf = self.leaves[place] = torch.zeros_like(tensor_BHSD, requires_grad=True)
            return tensor_BHSD + leaf
        batch, heads, tokens, size = tensor_BHSD.shape
        rows_RC = rows_of(tensor_BHSD)
        loop = self.loops.get(place)
        if loop is None:
            loop = self.loops[place] = Loop(place, rows_RC, self.kernel)
        else:
            if place not in self.meters:
                sizes = self.sizes[place] = block_sizes(place[1], heads, size, self.widest)
                self.meters[place] = BasisMeter(heads * size // sizes[0], sizes[0])
            self.meters[place].add((rows_RC - loop.prediction()).float())
        return loop.travel(rows_RC, BITS2).view(batch, tokens, heads, size).transpose(1, 2)

    def left(self, module: Any, args: Any, kwargs: Any) -> None:
        """In every fourth step, find how the guided prediction answers to errors in every place at once."""
        if self.step % PROBE_EVERY_STEPS != 1:
            return
        self.leaves = {}
        with torch.enable_grad():
            output = module.forward(*args, **kwargs)
            output = output[0] if isinstance(output, tuple) else output.sample
            projection = torch.randn(output.shape, generator=self.generator).to(output)
            if output.shape[0] == 2:  # without and with the prompt, as guidance adds them up
                projection[0], projection[1] = (
                    (1 - self.guidance_scale) * projection[0],
                    self.guidance_scale * projection[0],
                )
            gradients = torch.autograd.grad((output * projection).sum(), list(self.leaves.values()), allow_unused=True)
        for place, gradient_BHSD in zip(self.leaves, gradients, strict=True):
            if gradient_BHSD is not None and place in self.meters:
                self.meters[place].weigh(rows_of(gradient_BHSD))
        self.leaves = None

    def bases(self) -> dict[Place, tuple[Basis, ...]]:
        """Return what was found, for each size of block, the widest first."""
        return {
            place: tuple(meter.basis(size).in_half_precision() for size in self.sizes[place])
            for place, meter in self.meters.items()
        }


@dataclass
class CurveAttention(WatchedAttention):
    """Sums up, per place and rung, the energy of errors in the metric of the place's basis."""

    bases: Mapping[Place, Basis]
    rungs: Sequence[Rung]
    errors: dict[Place, list[float]] = field(default_factory=dict)
    loops: dict[tuple[Place, Rung], Loop] = field(default_factory=dict)

    def begin_prompt(self) -> None:
        """Forget the picture before."""
        super().begin_prompt()
        self.loops.clear()

    def carried(self, tensor_BHSD: torch.Tensor, place: Place) -> torch.Tensor:
        """Pass it on as it is."""
        rows_RC, basis = rows_of(tensor_BHSD), self.bases[place]
        sums = self.errors.setdefault(place, [0.0] * len(self.rungs))
        for index, rung in enumerate(self.rungs):
            if (place, rung) not in self.loops:
                self.loops[place, rung] = Loop(place, rows_RC, self.kernel, basis)
            error_RC = rows_RC - self.loops[place, rung].travel(rows_RC, rung)
            error_RBD = error_RC.float().view(error_RC.shape[0], -1, basis.size)
            sums[index] += float(torch.einsum("rbd,bde->rbe", error_RBD, basis.forward).double().square().sum())
        return tensor_BHSD


@dataclass
class AloneAttention(WatchedAttention):
    """Codes one place."""

    place: Place
    basis: Basis
    rung: Rung
    loop: Loop | None = None

    def carried(self, tensor_BHSD: torch.Tensor, place: Place) -> torch.Tensor:
        """Pass on what arrives of it, if it is the place."""
        if place != self.place:
            return tensor_BHSD
        batch, heads, tokens, size = tensor_BHSD.shape
        rows_RC = rows_of(tensor_BHSD)
        self.loop = self.loop or Loop(place, rows_RC, self.kernel, self.basis)
        return self.loop.travel(rows_RC, self.rung).view(batch, tokens, heads, size).transpose(1, 2)
