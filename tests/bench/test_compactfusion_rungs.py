"""CompactFusion's rungs on the wire are its math."""

from __future__ import annotations

import pytest
import torch

from bench.compactfusion import CODERS
from bench.sweep.compactfusion_rungs import COMPACTFUSION_RUNGS, FactorsRung
from thinwire.compression import RAW, Exchange, Role, Rung, StreamDecoder, StreamEncoder, StreamId, choose_kernel
from thinwire.compression.rungs.memory import RungMemory

ROWS, CHANNELS = 34, 24
SCALAR_RUNGS = [rung for rung in COMPACTFUSION_RUNGS if not isinstance(rung, FactorsRung)]
LOW_RANK_RUNGS = [rung for rung in COMPACTFUSION_RUNGS if isinstance(rung, FactorsRung)]


@pytest.mark.parametrize("rung", SCALAR_RUNGS, ids=lambda rung: rung.name)
def test_what_is_decoded_is_what_the_paper_s_math_gives_and_every_bit_of_it_travels(rung: Rung):
    x_RC = torch.randn(ROWS, CHANNELS, generator=torch.Generator().manual_seed(0))
    memory = RungMemory.fresh(None, ROWS, torch.device("cpu"))
    payload = rung.encode(x_RC, torch.float32, memory)
    decoded_RC, _ = rung.decode(payload, ROWS, CHANNELS, torch.float32, memory)
    expected_RC, bits = CODERS[rung.name](x_RC)
    torch.testing.assert_close(decoded_RC, expected_RC, rtol=1e-3, atol=1e-6)
    assert payload.numel() == rung.payload_bytes(ROWS, CHANNELS, torch.float32)
    assert bits <= 8 * payload.numel() < bits + 8


@pytest.mark.parametrize("rung", LOW_RANK_RUNGS, ids=lambda rung: rung.name)
def test_warm_factors_come_close_to_the_best_ones_in_the_paper_s_bits(rung: Rung):
    x_RC = torch.randn(ROWS, CHANNELS, generator=torch.Generator().manual_seed(0))
    memory = RungMemory.fresh(None, ROWS, torch.device("cpu"))
    for _ in range(8):
        payload = rung.encode(x_RC, torch.float32, memory)
        decoded_RC, memory = rung.decode(payload, ROWS, CHANNELS, torch.float32, memory)
    expected_RC, bits = CODERS[rung.name](x_RC)
    assert (decoded_RC - x_RC).norm() < 1.05 * (expected_RC - x_RC).norm()
    assert payload.numel() == rung.payload_bytes(ROWS, CHANNELS, torch.float32)
    assert bits <= 8 * payload.numel() < bits + 32  # four planes, each a whole byte long


@pytest.mark.parametrize("rung", COMPACTFUSION_RUNGS, ids=lambda rung: rung.name)
def test_both_ends_hold_the_same_base_and_errors_do_not_add_up(rung: Rung):
    stream = StreamId(Exchange.RING, 0, Role.KEY, 0, 0)
    ends = [
        end(stream, ROWS, CHANNELS, torch.float32, kernel=choose_kernel(), order=0)
        for end in (StreamEncoder, StreamDecoder)
    ]
    encoder, decoder = ends
    chance = torch.Generator().manual_seed(1)
    x_RC = torch.randn(ROWS, CHANNELS, generator=chance)
    errors = []
    for step in range(40):
        at = {"rung": rung if step else RAW, "epoch": 0, "step": step, "key_frame": step == 0}
        sent = encoder.encode(x_RC, **at)
        decoder.decode(sent.frame, **at)
        assert encoder.checksum() == decoder.checksum()
        errors.append(sent.relative_error)
        x_RC = x_RC + 0.05 * torch.randn(ROWS, CHANNELS, generator=chance)
    # Eight directions of 24 cannot follow a residual that has no direction; their error must stop growing, too.
    assert max(errors[20:]) < (0.1 if rung.name != "cf-lowrank8" else 0.25)
