"""`thinwire validate`, as a person calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner, Result

from tests.controller.manifest.manifests import manifest, sd3_folder
from thinwire.controller.cli.validate import validate


def called(*arguments: str | Path) -> Result:
    return CliRunner().invoke(validate, [str(argument) for argument in arguments], catch_exceptions=False)


def written(path: Path, changes: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(manifest(changes)))
    return path


def test_a_valid_file_is_told_what_it_will_do(tmp_path: Path) -> None:
    folder = sd3_folder(tmp_path / "model")
    file = written(tmp_path / "job.yaml", {"spec.model.source": {"path": str(folder)}})
    result = called(file)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        f"{file}: valid: 2 pictures of 64 x 64 pixels in 28 steps by the model in {folder}, "
        "4 ranks on cpu (ring 2 x ulysses 2), exchanged at 1 to 16 bits per value\n"
    )


def test_every_refusal_of_every_file_is_a_line_and_the_exit_code_is_two(tmp_path: Path) -> None:
    folder = sd3_folder(tmp_path / "model")
    good = written(tmp_path / "good.yaml", {"spec.model.source": {"path": str(folder)}})
    bad = tmp_path / "bad.yaml"
    bad.write_text(good.read_text().replace("gpus: 4", "gpus: 8\n  color: red"))
    unfit = written(tmp_path / "unfit.yaml", {"spec.model.source": {"path": str(folder)}, "spec.generation.height": 40})
    result = called(bad, good, tmp_path / "none.yaml", unfit)
    assert result.exit_code == 2
    lines = bad.read_text().splitlines()
    product, color = (next(n for n, line in enumerate(lines, 1) if word in line) for word in ("parallelism", "color"))
    assert result.stderr.splitlines() == [
        f"{bad}:{color}: spec.color: expected one of model, gpus, gpusPerPod, accelerator, parallelism, compression, "
        "generation, output, runPolicy, podTemplate, got an unknown field; remove it",
        f"{bad}:{product}: spec.parallelism: expected ulysses * ring * pipefusion * cfg * data to equal gpus (8), "
        "got 4; set gpus to 4 or raise a degree",
        f"{tmp_path}/none.yaml: file: expected a manifest that can be read, got no such file or directory; "
        "check its path and its rights",
        f"{unfit}:8: spec.generation.height: expected a multiple of 16: the model's 4 pixels a token times "
        "ulysses * ring (4), got 40; set it to 32 or 48",
    ]
    assert result.stdout.startswith(f"{good}: valid: ")
    assert len(result.stdout.splitlines()) == 1


def test_programs_are_told_the_same_as_json(tmp_path: Path) -> None:
    folder = sd3_folder(tmp_path / "model")
    words = " ".join(["very"] * 20)
    changes = {"spec.model.source": {"path": str(folder)}, "spec.generation.prompts.0.prompt": words}
    good = written(tmp_path / "good.yaml", changes)
    bad = written(tmp_path / "bad.yaml", {"kind": "Job"})
    result = called("-o", "json", good, bad)
    assert result.exit_code == 2
    first, second = json.loads(result.stdout)
    assert (first["file"], first["valid"], first["refusals"]) == (str(good), True, [])
    assert first["will"].startswith("2 pictures")
    assert first["warnings"] == [
        'prompt "rocket" has 20 words, and the model reads 14 at most: the rest is lost',
    ]
    assert second == {
        "file": str(bad),
        "valid": False,
        "will": "",
        "refusals": [
            {
                "field": "kind",
                "expected": "DiffusionJob",
                "got": "Job",
                "remedy": 'write "kind: DiffusionJob"',
                "line": 2,
                "sentence": 'kind: expected DiffusionJob, got Job; write "kind: DiffusionJob"',
            }
        ],
        "warnings": [],
    }


def test_bases_that_do_not_fit_into_their_budget_are_refused_before_any_rank(tmp_path: Path) -> None:
    changes = {
        "spec.model.source": {"path": str(sd3_folder(tmp_path / "model", positions=128))},
        "spec.generation.height": 512,
        "spec.generation.width": 512,
        "spec.compression.baseMemoryMebibytes": 1,
    }
    result = called(written(tmp_path / "job.yaml", changes))
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "spec.compression.baseMemoryMebibytes: expected at least " in line
    assert "for the bases of one layer, got 1; raise it, set it to 0 for no limit" in line
