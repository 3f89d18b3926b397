"""What the node's programs are told: their configuration files, credentials and command lines."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import debian
from tests.cluster.binaries import Binaries
from tests.cluster.node.certificates import Certificates
from tests.cluster.node.room import Place

NODE_NAME = "thinwire-node"
API_PORT = 6443
SERVICES = "10.96.0.0/16"
FIRST_SERVICE = "10.96.0.1"
PODS = "10.244.0.0/16"
PAUSE_IMAGE = "localhost/thinwire-pause:test"

ADMIN, PLAIN, CONTROLLER = "admin", "plain", "system:serviceaccount:thinwire-system:thinwire-controller"
"""Users of the tests: one who may do anything, one with no rights of his own, and the controller's service account."""

_GROUPS = {
    ADMIN: "system:masters",
    PLAIN: "",
    CONTROLLER: "system:serviceaccounts,system:serviceaccounts:thinwire-system",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "system:kube-proxy": "",
    f"system:node:{NODE_NAME}": "system:nodes",
    "dns": "system:masters",
}


@dataclass(frozen=True)
class Files:
    """The folder of one cluster, and what is where in it."""

    folder: Path
    certificates: Certificates
    place: Place

    @property
    def api_url(self) -> str:
        return f"https://{self.place.node_address}:{API_PORT}"

    def kubeconfig(self, user: str) -> Path:
        return self.folder / f"{user.replace(':', '-')}.kubeconfig"

    def log(self, program: str) -> Path:
        return self.folder / f"{program}.log"

    @property
    def volumes(self) -> Path:
        return self.folder / "volumes"

    @property
    def tokens(self) -> Path:
        return self.folder / "tokens.csv"

    @property
    def containerd_socket(self) -> Path:
        return Path("/run/thinwire/containerd.sock")


def write(files: Files, containerd_root: Path) -> None:
    """Write everything that the programs read."""
    tokens = {user: secrets.token_hex(16) for user in _GROUPS}
    lines = [f'{token},{user},{user},"{_GROUPS[user]}"' for user, token in tokens.items()]
    files.tokens.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for user, token in tokens.items():
        _dump(files.kubeconfig(user), _kubeconfig(files, user, token))
    network = files.folder / "cni"
    network.mkdir()
    (network / "10-thinwire.conflist").write_text(json.dumps(_NETWORK, indent=2), encoding="utf-8")
    (files.folder / "containerd.toml").write_text(_containerd(files, containerd_root, network), encoding="utf-8")
    _dump(files.folder / "kubelet.yaml", _kubelet(files))
    _dump(files.folder / "kube-proxy.yaml", _kube_proxy(files))
    (files.folder / "Corefile").write_text(
        _COREFILE.format(kubeconfig=files.kubeconfig("dns"), address=files.place.node_address), encoding="utf-8"
    )


def commands(files: Files, binaries: Binaries) -> dict[str, list[str]]:
    """Every program's command line, in the order in which they are started."""
    api, key = files.certificates.pair("apiserver")
    client, client_key = files.certificates.pair("kubelet-client")
    accounts = str(files.certificates.service_accounts)
    authority = str(files.certificates.authority)
    etcd, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"

    def configured(user: str) -> tuple[str, ...]:
        return ("--kubeconfig", str(files.kubeconfig(user)))

    return {
        "containerd": ["containerd", "--config", str(files.folder / "containerd.toml")],
        "etcd": [
            str(binaries.etcd),
            *("--data-dir", str(files.folder / "etcd"), "--unsafe-no-fsync", "--logger", "zap", "--log-level", "warn"),
            *("--listen-client-urls", etcd, "--advertise-client-urls", etcd, "--listen-peer-urls", peer),
            *("--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"),
        ],
        "kube-apiserver": [
            str(binaries.api_server),
            *("--etcd-servers", etcd, "--bind-address", "0.0.0.0", "--secure-port", str(API_PORT)),
            *("--advertise-address", files.place.node_address, "--service-cluster-ip-range", SERVICES),
            *("--tls-cert-file", str(api), "--tls-private-key-file", str(key), "--client-ca-file", authority),
            *("--authorization-mode", "Node,RBAC", "--token-auth-file", str(files.tokens)),
            *("--enable-admission-plugins", "NodeRestriction", "--allow-privileged"),
            *("--service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
            *("--service-account-key-file", accounts, "--service-account-signing-key-file", accounts),
            *("--kubelet-client-certificate", str(client), "--kubelet-client-key", str(client_key)),
            *("--kubelet-preferred-address-types", "InternalIP", "--profiling=false"),
        ],
        "kube-controller-manager": [
            str(binaries.path("kube-controller-manager")),
            *(*configured("system:kube-controller-manager"), "--leader-elect=false", "--bind-address", "127.0.0.1"),
            *("--service-account-private-key-file", accounts, "--root-ca-file", authority),
            *("--use-service-account-credentials", "--profiling=false"),
        ],
        "kube-scheduler": [
            str(binaries.path("kube-scheduler")),
            *(*configured("system:kube-scheduler"), "--leader-elect=false", "--bind-address", "127.0.0.1"),
            "--profiling=false",
        ],
        "kubelet": [
            str(binaries.path("kubelet")),
            *(*configured(f"system:node:{NODE_NAME}"), "--config", str(files.folder / "kubelet.yaml")),
            *("--hostname-override", NODE_NAME, "--node-ip", files.place.node_address),
            *("--root-dir", str(files.folder / "kubelet")),
        ],
        "kube-proxy": [str(binaries.path("kube-proxy")), "--config", str(files.folder / "kube-proxy.yaml")],
        "coredns": [str(binaries.path("coredns")), "-conf", str(files.folder / "Corefile")],
    }


def _kubeconfig(files: Files, user: str, token: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "thinwire-test",
                "cluster": {"server": files.api_url, "certificate-authority": str(files.certificates.authority)},
            }
        ],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "thinwire-test", "context": {"cluster": "thinwire-test", "user": user}}],
        "current-context": "thinwire-test",
    }


_NETWORK = {
    "cniVersion": "0.4.0",
    "name": "thinwire",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": False,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/thinwire/cni",
                "ranges": [[{"subnet": PODS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


def _containerd(files: Files, root: Path, network: Path) -> str:
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE runc cannot lower the score, and dies of trying.
    return f"""\
version = 2
root = "{root}"
state = "/run/thinwire/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]

[grpc]
  address = "{files.containerd_socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{debian.CNI_FOLDER}"
    conf_dir = "{network}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
"""


def _kubelet(files: Files) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{files.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{files.place.cgroup}",
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "resolvConf": "/dev/null",
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
        "clusterDNS": [files.place.node_address],
        "clusterDomain": "cluster.local",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(files.certificates.authority)},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "nodeStatusUpdateFrequency": "2s",
        "shutdownGracePeriod": "0s",
        "volumePluginDir": str(files.folder / "volume-plugins"),
    }


def _kube_proxy(files: Files) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": PODS,
        "hostnameOverride": NODE_NAME,
        "clientConnection": {"kubeconfig": str(files.kubeconfig("system:kube-proxy"))},
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


_COREFILE = """\
cluster.local:53 {{
    bind {address}
    errors
    kubernetes cluster.local {{
        kubeconfig {kubeconfig} thinwire-test
        ttl 1
    }}
    cache 1
}}
.:53 {{
    bind {address}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


def _dump(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
