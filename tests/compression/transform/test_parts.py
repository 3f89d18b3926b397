import math
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.compression.errors import PayloadError
from thinwire.compression.rungs import lloyd_max
from thinwire.compression.transform import rice
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


@settings(max_examples=40, deadline=None)
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


@pytest.mark.parametrize("bits", range(1, lloyd_max.MAX_BITS + 1))
def test_levels_are_the_centroids_of_their_cells(bits):
    levels, limits = lloyd_max.levels(bits), (-math.inf, *lloyd_max.thresholds(bits), math.inf)

    def density(x):
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    def below(x):
        return math.erfc(-x / math.sqrt(2)) / 2

    left = 1.0
    for level, (low, high) in zip(levels, pairwise(limits), strict=True):
        weight = below(high) - below(low) if low < 0 else below(-low) - below(-high)
        assert level == pytest.approx((density(low) - density(high)) / weight, abs=2e-6)
        left -= weight * level * level
    assert left == pytest.approx(lloyd_max.DISTORTIONS[bits], rel=1e-3)


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
