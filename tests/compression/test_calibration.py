import pytest
import torch
from safetensors.torch import save_file

from tests.compression.transform.test_transform_rungs import calibrated
from thinwire.compression import (
    BasisMeter,
    Calibration,
    CalibrationError,
    Role,
    TensorError,
    TransformRung,
    allocate,
)


def example():
    places = [(0, Role.KEY), (0, Role.VALUE), (11, Role.HIDDEN)]
    return Calibration(
        "model-1",
        "12 prompts",
        {place: (calibrated(heads=1, size=3 * size), calibrated(size=size)) for size, place in enumerate(places, 5)},
        {place: (16.0, 8.0, 4.0, 2.0, number) for number, place in enumerate(places, start=1)},
    )


def test_a_calibration_survives_its_file(tmp_path):
    path = tmp_path / "thinwire-calibration.safetensors"
    example().save(path)
    loaded = Calibration.load(path, "model-1")
    assert loaded.recipe == "12 prompts"
    assert loaded.costs == example().costs
    for place, bases in example().bases.items():
        assert [basis.tag for basis in loaded.bases[place]] == [basis.tag for basis in bases]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_whoever_may_read_a_folder_s_other_files_may_read_its_calibration(tmp_path):
    path, other = tmp_path / "c.safetensors", tmp_path / "other"
    example().save(path)
    other.write_bytes(b"")
    assert path.stat().st_mode == other.stat().st_mode


def test_a_calibration_of_another_model_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    example().save(path)
    with pytest.raises(CalibrationError, match="model: expected model-2, got model-1; calibrate this model"):
        Calibration.load(path, "model-2")


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_broken_file_is_refused(tmp_path, keep):
    path = tmp_path / "c.safetensors"
    example().save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CalibrationError, match="calibrate again"):
        Calibration.load(path, "model-1")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CalibrationError, match="calibrate again"):
        Calibration.load(tmp_path / "none.safetensors", "model-1")


METADATA = {"format": "thinwire-calibration", "version": "3", "model": "model-1"}
BASIS = ("forward", "inverse", "codes")
PARTS = {
    "layer.0.key.4.forward": torch.eye(4)[None],
    "layer.0.key.4.inverse": torch.eye(4)[None],
    "layer.0.key.4.codes": torch.zeros(4, dtype=torch.int16),
}


@pytest.mark.parametrize(
    ("metadata", "change", "said"),
    [
        ({"format": "pt"}, {}, "format: expected thinwire-calibration, got pt"),
        ({"version": "1"}, {}, "version: expected 3, got 1"),
        ({}, {"layer.0.key.4.codes": None}, "expected whole bases"),
        ({}, {"layer.0.key.4.codes": torch.zeros(5, dtype=torch.int16)}, "basis, codes"),
        ({}, {"layer.0.key.4.inverse": torch.full((1, 4, 4), float("nan"))}, "basis, inverse: expected finite"),
        ({}, {"layer.0.key.costs": torch.ones(4)}, "costs: expected 5 positive numbers"),
        ({}, {"layer.0.key.costs": torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])}, "costs: expected 5 positive numbers"),
        ({}, {"layer.0.key.costs": torch.full((5,), float("nan"))}, "costs: expected 5 positive numbers"),
        ({}, {"layer.x.key.4.forward": torch.eye(4)[None]}, "expected names like"),
        ({}, {"layer.0.key.x.forward": torch.eye(4)[None]}, "expected names like"),
        ({}, {"layer.0.key.forward": torch.eye(4)[None]}, "expected names like"),
        ({}, {"layer.0.soul.4.forward": torch.eye(4)[None]}, "expected names like"),
        (
            {},
            {f"layer.0.key.8.{name}": PARTS[f"layer.0.key.4.{name}"].clone() for name in BASIS},
            "blocks of 8 channels, got 4",
        ),
        ({}, {"forward.forward": torch.eye(4)[None]}, "expected names like"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path, metadata, change, said):
    path = tmp_path / "c.safetensors"
    tensors = {name: tensor for name, tensor in (PARTS | change).items() if tensor is not None}
    save_file(tensors, path, METADATA | metadata)
    with pytest.raises(CalibrationError, match=said):
        Calibration.load(path, "model-1")


def test_the_least_file_is_accepted(tmp_path):
    path = tmp_path / "c.safetensors"
    save_file(PARTS, path, METADATA)
    assert set(Calibration.load(path, "model-1").bases) == {(0, Role.KEY)}


def test_a_meter_keeps_no_step_by_itself():
    meter = BasisMeter(2, 4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        meter.add(torch.randn(16, 8, generator=generator))
    kept = [value for value in (getattr(meter, name) for name in meter.__slots__) if isinstance(value, torch.Tensor)]
    assert sum(tensor.numel() for tensor in kept) == 2 * 2 * 4 * 4


def test_a_meter_s_narrower_blocks_are_what_a_narrower_meter_finds():
    wide, narrow = BasisMeter(2, 6), BasisMeter(4, 3)
    generator = torch.Generator().manual_seed(0)
    for take, times in ((BasisMeter.add, 5), (BasisMeter.weigh, 3)):
        for _ in range(times):
            rows = torch.randn(40, 12, generator=generator) * torch.arange(1, 13)
            take(wide, rows)
            take(narrow, rows)
    assert wide.basis(3).tag == narrow.basis().tag
    assert wide.basis().forward.shape == (2, 6, 6)


@pytest.mark.parametrize("size", [0, 4, 12])
def test_blocks_that_a_meter_s_are_no_multiple_of_are_refused(size):
    meter = BasisMeter(2, 6)
    meter.add(torch.ones(4, 12))
    with pytest.raises(ValueError, match=f"expected a divisor of 6, got {size}"):
        meter.basis(size)


def test_channels_are_coded_in_the_widest_blocks_that_they_are_whole_ones_of():
    place = (0, Role.KEY)
    wide, narrow = example().bases[place]
    calibration = Calibration("m", "", {place: (wide, narrow)})
    assert wide.tag != narrow.tag
    assert calibration.basis(place, 0, 15).tag == wide.tag
    assert calibration.basis(place, 5, 10).tag == narrow.of_channels(5, 10).tag
    with pytest.raises(TensorError, match="expected blocks of 5 out of 15, got 3 to 8"):
        calibration.basis(place, 3, 5)


def test_steps_count_alike_and_the_usual_amplitude_is_of_the_median_step():
    meter = BasisMeter(1, 2)
    for loudness in (1.0, 1.0, 1.0, 1e6):
        meter.add(torch.tensor([[loudness, 0.0], [0.0, loudness]]))
    assert meter.basis().codes.tolist() == [-2, -2]


def test_a_demand_costs_what_was_measured_and_between_two_rates_the_mean_of_logarithms():
    ladder = [TransformRung(rate) for rate in (250, 500, 1_500, 4_000)]
    demand = example().demand((0, Role.VALUE), 100, ladder)
    left = [demand.values * demand.sensitivity * demand.distortion(rung) for rung in ladder]
    assert left == pytest.approx([16.0, 8.0, 8.0**0.5, 2.0])


def test_without_costs_every_place_gets_the_same_rate():
    measured = example()
    calibration = Calibration("m", "", measured.bases)
    ladder = [TransformRung(rate) for rate in (250, 500, 1_000, 4_000)]
    demands = [calibration.demand(place, 10, ladder) for place in calibration.bases]
    assert set(allocate(1_000, demands, ladder).values()) == {TransformRung(1_000)}
