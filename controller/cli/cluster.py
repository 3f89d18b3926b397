"""The way from this machine to a cluster's controller: kubeconfig, port-forward, its published authority, own token."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinwire.controller.cli.endpoint import Endpoint
from thinwire.controller.cli.errors import Failed, Refused
from thinwire.controller.cli.port_forward import forwarded

DEFAULT_CONTROLLER = "thinwire-system/thinwire-controller"
AUTHORITY_CONFIG_MAP, AUTHORITY_KEY = "thinwire-ca", "ca.crt"

_PORT = 8443
_REQUEST_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What was said on the command line about the cluster to ask; empty: the kubeconfig's current context."""

    context: str = ""
    controller: str = DEFAULT_CONTROLLER
    token_file: Path | None = None
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Login:
    """Who asks, as the kubeconfig says: a client of the API server, its namespace, and a bearer token."""

    client: Any
    namespace: str
    token: str


def log_in(options: ClusterOptions) -> Login:
    """Read the kubeconfig and log in as it says; raises Failed with what to do."""
    # The client takes a second to import: a local status must not pay for it.
    from kubernetes import config
    from kubernetes.config.config_exception import ConfigException

    try:
        files = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
        contexts, current = config.list_kube_config_contexts(files)
        chosen = next((one for one in contexts if one["name"] == options.context), None) if options.context else current
        if chosen is None:
            known = ", ".join(one["name"] for one in contexts)
            raise Refused(f"--context: expected a context of the kubeconfig ({known}), got {options.context!r}")
        client = config.new_client_from_config(files, chosen["name"], persist_config=False)
    except ConfigException as error:
        raise Failed(f"no cluster to ask: {error}; set KUBECONFIG, or leave out the cluster options") from None
    return Login(client, chosen["context"].get("namespace") or "default", _token(options, client, chosen["name"]))


@contextlib.contextmanager
def reached(options: ClusterOptions, login: Login) -> Iterator[Endpoint]:
    """The controller, by a port-forward that lasts as long as the body; raises Failed, AwayError while it is away."""
    namespace, _, service = options.controller.partition("/")
    if not namespace or not service or "/" in service:
        raise Refused(f"--controller: expected NAMESPACE/SERVICE, got {options.controller!r}")
    authorities = read_authorities(options.ca_file) if options.ca_file else _published(login.client, namespace)
    chosen = ["--context", options.context] if options.context else []
    with forwarded(namespace, service, _PORT, chosen) as port:
        label = f"{options.controller}" + (f" ({options.context})" if options.context else "")
        yield Endpoint(label, f"127.0.0.1:{port}", authorities, f"{service}.{namespace}.svc", login.token)


def read_authorities(path: Path) -> bytes:
    """The certificates of --ca-file; raises Refused."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Refused(f"--ca-file: {path} cannot be read: {error.strerror}") from None
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise Refused(f"--ca-file: expected certificates in PEM in {path}, got none")
    return content


def read_token(path: Path) -> str:
    """The token of --token-file; raises Refused."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"--token-file: {path} cannot be read: {error}") from None
    if not token or not token.isprintable():
        raise Refused(f"--token-file: expected one token in {path}, got {'other bytes' if token else 'nothing'}")
    return token


def _token(options: ClusterOptions, client: Any, context: str) -> str:
    if options.token_file:
        return read_token(options.token_file)
    said = client.configuration.get_api_key_with_prefix("BearerToken", alias="authorization") or ""
    token = str(said).removeprefix("Bearer ").strip()
    if not token:
        raise Failed(
            f"the user of context {context} logs in without a token (by client certificate, it seems), and only a "
            "token can be shown to the controller; make one with `kubectl create token SERVICEACCOUNT > FILE`, "
            "and say --token-file FILE"
        )
    return token


def _published(client: Any, namespace: str) -> bytes:
    from kubernetes.client import CoreV1Api
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    where = f"ConfigMap {AUTHORITY_CONFIG_MAP} of namespace {namespace}"
    try:
        found = CoreV1Api(client).read_namespaced_config_map(
            AUTHORITY_CONFIG_MAP, namespace, _request_timeout=_REQUEST_SECONDS
        )
    except ApiException as error:
        remedy = "name the right namespace with --controller NAMESPACE/SERVICE, or give the authority with --ca-file"
        raise Failed(f"{where} cannot be read ({error.status} {error.reason}); {remedy}") from None
    except HTTPError as error:
        raise Failed(f"the cluster's API server does not answer: {error}; check the kubeconfig") from None
    content = str((found.data or {}).get(AUTHORITY_KEY, ""))
    if not content:
        raise Failed(f"{where} has no {AUTHORITY_KEY}; the controller writes it when it starts, see its log")
    return content.encode()
