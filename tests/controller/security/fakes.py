"""An API server that a test writes itself: tokens, pods and rights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from thinwire.controller.security.cluster import Caller, ClusterError, JobPod, Kept


@dataclass
class FakeCluster:
    tokens: dict[tuple[str, str], Caller] = field(default_factory=dict)
    pods: dict[tuple[str, str], JobPod] = field(default_factory=dict)
    rights: set[tuple[str, str, str, str]] = field(default_factory=set)
    secrets: dict[tuple[str, str], Kept] = field(default_factory=dict)
    away: bool = False
    asked: Counter[str] = field(default_factory=Counter)

    def _ask(self, what: str) -> None:
        self.asked[what] += 1
        if self.away:
            raise ClusterError("the API server does not answer: TimeoutError")

    async def review(self, token: str, audience: str) -> Caller | None:
        self._ask("review")
        return self.tokens.get((token, audience))

    async def allows(self, caller: Caller, verb: str, namespace: str, name: str) -> bool:
        self._ask("allows")
        return (caller.name, verb, namespace, name) in self.rights

    async def pod(self, namespace: str, name: str) -> JobPod | None:
        self._ask("pod")
        return self.pods.get((namespace, name))

    async def secret(self, namespace: str, name: str) -> Kept | None:
        self._ask("secret")
        return self.secrets.get((namespace, name))

    async def keep_secret(self, namespace: str, name: str, files: dict[str, bytes], version: str) -> bool:
        self._ask("keep_secret")
        kept = self.secrets.get((namespace, name))
        if (kept.version if kept else "") != version:
            return False
        self.secrets[(namespace, name)] = Kept(f"{int(version or 0) + 1}", dict(files))
        return True


def pod_caller(namespace: str, pod: str, uid: str = "u1") -> Caller:
    """The bearer of a token that is bound to a pod."""
    extra = (
        ("authentication.kubernetes.io/pod-name", (pod,)),
        ("authentication.kubernetes.io/pod-uid", (uid,)),
    )
    return Caller(f"system:serviceaccount:{namespace}:default", "sa", ("system:serviceaccounts",), extra)
