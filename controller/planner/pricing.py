"""What a rank sends at one rung: in a step, in the steps of key frames, in a whole picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

from thinwire.controller.manifest.job import DiffusionJob
from thinwire.controller.planner import rungs
from thinwire.controller.planner.layout import LinkClass
from thinwire.controller.planner.memory import BaseMemory
from thinwire.controller.planner.rungs import RungPrice
from thinwire.controller.planner.traffic import Flow, Operation, Traffic, bytes_of


@dataclass(frozen=True, slots=True)
class Sent:
    """Bytes of one rank over one link class."""

    step_bytes: int
    first_bytes: int
    picture_bytes: int


@dataclass(frozen=True, slots=True)
class Pricing:
    """What a job's frames cost. `key_steps` of a picture's `steps` are key frames."""

    value_bytes: int
    steps: int
    key_steps: int

    @classmethod
    def of(cls, job: DiffusionJob, value_bytes: int) -> Pricing:
        """Price a job whose activations take so many bytes each."""
        steps = job.generation.steps
        return cls(value_bytes, steps, min(steps, max(1, job.compression.warmup_steps)))

    def millibits(self, rung: RungPrice | None, traffic: Traffic) -> int:
        """Return what travels for one value, headers and scales included; None is no codec."""
        if rung is None:
            return self.value_bytes * 8_000
        return traffic.millibits(lambda flow: _used(rung, flow).frame_bytes(flow.rows, flow.channels))

    def sent(self, rung: RungPrice | None, traffic: Traffic, link_class: LinkClass, memory: BaseMemory) -> Sent:
        """Return what a rank sends over these links when `rung` is commanded; None is no codec.

        While stages are in step attention is not coded; the first step after that is one of key frames if it is coded.
        What the last stage has made in the last step is the picture: nobody gets it any more.
        """
        if rung is not None and not traffic.has_stages and all(flow.is_picture for flow in traffic.flows):
            # With nothing that would take fewer bits the ranks' ladder ends at 8, and its key frames are whole.
            rung = rungs.picture_rung(rung)
        steady, in_step = (
            tuple(flow for flow in flows if flow.link_class is link_class) for flows in (traffic.flows, traffic.in_step)
        )
        if rung is None:
            step, first = (sum(flow.values for flow in flows) * self.value_bytes for flows in (steady, in_step))
            last = sum(flow.values for flow in steady if _is_handed_back(flow)) * self.value_bytes
            return Sent(step, first, self.key_steps * first + self.later_steps * step - last)
        step, key = (self._coded(rung, traffic, steady, memory, is_key=is_key) for is_key in (False, True))
        if not traffic.has_stages:
            return Sent(step, key, self.key_steps * key + self.later_steps * step)
        first = self._in_step(rung, in_step)
        keys = min(self.later_steps, 1) if any(flow.of_attention for flow in traffic.flows) else 0
        handed_back = tuple(flow for flow in steady if _is_handed_back(flow))
        last = self._coded(rung, traffic, handed_back, memory, is_key=self.later_steps <= keys)
        return Sent(step, first, self.key_steps * first + keys * key + (self.later_steps - keys) * step - last)

    @property
    def later_steps(self) -> int:
        """Steps after those of key frames."""
        return self.steps - self.key_steps

    def _coded(
        self, rung: RungPrice, traffic: Traffic, flows: tuple[Flow, ...], memory: BaseMemory, *, is_key: bool
    ) -> int:
        def frame(flow: Flow) -> int:
            return self._key_frame(rung, flow) if is_key else _used(rung, flow).frame_bytes(flow.rows, flow.channels)

        with_bases, without = split_layers(flows, traffic.layers, memory.layers_without)
        return bytes_of(without, self._whole) + bytes_of(with_bases, frame)

    def _in_step(self, rung: RungPrice, flows: tuple[Flow, ...]) -> int:
        def frame(flow: Flow) -> int:
            return self._whole(flow) if flow.of_attention else self._key_frame(rung, flow)

        return bytes_of(flows, frame)

    def _whole(self, flow: Flow) -> int:
        return flow.rows * flow.channels * self.value_bytes

    def _key_frame(self, rung: RungPrice, flow: Flow) -> int:
        return rungs.key_frame_bytes(rung, flow.rows, flow.channels, self.value_bytes)


def split_layers(
    flows: tuple[Flow, ...], layers: int, layers_without: int
) -> tuple[tuple[Flow, ...], tuple[Flow, ...]]:
    """Return the flows of layers that keep bases, with what belongs to no layer, and of those that do not."""
    kept, without = [], []
    for flow in flows:
        lost = flow.times // layers * layers_without if flow.of_attention else 0
        kept.append(replace(flow, times=flow.times - lost))
        without.append(replace(flow, times=lost))
    return tuple(kept), tuple(without)


def _is_handed_back(flow: Flow) -> bool:
    return flow.is_picture and flow.operation is Operation.PIPEFUSION


def _used(rung: RungPrice, flow: Flow) -> RungPrice:
    if flow.is_picture:
        return rungs.picture_rung(rung)
    return rung if flow.of_attention else rungs.without_basis(rung)
