"""`thinwire plan`, as a person calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner, Result

from tests.controller.manifest.manifests import manifest, sd3_folder
from thinwire.controller.cli.plan import plan


def called(*arguments: str | Path) -> Result:
    return CliRunner().invoke(plan, [str(argument) for argument in arguments], catch_exceptions=False)


def written(tmp_path: Path, changes: dict[str, Any] | None = None) -> Path:
    folder = sd3_folder(tmp_path / "model")
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(manifest({"spec.model.source": {"path": str(folder)}, **(changes or {})})))
    return path


def test_a_person_reads_groups_bytes_and_memory(tmp_path: Path) -> None:
    result = called(written(tmp_path, {"spec.gpusPerPod": 2}))
    assert (result.exit_code, result.stderr) == (0, "")
    for words in ("4 ranks, 2 a node", "0-2  1-3", "inter-node links", "intra-node links", "bits2", "bases of"):
        assert words in result.stdout


def test_programs_read_the_same_as_json(tmp_path: Path) -> None:
    result = called(written(tmp_path, {"spec.gpusPerPod": 2}), "-o", "json")
    said = json.loads(result.stdout)
    assert (said["ranks"], said["refusals"]) == (4, [])
    assert said["groups"]["ring"] == [
        {"ranks": [0, 2], "linkClass": "inter-node"},
        {"ranks": [1, 3], "linkClass": "inter-node"},
    ]
    (ring,) = [link for link in said["links"] if link["link_class"] == "inter-node"]
    assert ring["rungs"][0]["step_bytes"] == ring["values_per_step"] * 4
    assert said["baseMemory"]["format"] == "full"


def test_a_refusal_names_the_line_and_the_nearest_that_works(tmp_path: Path) -> None:
    file = written(tmp_path, {"spec.parallelism": {"pipefusion": 4}})
    result = called(file)
    assert result.exit_code == 2
    line = next(number for number, text in enumerate(file.read_text().splitlines(), 1) if "pipefusion" in text)
    assert result.stderr == (
        f"{file}:{line}: spec.parallelism.pipefusion: expected stages that each get some of the model's 2 layers, "
        "got 4; "
        "set ulysses 1 and ring 4 and leave the other degrees at 1\n"
    )
    assert json.loads(called(file, "-o", "json").stdout)["refusals"][0]["line"] == line


def test_a_manifest_that_is_none_is_refused_by_the_rules_of_validate(tmp_path: Path) -> None:
    result = called(written(tmp_path, {"spec.gpus": 3}))
    assert result.exit_code == 2
    assert "expected ulysses * ring * pipefusion * cfg * data to equal gpus (3)" in result.stderr
    assert called(tmp_path / "none.yaml").exit_code == 2


def test_a_plan_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from thinwire.controller.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", str(written(tmp_path))], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
