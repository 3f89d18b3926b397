"""The CRD on a real API server: it refuses what `thinwire validate` refuses, in the same words, and takes the rest."""

from __future__ import annotations

import itertools
from copy import deepcopy
from typing import Any

import pytest

from tests.cluster.jobs_api import Cause, JobsApi, Refused
from tests.controller.manifest.manifests import MINIMAL, manifest
from tests.controller.manifest.test_rules import CASES, Case
from tests.controller.manifest.test_validate import REFUSED
from thinwire.controller.manifest.defaults import defaulted
from thinwire.controller.manifest.metadata import metadata_refusals, type_refusals
from thinwire.controller.manifest.openapi import shape_refusals
from thinwire.controller.manifest.schema import Schema, root_schema, schema_at
from thinwire.controller.manifest.validate import validate

Raw = dict[str, Any]
Path = tuple[str, ...]

pytestmark = pytest.mark.cluster

OF_SHAPE = [(changes, text) for changes, text in REFUSED if shape_refusals(defaulted(manifest(changes)))[0]]
OF_METADATA = [
    (changes, text)
    for changes, text in REFUSED
    if (changes, text) not in OF_SHAPE
    and (type_refusals(manifest(changes)) or metadata_refusals(defaulted(manifest(changes))))
]
OF_RULES = [one for one in REFUSED if one not in OF_SHAPE and one not in OF_METADATA]


def said(cause: Cause) -> str:
    """A cause as `thinwire validate` says it: the API server puts the value's type before a rule's sentence."""
    return f"{cause.field}: {cause.message.partition(': ')[2].partition(': ')[2]}"


def refusal_of(jobs: JobsApi, job: Raw, before: Raw | None = None) -> Refused:
    send = jobs.create if before is None else jobs.replace
    with pytest.raises(Refused) as caught:
        send(job, dry_run=True)
    return caught.value


def field_of(sentence: str) -> str:
    return sentence.partition(": expected")[0]


@pytest.fixture
def kept(jobs: JobsApi, request: pytest.FixtureRequest) -> Any:
    """The object that a transition rule looks back at, for as long as its test runs."""
    before = request.param.before
    jobs.create(before)
    yield request.param
    jobs.delete(before["metadata"]["name"])


def transitions() -> list[Any]:
    return [pytest.param(case, id=field_of(case.sentence)) for case in CASES if case.before is not None]


NEW = [pytest.param(case, id=field_of(case.sentence)) for case in CASES if case.before is None]


@pytest.mark.parametrize("case", NEW)
def test_a_rule_refuses_with_the_sentence_of_validate(jobs: JobsApi, case: Case) -> None:
    refused = refusal_of(jobs, manifest(case.refused))
    assert refused.status == 422
    assert [said(cause) for cause in refused.causes] == [case.sentence]


@pytest.mark.parametrize("case", NEW)
def test_a_rule_accepts_what_is_just_right(jobs: JobsApi, case: Case) -> None:
    assert jobs.create(manifest(case.accepted), dry_run=True)["spec"]


@pytest.mark.parametrize("kept", transitions(), indirect=True)
def test_what_cannot_be_honoured_cannot_be_changed(jobs: JobsApi, kept: Case) -> None:
    changed = manifest(kept.refused)
    refused = refusal_of(jobs, changed, kept.before)
    assert sorted(said(cause) for cause in refused.causes) == sorted(map(str, validate(changed, kept.before)))
    assert kept.sentence in {said(cause) for cause in refused.causes}


@pytest.mark.parametrize("kept", transitions(), indirect=True)
def test_what_stays_as_it_was_or_may_change_is_accepted(jobs: JobsApi, kept: Case) -> None:
    assert jobs.replace(manifest(kept.accepted), dry_run=True)["spec"]


