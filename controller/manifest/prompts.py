"""Prompts that are kept outside their manifest, held to the same schema and rules as those in it."""

from __future__ import annotations

from typing import Any

from thinwire.controller.manifest.job import DiffusionJob, Prompt
from thinwire.controller.manifest.refusal import ManifestError
from thinwire.controller.manifest.schema import api_version, kind
from thinwire.controller.manifest.validate import validate


def prompts_of(entries: list[Any]) -> tuple[Prompt, ...]:
    """Take over the entries of a YAML list; ManifestError has every refusal."""
    around = {
        "apiVersion": api_version(),
        "kind": kind(),
        "metadata": {"name": "prompts"},
        "spec": {"model": {"source": {"bundled": "any"}}, "gpus": 1, "generation": {"prompts": entries}},
    }
    if refusals := validate(around):
        raise ManifestError(refusals)
    return DiffusionJob.from_raw(around).generation.prompts
