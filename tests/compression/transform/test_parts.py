import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.compression.errors import PayloadError
from thinwire.compression.transform import rice, trellis
from thinwire.compression.transform.amplitudes import LIMIT, amplitudes, energy_codes
from thinwire.compression.transform.basis import basis_from_moments
from thinwire.compression.transform.water import GAINS, bits_per_component, plane_bytes

codes = st.lists(st.integers(-60, 60), min_size=1, max_size=6)


@given(st.lists(st.integers(-31, 31), max_size=60), st.integers(0, 7))
def test_changes_survive_rice_coding(values, k):
    bits = rice.write(torch.tensor(values, dtype=torch.int16), k)
    read, end = rice.read(bits.tolist(), 0, len(values), k)
    assert read == values
    assert end == bits.numel()


@given(st.lists(st.integers(-31, 31), max_size=60))
def test_the_best_parameter_is_the_best(values):
    tensor = torch.tensor(values, dtype=torch.int16)
    k, bits = rice.best_parameter(tensor)
    sizes = [rice.write(tensor, parameter).numel() for parameter in range(8)]
    assert bits == sizes[k] == min(sizes)


@given(st.lists(st.integers(-31, 31), max_size=60), st.integers(0, 300))
def test_what_is_affordable_fits_and_the_largest_changes_go_first(values, spare):
    wanted = torch.tensor(values, dtype=torch.int16)
    kept, k, bits = rice.affordable(wanted, len(values) + spare)
    assert bits == rice.write(kept, k).numel() <= len(values) + spare
    assert bool((kept.abs() <= wanted.abs()).all())
    if not torch.equal(kept, wanted) and len(values) and spare >= 2:
        largest = int(wanted.abs().argmax())
        assert int(kept[largest]) != 0


@pytest.mark.parametrize("bits", [[], [1], [1] * 80, [0], [1] * 70 + [0, 0]])
def test_bits_without_an_end_and_large_changes_are_refused(bits):
    with pytest.raises(PayloadError):
        rice.read(bits, 0, 1, 1)


def test_amplitudes_are_quarter_octaves():
    for code in (-480, -7, -4, -1, 0, 1, 2, 3, 4, 5, 480):
        assert math.isclose(float(amplitudes(torch.tensor([code]))[0]), 2.0 ** (code / 4), rel_tol=1e-7)


@given(st.floats(2.0**-100, 2.0**100, width=32))
def test_an_energy_gets_the_nearest_amplitude(energy):
    code = int(energy_codes(torch.tensor([energy]))[0])
    assert abs(math.log2(energy) * 2 - code) <= 0.5001


def test_no_energy_has_the_lowest_code():
    assert int(energy_codes(torch.zeros(1))[0]) == -LIMIT


def saved(bits, amplitude_codes):
    """What an allocation saves, in the integers that both ends use."""
    return sum(
        2.0 ** ((8 * code + GAINS[b]) / 16) for code, n in zip(amplitude_codes, bits, strict=True) for b in range(n)
    )


@settings(max_examples=40)
@given(st.lists(st.integers(-12, 12), min_size=1, max_size=4), st.integers(0, 24))
def test_water_filling_is_as_good_as_trying_everything(amplitude_codes, planes):
    """With eight rows a bit plane of one component is one byte, so the budget is met exactly."""
    bits = bits_per_component(torch.tensor(amplitude_codes, dtype=torch.int16), 8, planes).tolist()
    assert sum(bits) == min(planes, 7 * len(amplitude_codes))
    best = max(
        saved(choice, amplitude_codes)
        for choice in product(range(8), repeat=len(amplitude_codes))
        if sum(choice) <= planes
    )
    assert saved(bits, amplitude_codes) == pytest.approx(best)


@given(codes, st.integers(0, 100), st.integers(0, 400))
def test_an_allocation_never_exceeds_its_bytes(amplitude_codes, rows, available):
    bits = bits_per_component(torch.tensor(amplitude_codes, dtype=torch.int16), rows, available)
    widths = [int((bits > plane).sum()) for plane in range(7)]
    assert plane_bytes(widths, rows) <= available
    for louder, quieter in product(range(len(amplitude_codes)), repeat=2):
        if amplitude_codes[louder] > amplitude_codes[quieter]:
            assert bits[louder] >= bits[quieter]


@pytest.mark.parametrize("bits", range(1, trellis.MAX_BITS + 1))
def test_codes_along_the_trellis_lose_what_the_allocator_believes(bits):
    u_RC = torch.randn(300, 60, generator=torch.Generator().manual_seed(bits))
    bits_C = torch.full((60,), bits)
    codes_RC = trellis.quantised(u_RC, torch.ones(300), bits_C)
    assert int(codes_RC.min()) >= 0
    assert int(codes_RC.max()) < 2**bits
    left = float((trellis.values(codes_RC, bits_C) - u_RC).square().mean())
    assert left == pytest.approx(trellis.DISTORTIONS[bits], rel=0.05)


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("bits", [1, 2])
def test_no_other_codes_come_nearer(rows, bits):
    u_RC = torch.randn(rows, 4, generator=torch.Generator().manual_seed(rows))
    weight_R = torch.arange(1, rows + 1).float()
    bits_C = torch.full((1,), bits)

    def error(codes_RC, column):
        return float(((trellis.values(codes_RC, bits_C)[:, 0] - u_RC[:, column]).square() * weight_R).sum())

    found_RC = trellis.quantised(u_RC, weight_R, bits_C.repeat(4))
    for column in range(4):
        every = (torch.tensor(codes, dtype=torch.int16)[:, None] for codes in product(range(2**bits), repeat=rows))
        least = min(error(codes_RC, column) for codes_RC in every)
        assert error(found_RC[:, column : column + 1], column) == pytest.approx(least, rel=1e-5)


def test_every_block_of_rows_begins_anew():
    u_RC = torch.randn(2 * trellis.BLOCK_ROWS + 9, 3, generator=torch.Generator().manual_seed(0))
    weight_R, bits_C = torch.ones(u_RC.shape[0]), torch.tensor([3, 1, 2])
    codes_RC = trellis.quantised(u_RC, weight_R, bits_C)
    values_RC = trellis.values(codes_RC, bits_C)
    for first in range(0, u_RC.shape[0], trellis.BLOCK_ROWS):
        block = slice(first, first + trellis.BLOCK_ROWS)
        assert torch.equal(trellis.quantised(u_RC[block], weight_R[block], bits_C), codes_RC[block])
        assert torch.equal(trellis.values(codes_RC[block], bits_C), values_RC[block])


def test_a_basis_undoes_itself_and_decorrelates_in_the_metric():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(2, 6, 6, generator=generator).double()
    spread = torch.randn(2, 6, 6, generator=generator).double()
    moment, metric = spread @ spread.mT, root @ root.mT
    forward, inverse = (part.double() for part in basis_from_moments(moment, metric))
    assert torch.allclose(forward @ inverse, torch.eye(6).double().repeat(2, 1, 1), atol=1e-4)
    energies = forward.mT @ moment @ forward
    off = energies - torch.diag_embed(energies.diagonal(dim1=1, dim2=2))
    assert float(off.abs().max()) < 1e-4 * float(energies.abs().max())
    diagonal = energies.diagonal(dim1=1, dim2=2)
    assert bool((diagonal.diff(dim=1) <= 1e-6).all())
    means = metric.diagonal(dim1=1, dim2=2).mean(dim=1)
    cost = (metric + 0.01 * means[:, None, None] * torch.eye(6)) / means.mean()
    assert torch.allclose(forward @ forward.mT, cost, atol=1e-4)
