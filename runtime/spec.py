"""Reading the RunSpec: what this attempt is to do, as the controller derived it from the manifest."""

from collections.abc import Mapping
from pathlib import Path

from google.protobuf import json_format

from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import RunSpec
from thinwire.runtime.errors import BadInputError
from thinwire.runtime.model_source import model_folder

VARIABLE = "THINWIRE_RUN_SPEC"
"""Environment variable that holds the path of the RunSpec (protobuf JSON)."""


class SpecError(BadInputError):
    """The RunSpec is missing, unreadable or asks for nothing that can be run."""


def read_spec(environment: Mapping[str, str]) -> RunSpec:
    """Return the RunSpec of the file that THINWIRE_RUN_SPEC names; its model is a folder of this machine then.

    Raises:
        SpecError: variable unset, file missing, not a RunSpec, or without an output folder, prompts or steps.
        BadInputError: the model is not where the RunSpec says.
    """
    location = environment.get(VARIABLE, "")
    if not location:
        raise SpecError(
            f"{VARIABLE} is not set, expected the path of a RunSpec; start jobs with `thinwire run` or set it yourself"
        )
    try:
        text = Path(location).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{VARIABLE} names {location}, which cannot be read ({error}); name a readable RunSpec"
        ) from error
    try:
        spec = json_format.Parse(text, RunSpec())
    except json_format.ParseError as error:
        raise SpecError(
            f"{location} is not a RunSpec of this version ({_first_line(error)});"
            " make it again with the same thinwire version"
        ) from error
    _check(spec, location)
    spec.model.path = model_folder(spec.model)
    return spec


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip()


def _check(spec: RunSpec, location: str) -> None:
    if not Path(spec.output_dir).is_absolute():
        raise SpecError(f"{location}: outputDir is {spec.output_dir!r}, expected an absolute folder; give one")
    if not spec.generation.prompts:
        raise SpecError(f"{location}: generation.prompts is empty, expected at least one prompt; add one")
    if spec.generation.steps < 1:
        raise SpecError(f"{location}: generation.steps is {spec.generation.steps}, expected 1 or more; raise it")
    _check_security(spec, location)
    seen: set[str] = set()
    for prompt in spec.generation.prompts:
        if prompt.name in seen:
            raise SpecError(
                f"{location}: prompt name {prompt.name!r} is there twice, expected unique names; rename one"
            )
        seen.add(prompt.name)


def _check_security(spec: RunSpec, location: str) -> None:
    if not spec.HasField("telemetry_security"):
        return
    security = spec.telemetry_security
    for field, path in (("caFile", security.ca_file), ("tokenFile", security.token_file)):
        if not Path(path).is_absolute():
            raise SpecError(f"{location}: telemetrySecurity.{field} is {path!r}, expected an absolute file; give one")
