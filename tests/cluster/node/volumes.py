"""Storage of the cluster: a default class, and volumes of it in folders of this machine that claims are bound to."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster.node.cluster import Cluster

CLASS = "on-this-machine"
_VOLUMES = 5
_DEFAULT = "storageclass.kubernetes.io/is-default-class"


def furnish(running: Cluster) -> None:
    """Make the class and its volumes, so that a claim without a class is bound; they end with the cluster."""
    made: list[dict[str, Any]] = [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": CLASS, "annotations": {_DEFAULT: "true"}},
            "provisioner": "kubernetes.io/no-provisioner",
        }
    ]
    for number in range(1, _VOLUMES + 1):
        name = f"volume-{number}"
        folder = running.files.volumes / name
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        spec = {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "hostPath": {"path": str(folder)},
            "storageClassName": CLASS,
        }
        made.append({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec})
    running.kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": made}))
