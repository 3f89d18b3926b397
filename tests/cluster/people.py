"""Accounts, tokens and pods on a real API server, as a cluster would have them; no node is needed for any of it."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.cluster.jobs_api import JobsApi, Refused
from tests.controller.waiting import eventually

Raw = dict[str, Any]
ISSUER = "https://kubernetes.default.svc"


@dataclass(frozen=True)
class People:
    """Makes namespaces, accounts, roles and pods with an administrator's rights."""

    api: JobsApi

    def namespace(self, name: str) -> None:
        self.made("/api/v1/namespaces", {"metadata": {"name": name}})

    def account(self, namespace: str, name: str) -> None:
        self.made(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})

    def may(self, namespace: str, account: str, rules: list[Raw], *, of: str = "", everywhere: bool = False) -> None:
        """Grant `rules` to an account of namespace `of` (the same, if empty)."""
        kind, scope = ("ClusterRole", "") if everywhere else ("Role", f"/namespaces/{namespace}")
        path, name = f"/apis/rbac.authorization.k8s.io/v1{scope}", f"{of or namespace}-{account}-{len(rules)}"
        self.made(f"{path}/{kind.lower()}s", {"metadata": {"name": name}, "rules": rules})
        self.made(
            f"{path}/{kind.lower()}bindings",
            {
                "metadata": {"name": name},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": of or namespace}],
            },
        )
        eventually(lambda: all(self._allowed(namespace, f"{of or namespace}:{account}", rule) for rule in rules))

    def _allowed(self, namespace: str, account: str, rule: Raw) -> bool:
        """Whether the authorizer has heard of a rule: it follows roles and bindings by a watch, a moment behind."""
        resource, _, subresource = rule["resources"][0].partition("/")
        asked: Raw = {"namespace": namespace, "group": rule["apiGroups"][0], "resource": resource}
        asked |= {"verb": rule["verbs"][0], "name": next(iter(rule.get("resourceNames", ())), "")}
        asked |= {"subresource": subresource} if subresource else {}
        review = {"spec": {"user": f"system:serviceaccount:{account}", "resourceAttributes": asked}}
        answer = self.api.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"])

    def pod(self, namespace: str, name: str, job_name: str = "", attempt: int = 1, account: str = "default") -> str:
        """A pod that a Job seems to control; returns its uid."""
        metadata: Raw = {"name": name}
        if job_name:
            metadata["labels"] = {"thinwire.dev/job-name": job_name, "thinwire.dev/attempt": str(attempt)}
            owner = {"apiVersion": "batch/v1", "kind": "Job", "name": f"{job_name}-{attempt}", "controller": True}
            metadata["ownerReferences"] = [{**owner, "uid": "9f1b1f4e-0000-4000-8000-000000000001"}]
        spec = {"serviceAccountName": account, "containers": [{"name": "rank", "image": "rank"}]}
        made = self.made(f"/api/v1/namespaces/{namespace}/pods", {"metadata": metadata, "spec": spec})
        return str(made["metadata"]["uid"])

    def token(self, namespace: str, account: str, *, audience: str = "", pod: tuple[str, str] | None = None) -> str:
        """A token by TokenRequest, as the kubelet and `kubectl create token` ask for it."""
        spec: Raw = {"expirationSeconds": 3600}
        if audience:
            spec["audiences"] = [audience]
        if pod is not None:
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": pod[0], "uid": pod[1]}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        answer = self.api.call(
            "POST", path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        )
        return str(answer["status"]["token"])

    def delete(self, path: str) -> None:
        self.api.call("DELETE", path, {"gracePeriodSeconds": 0})

    def made(self, path: str, body: Raw) -> Raw:
        try:
            return self.api.call("POST", path, body)
        except Refused as refused:
            if refused.status != 409:
                raise
            return self.api.call("GET", f"{path}/{body['metadata']['name']}")


def expired(token: str, key: Path) -> str:
    """The same token, signed by the cluster's own key, but one that ended a minute ago."""
    header, claims, _ = token.split(".")
    said = json.loads(_decoded(claims))
    said |= {"exp": int(time.time()) - 60, "iat": int(time.time()) - 3600, "nbf": int(time.time()) - 3600}
    body = f"{header}.{_encoded(json.dumps(said).encode())}"
    private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    assert isinstance(private, rsa.RSAPrivateKey)
    return f"{body}.{_encoded(private.sign(body.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