@pytest.mark.parametrize(("changes", "sentence"), OF_RULES, ids=[sentence[:60] for _, sentence in OF_RULES])
def test_a_bad_manifest_is_refused_as_validate_refuses_it(jobs: JobsApi, changes: Raw, sentence: str) -> None:
    refused = refusal_of(jobs, manifest(changes))
    (cause,) = refused.causes
    if "\\" not in sentence:
        assert said(cause) == sentence
        return
    # An API server writes no unprintable characters for us: the field and what is wanted are the same.
    assert said(cause).partition(", got ")[0] == sentence.partition(", got ")[0]


@pytest.mark.parametrize(("changes", "sentence"), OF_SHAPE, ids=[sentence[:60] for _, sentence in OF_SHAPE])
def test_a_value_out_of_shape_or_bounds_is_refused_at_the_field_that_validate_names(
    jobs: JobsApi, changes: Raw, sentence: str
) -> None:
    refused = refusal_of(jobs, manifest(changes))
    field = field_of(sentence)
    if refused.status == 400:
        assert f'unknown field "{field}"' in refused.message or field == "metadata" or "ObjectMeta" in refused.message
    elif " of its own" in sentence:
        assert [cause.field for cause in refused.causes] == [field.rpartition(".")[0]]
    else:
        assert field in {cause.field for cause in refused.causes}


@pytest.mark.parametrize(("changes", "sentence"), OF_METADATA, ids=[sentence[:60] for _, sentence in OF_METADATA])
def test_metadata_that_validate_refuses_is_refused(jobs: JobsApi, changes: Raw, sentence: str) -> None:
    refused = refusal_of(jobs, manifest(changes))
    assert refused.status in (400, 422)
    named = field_of(sentence).split(".")[:2][-1].lower()
    assert named in refused.message.lower().replace("api version", "apiversion")


def bounds(schema: Schema, path: Path) -> list[tuple[Path, Any, bool]]:
    """Values of an integer of the spec at its bounds and just beyond: path, value, whether it is within them."""
    found: list[tuple[Path, Any, bool]] = []
    if schema.get("type") == "integer":
        step = schema.get("multipleOf", 1)
        low, high = schema["minimum"], schema["maximum"]
        found += [(path, low, True), (path, low - step, False), (path, high, True), (path, high + step, False)]
    if schema.get("type") == "string" and "maxLength" in schema and "pattern" not in schema:
        found += [(path, "a" * schema["maxLength"], True), (path, "a" * (schema["maxLength"] + 1), False)]
    for name, child in schema.get("properties", {}).items():
        found += bounds(child, (*path, name))
    if "items" in schema:
        found += bounds(schema["items"], (*path, "0"))
    return found


BOUNDS = bounds(schema_at(root_schema(), ("spec",)), ("spec",))
BOUND_IDS = [
    f"{'.'.join(path)}={value if len(str(value)) < 20 else f'{len(value)} characters'}" for path, value, _ in BOUNDS
]


def in_place(path: Path, value: Any) -> Raw:
    """A job that has `value` at `path`, and what else an object there must have."""
    changes: Raw = {}
    if path[:3] == ("spec", "model", "source"):
        kind = path[3]
        beside = {"persistentVolumeClaim": {"claimName": "models"}, "huggingFace": {"repo": "a/b"}}
        changes["spec.model.source"] = {kind: deepcopy(beside[kind])} if kind in beside else {}
        if "tokenSecretRef" in path:
            changes["spec.model.source"][kind]["tokenSecretRef"] = {"name": "token"}
    if path[1] == "output":
        changes["spec.output"] = {"persistentVolumeClaim": {"claimName": "pictures"}}
    if "promptsFrom" in path:
        changes["spec.generation"] = {"promptsFrom": {"configMap": {"name": "prompts"}}}
    return manifest({**changes, ".".join(path): value})


