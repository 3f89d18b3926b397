"""What an API server would refuse in a DiffusionJob, found without one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thinwire.controller.manifest.defaults import defaulted
from thinwire.controller.manifest.metadata import metadata_refusals, type_refusals
from thinwire.controller.manifest.openapi import shape_refusals
from thinwire.controller.manifest.refusal import Refusal
from thinwire.controller.manifest.rules import broken_rules


def validate(raw: dict[str, Any], before: Mapping[str, Any] | None = None) -> list[Refusal]:
    """Apply defaults, then schema and rules of the CRD; return every refusal, none for a valid job.

    `before` is the job that `raw` would replace: with it the rules on what may change count too.
    """
    if wrong_type := type_refusals(raw):
        return wrong_type
    job = defaulted(raw)
    refusals, blocked = shape_refusals(job)
    refusals.extend(metadata_refusals(job))
    if not isinstance(job.get("metadata"), dict) or "name" not in job["metadata"]:
        blocked |= {("metadata", "name")}
    refusals.extend(broken_rules(job, blocked, defaulted(dict(before)) if before is not None else None))
    return refusals
