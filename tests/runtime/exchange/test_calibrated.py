"""A calibrated model: transform rungs on the wire, a rate per (layer, role), and files that are not this model's."""

import json
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from bench.prompts import MEASURED
from tests.harness.ranks import RankError
from tests.harness.sessions import ADAPTIVE, FLUX, Job, assert_bases_agree, run_job
from thinwire.compression import CALIBRATION_FILE, BasisMeter, Calibration, Exchange, Role, mean_millibits
from thinwire.compression.allocation import Demand
from thinwire.compression.calibration import COST_MILLIBITS
from thinwire.runtime import calibrated
from thinwire.runtime.calibrate import PROMPTS, Plan, calibrate
from thinwire.runtime.calibrating import block_sizes
from thinwire.runtime.exchange.meter import Operation
from thinwire.runtime.exchange.rates import OFF_MILLIBITS, TRANSFORMS, RateTable
from thinwire.runtime.exchange.traffic import Flow, Traffic
from thinwire.runtime.facts import Directive
from thinwire.runtime.fingerprint import model_fingerprint
from thinwire.runtime.parallel import Launch, LinkClass

LAYERS, HEADS, SIZE = 2, 4, 8


def made_up(model: str, scale: float = 1.0) -> Calibration:
    generator = torch.Generator().manual_seed(0)
    bases = {}
    for place in product(range(LAYERS), calibrated.ROLES):
        sizes = block_sizes(place[1], HEADS, SIZE, widest=256)
        meter = BasisMeter(HEADS * SIZE // sizes[0], sizes[0])
        meter.add(torch.randn(64, HEADS * SIZE, generator=generator))
        bases[place] = tuple(meter.basis(size).in_half_precision() for size in sizes)
    costs = {
        place: tuple(scale * 4.0**number * 2.0 ** (-rate / 250) for rate in COST_MILLIBITS)
        for number, place in enumerate(bases)
    }
    return Calibration(model, "made up", bases, costs)


@pytest.fixture(scope="module")
def calibrated_sd3(tiny_sd3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated") / "sd3"
    shutil.copytree(tiny_sd3, folder)
    made_up(model_fingerprint(folder)).save(folder / CALIBRATION_FILE)
    return folder


@pytest.mark.distributed
def test_bases_agree_bit_for_bit_while_the_rate_changes_at_every_step(calibrated_sd3: Path) -> None:
    rates = [rung.millibits for rung in TRANSFORMS] + [OFF_MILLIBITS, 8_000, 1_600]
    directives = tuple(
        Directive(epoch=number + 1, rates={"intra-node": rates[number * 5 % len(rates)]}) for number in range(16)
    )
    seen = run_job(Job(calibrated_sd3, ulysses=2, ring=2, mode=ADAPTIVE, steps=17, directives=directives))
    assert_bases_agree(seen)
    steps = seen[0].steps
    assert len({step.rates["intra-node"] for step in steps}) > 12
    assert steps[-1].base_mismatches == 0
    assert steps[-1].frames_refused == 0
    assert steps[-1].bytes_counted == pytest.approx(steps[-1].bytes_sent, rel=0.02)


@pytest.mark.distributed
def test_the_ladder_of_a_calibrated_model_reaches_down_to_a_quarter_of_a_bit(
    calibrated_sd3: Path, tiny_sd3: Path
) -> None:
    ladders = []
    for folder in (calibrated_sd3, tiny_sd3):
        (facts,) = (seen.facts for seen in run_job(Job(folder, steps=1))[:1])
        assert facts is not None
        ladders.append({rung.name: rung for rung in facts.ladder})
    with_file, without = ladders
    assert {"transform-250", "transform-6000"} < with_file.keys()
    assert with_file["transform-250"].encode_seconds_per_value > 0
    losses = [rung.distortion for rung in with_file.values()]
    assert losses == sorted(losses)
    assert not any(name.startswith("transform") for name in without)


@pytest.mark.distributed
def test_a_file_of_another_model_beside_this_one_is_left_alone(tiny_sd3: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sd3"
    shutil.copytree(tiny_sd3, folder)
    made_up("sha256:another").save(folder / CALIBRATION_FILE)
    (facts,) = (seen.facts for seen in run_job(Job(folder, steps=1))[:1])
    assert facts is not None
    assert not any(rung.name.startswith("transform") for rung in facts.ladder)


@pytest.mark.distributed
def test_a_file_of_another_model_that_was_named_is_refused(tiny_sd3: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    made_up("sha256:another").save(path)
    with pytest.raises(RankError, match=r"expected sha256:\w+, got sha256:another; calibrate this model"):
        run_job(Job(tiny_sd3, steps=1, calibration=path))


def another_calibration_on_rank_1(launch: Launch) -> AbstractContextManager[object]:
    if launch.rank != 1:
        return nullcontext()
    load = calibrated.load_calibration

    def changed(folder: Path, named: str, shape: object) -> tuple[Calibration | None, str]:
        found, why = load(folder, named, shape)  # type: ignore[arg-type]
        assert found is not None
        return made_up(found.model, scale=2.0), why

    return patch.object(calibrated, "load_calibration", changed)


@pytest.mark.distributed
def test_ranks_whose_files_differ_go_without(calibrated_sd3: Path) -> None:
    seen = run_job(Job(calibrated_sd3, steps=2), meddle=another_calibration_on_rank_1)
    assert seen[0].facts is not None
    assert not any(rung.name.startswith("transform") for rung in seen[0].facts.ladder)
    assert_bases_agree(seen)


def traffic_of(rows: int) -> Traffic:
    link = LinkClass.INTRA_NODE
    flows = tuple(
        Flow(Exchange(exchange), role, link, rows, HEADS * SIZE, 1, LAYERS)
        for exchange, role in ((1, Role.KEY), (1, Role.VALUE), (2, Role.QUERY), (2, Role.KEY), (3, Role.OUTPUT))
    )
    return Traffic(LAYERS, flows, {Operation.RING: (link, LAYERS)})


def test_a_budget_is_kept_and_spent_where_it_matters() -> None:
    table = RateTable.of(traffic_of(4096), torch.float32, made_up("m"))
    for rung in TRANSFORMS:
        allocated = table.allocations[LinkClass.INTRA_NODE, rung.name]
        values = {Role.KEY: 2, Role.VALUE: 1, Role.QUERY: 1, Role.OUTPUT: 1}
        demands = [Demand(layer, role, values[role]) for layer, role in allocated]
        assert mean_millibits(allocated, demands) <= rung.millibits
        keys = [allocated[layer, Role.KEY].millibits for layer in range(LAYERS)]
        assert keys == sorted(keys)
    assert len({rung.name for rung in table.allocations[LinkClass.INTRA_NODE, "transform-1000"].values()}) > 1


def test_a_later_stage_spends_its_budget_by_the_costs_of_its_own_layers() -> None:
    calibration, traffic = made_up("m"), traffic_of(4096)
    a_layer = Traffic(1, tuple(replace(flow, times=1) for flow in traffic.flows), traffic.operations)
    tables = [RateTable.of(a_layer, torch.float32, calibration, first_layer) for first_layer in range(LAYERS)]
    allocated = [table.allocations[LinkClass.INTRA_NODE, "transform-1000"] for table in tables]
    assert [{layer for layer, _ in places} for places in allocated] == [{layer} for layer in range(LAYERS)]
    assert tables[0].choices == tables[1].choices


def test_where_no_attention_travels_a_calibration_takes_no_scalar_rung_s_place() -> None:
    link = LinkClass.INTER_NODE
    handed_on = Flow(Exchange.PIPEFUSION, Role.HIDDEN, link, 128, HEADS * SIZE, 1, 2)
    traffic = Traffic(LAYERS, (handed_on,), {Operation.PIPEFUSION: (link, 2)})
    table = RateTable.of(traffic, torch.float32, made_up("m"))
    assert table.choices == RateTable.of(traffic, torch.float32).choices
    assert {"bits1", "bits2", "int4"} < {rung.name for rung, _ in table.choices if rung is not None}


def test_every_choice_is_named_by_its_own_price() -> None:
    table = RateTable.of(traffic_of(4096), torch.float32, made_up("m"))
    prices = [price for _, price in table.choices]
    assert len(set(prices)) == len(prices)
    for rung, price in table.choices:
        assert table.rung(price) is rung


@pytest.mark.parametrize(
    ("role", "heads", "size", "widest", "sizes"),
    [
        (Role.KEY, 8, 24, 256, (192, 96, 48, 24)),
        (Role.VALUE, 8, 24, 100, (96, 48, 24)),
        (Role.QUERY, 8, 24, 256, (96, 48, 24)),
        (Role.KEY, 24, 128, 256, (256, 128)),
        (Role.OUTPUT, 12, 64, 256, (192, 64)),
        (Role.KEY, 12, 64, 256, (256, 128, 64)),
        (Role.KEY, 3, 8, 4, (8,)),
        (Role.OUTPUT, 3, 8, 256, (8,)),
    ],
)
def test_blocks_are_the_widest_that_every_share_of_the_heads_can_be_cut_into(
    role: Role, heads: int, size: int, widest: int, sizes: tuple[int, ...]
) -> None:
    assert block_sizes(role, heads, size, widest) == sizes


def test_no_prompt_that_is_measured_is_calibrated_with() -> None:
    assert not set(PROMPTS) & set(MEASURED)


@pytest.mark.parametrize("pipeline", ["sd3", FLUX])
def test_calibrating_measures_every_place_and_says_how_far_it_is(
    tiny_sd3: Path, tiny_flux: Path, tmp_path: Path, pipeline: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_flux if pipeline == FLUX else tiny_sd3
    output = tmp_path / "c.safetensors"
    calibrate(Plan(folder, output, ("a red heart",), steps=4, guidance_scale=3.0, pixels=64))
    loaded = Calibration.load(output, model_fingerprint(folder))
    assert set(loaded.bases) == set(product(range(LAYERS), calibrated.ROLES))
    for (_, role), bases in loaded.bases.items():
        channels, size = bases[0].channels, bases[-1].size
        assert tuple(basis.size for basis in bases) == block_sizes(role, channels // size, size, widest=256)
    assert set(loaded.costs) == set(loaded.bases)
    assert all(cost > 0 for costs in loaded.costs.values() for cost in costs)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    samplings = 3 + len(loaded.bases)  # for bases, curves, the exact picture, and each place alone
    assert said[-1] == {"what": "layer 1, output, step 4", "done": 4 * samplings, "total": 4 * samplings}


def test_costs_can_be_left_out(tiny_sd3: Path, tmp_path: Path) -> None:
    output = tmp_path / "c.safetensors"
    calibrate(Plan(tiny_sd3, output, ("a red heart",), steps=4, guidance_scale=3.0, pixels=64, cost_prompts=0))
    loaded = Calibration.load(output, model_fingerprint(tiny_sd3))
    assert loaded.bases
    assert not loaded.costs


def test_the_calibration_file_is_no_part_of_a_model(tiny_sd3: Path, calibrated_sd3: Path) -> None:
    assert model_fingerprint(tiny_sd3) == model_fingerprint(calibrated_sd3)


def test_the_command_refuses_what_is_no_model(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from thinwire.controller.cli.main import main; main()", "calibrate"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "thinwire: MODEL: expected a folder in diffusers' format" in done.stderr