@pytest.mark.parametrize(("path", "value", "within"), BOUNDS, ids=BOUND_IDS)
def test_every_bound_is_enforced_where_it_stands_and_not_before(
    jobs: JobsApi, path: Path, value: Any, within: bool
) -> None:
    job = in_place(path, value)
    field = ".".join(path).replace(".0", "[0]")
    ours = validate(job)
    assert (field in {refusal.field for refusal in ours if refusal.expected.startswith("at ")}) is not within
    if not ours:
        assert jobs.create(job, dry_run=True)["spec"]
        return
    causes = refusal_of(jobs, job).causes
    words = ("in body should be", "Too long", "Too many")
    at_bound = {cause.field for cause in causes if any(word in cause.message for word in words)}
    assert (field in at_bound) is not within


def test_defaults_are_those_that_validate_sets(jobs: JobsApi) -> None:
    assert jobs.create(MINIMAL, dry_run=True)["spec"] == defaulted(MINIMAL)["spec"]


@pytest.fixture
def job(jobs: JobsApi) -> Any:
    """A stored job of its own name."""
    name = f"stored-{next(_NUMBERS)}"
    yield jobs.create(manifest({"metadata.name": name}))
    jobs.delete(name)


_NUMBERS = itertools.count()


def test_status_is_written_by_its_own_door_only(jobs: JobsApi, job: Raw) -> None:
    name = job["metadata"]["name"]
    assert "status" not in jobs.patch(name, {"status": {"state": "Running"}})
    written = jobs.patch_status(name, {"state": "Running", "observedGeneration": 1})
    assert written["status"] == {"state": "Running", "observedGeneration": 1}
    assert written["metadata"]["generation"] == job["metadata"]["generation"] == 1


def test_a_change_of_the_spec_makes_a_new_generation(jobs: JobsApi, job: Raw) -> None:
    changed = jobs.patch(job["metadata"]["name"], {"spec": {"runPolicy": {"suspend": True}}})
    assert changed["metadata"]["generation"] == 2


def test_a_state_that_there_is_not_cannot_be_written(jobs: JobsApi, job: Raw) -> None:
    with pytest.raises(Refused, match=r'status\.state: Unsupported value: "Resting"'):
        jobs.patch_status(job["metadata"]["name"], {"state": "Resting"})


def test_get_prints_state_progress_rate_throughput_and_age(jobs: JobsApi, job: Raw) -> None:
    jobs.patch_status(
        job["metadata"]["name"],
        {
            "state": "Running",
            "progress": {"summary": "3/8", "step": 5},
            "compression": {"millibits": 2120, "savedPercent": 91, "reason": "the link carries 40 Mbit/s"},
            "link": {"throughputMegabitsPerSecond": 40, "roundTripMicroseconds": 90},
            "restarts": 1,
        },
    )
    table = jobs.table(job["metadata"]["name"])
    (row,) = table["rows"]
    shown = {
        column["name"]: cell
        for column, cell in zip(table["columnDefinitions"], row["cells"], strict=True)
        if column["priority"] == 0
    }
    wide = {
        column["name"]: cell
        for column, cell in zip(table["columnDefinitions"], row["cells"], strict=True)
        if column["priority"] == 1
    }
    assert shown.pop("Age")
    assert shown == {
        "Name": job["metadata"]["name"],
        "State": "Running",
        "Progress": "3/8",
        "Millibits": 2120,
        "Mbit/s": 40,
    }
    assert wide == {
        "GPUs": 4,
        "Mode": "Adaptive",
        "Saved%": 91,
        "RTT-us": 90,
        "Step": 5,
        "Restarts": 1,
        "Reason": "the link carries 40 Mbit/s",
    }


def test_short_name_and_categories_lead_to_it(jobs: JobsApi) -> None:
    resources = jobs.call("GET", "/apis/thinwire.dev/v1alpha1")["resources"]
    (own,) = [one for one in resources if one["name"] == "diffusionjobs"]
    assert (own["shortNames"], own["categories"], own["namespaced"]) == (["dj"], ["all", "thinwire"], True)
