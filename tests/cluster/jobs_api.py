"""DiffusionJobs on an API server, as raw objects: what `kubectl apply` and its kin would send and get."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from kubernetes import client

from tests.controller.waiting import eventually
from thinwire.controller.manifest.schema import crd

GROUP = "thinwire.dev"
_BUSY = 429
"""What an API server answers while it fills its caches, or has too much to do; kubectl asks again too."""
Raw = dict[str, Any]


@dataclass(frozen=True)
class Cause:
    """One reason: the field and what the API server says of it."""

    field: str
    message: str


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """What the API server said of an object that it did not take: every cause, and all in one text."""

    def __init__(self, status: int, causes: tuple[Cause, ...], message: str) -> None:
        super().__init__(message)
        self.status, self.causes, self.message = status, causes, message


class JobsApi:
    """Plain verbs on jobs of the namespace default; refusals come as `Refused`."""

    def __init__(self, api_client: client.ApiClient) -> None:
        self.client = api_client

    def install_crd(self) -> None:
        """Create the CRD and wait until it is served."""
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        self.call("POST", path, dict(crd()))
        eventually(lambda: self._established(f"{path}/{crd()['metadata']['name']}"))
        eventually(self._served)

    def create(self, job: Raw, *, dry_run: bool = False) -> Raw:
        # Strict as `kubectl apply` is: without it an unknown field is dropped in silence.
        query = [("fieldValidation", "Strict"), *([("dryRun", "All")] if dry_run else [])]
        return self.call("POST", self.path(), job, query)

    def replace(self, job: Raw, *, dry_run: bool = False) -> Raw:
        """Put `job` in the place of the one of its name, whatever its version."""
        fresh = deepcopy(job)
        fresh["metadata"]["resourceVersion"] = self.get(job["metadata"]["name"])["metadata"]["resourceVersion"]
        query = [("fieldValidation", "Strict"), *([("dryRun", "All")] if dry_run else [])]
        return self.call("PUT", self.path(job["metadata"]["name"]), fresh, query)

    def patch_status(self, name: str, status: Raw) -> Raw:
        return self.call("PATCH", f"{self.path(name)}/status", {"status": status})

    def patch(self, name: str, change: Raw) -> Raw:
        return self.call("PATCH", self.path(name), change)

    def get(self, name: str) -> Raw:
        return self.call("GET", self.path(name))

    def table(self, name: str) -> Raw:
        """What `kubectl get` prints."""
        return self.call("GET", self.path(name), accept="application/json;as=Table;g=meta.k8s.io;v=v1")

    def delete(self, name: str) -> None:
        self.call("DELETE", self.path(name))

    def path(self, name: str = "") -> str:
        base = f"/apis/{GROUP}/v1alpha1/namespaces/default/diffusionjobs"
        return f"{base}/{name}" if name else base

    def call(
        self,
        method: str,
        path: str,
        body: Raw | None = None,
        query: list[tuple[str, str]] | None = None,
        accept: str = "application/json",
    ) -> Raw:
        """One request, again while the server says that it is busy; raises Refused for what it does not take."""
        headers = {"Accept": accept, "Content-Type": "application/json"}
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
        request = self.client.param_serialize(
            method, path, query_params=query or [], header_params=headers, body=body, auth_settings=["BearerToken"]
        )

        def asked() -> Any:
            response = self.client.call_api(*request, _request_timeout=120)
            response.read()
            return None if response.status == _BUSY else response

        response = eventually(asked)
        answer: Raw = json.loads(response.data)
        if not 200 <= response.status < 300:
            raise _refused(answer, response.status)
        return answer

    def _established(self, path: str) -> bool:
        conditions = self.call("GET", path).get("status", {}).get("conditions") or ()
        return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)

    def _served(self) -> bool:
        try:
            self.call("GET", self.path())
        except Refused as refused:
            assert refused.status in (404, 503)  # noqa: PT017 - anything else is a fault of ours
            return False
        return True


def _refused(answer: Raw, status: int) -> Refused:
    causes = answer.get("details", {}).get("causes", ())
    found = tuple(Cause(cause.get("field", ""), cause.get("message", "")) for cause in causes)
    return Refused(status, found, answer.get("message", ""))
