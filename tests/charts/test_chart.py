"""The chart, rendered: least privilege, restricted pods, switches, and refusals that say what to change."""

from __future__ import annotations

import argparse
import subprocess
import tomllib
from typing import Any

import pytest
import yaml

from tests.charts.chart import CHART, ChartRefused, helm, rendered
from tests.cluster.binaries import CHART_TOOLS, found
from tests.cluster.rights import rights
from thinwire.controller.kubernetes.settings import add_flags, settings_of
from thinwire.controller.manifest.schema import crd

pytestmark = pytest.mark.cluster

NAME = "thinwire-controller"
CLUSTER_NAME = "thinwire-controller-thinwire-system"
EVERYTHING = (
    'tls.certManager={"enabled":true,"issuerRef":{"name":"authority"}}',
    'controller={"replicas":2}',
    "networkPolicy.enabled=true",
    "podDisruptionBudget.enabled=true",
    "metrics.serviceMonitor.enabled=true",
    "metrics.prometheusRule.enabled=true",
    "metrics.dashboard.enabled=true",
)


def rules(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    """(group, resource, verb) of a role, without those that name their objects."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        if "resourceNames" not in rule
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_helm_finds_nothing_to_say_of_the_chart() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


def test_the_release_brings_the_very_crd_of_the_repository_and_leaves_it_behind() -> None:
    brought = rendered()["CustomResourceDefinition", "diffusionjobs.thinwire.dev"]
    assert brought["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert brought["spec"] == crd()["spec"]
    assert not [kind for kind, _ in rendered("crds.install=false") if kind == "CustomResourceDefinition"]


def test_the_controller_may_touch_only_what_it_makes_and_never_lists_secrets() -> None:
    objects = rendered()
    everywhere = rules(objects["ClusterRole", CLUSTER_NAME])
    assert not {one for one in everywhere if "*" in one}
    assert not {one for one in everywhere if one[1] == "secrets"}
    assert ("", "pods", "create") not in everywhere
    own = objects["Role", NAME]
    assert {one for one in rules(own) if one[1] == "secrets"} == {("", "secrets", "create")}
    assert all(rule["verbs"] == ["create"] or rule["resourceNames"] for rule in own["rules"])


def test_the_rights_on_jobs_and_their_kin_are_those_of_the_page() -> None:
    granted = rules(rendered('watchNamespaces=["one"]')["Role", f"one/{CLUSTER_NAME}"])
    (written,) = [of_page for heading, of_page in rights().items() if "every namespace" in heading]
    assert granted == rules({"rules": written})


def test_with_a_list_of_namespaces_the_rights_end_at_them() -> None:
    objects = rendered('watchNamespaces=["one","two"]')
    everywhere = rules(objects["ClusterRole", CLUSTER_NAME])
    assert {one[1] for one in everywhere} == {"tokenreviews", "subjectaccessreviews"}
    assert rules(objects["Role", f"one/{CLUSTER_NAME}"]) == rules(objects["Role", f"two/{CLUSTER_NAME}"])
    assert ("batch", "jobs", "create") in rules(objects["Role", f"one/{CLUSTER_NAME}"])
    flags = objects["Deployment", NAME]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert flags[1:3] == ["--namespace=one", "--namespace=two"]


@pytest.mark.parametrize(("kind", "name"), [("Deployment", NAME), ("Pod", f"{NAME}-test")])
def test_its_pods_meet_pod_security_restricted(kind: str, name: str) -> None:
    made = rendered()[kind, name]
    pod = made["spec"]["template"]["spec"] if kind == "Deployment" else made["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_controller_understands_every_flag_that_the_chart_passes() -> None:
    for values in ((), ('watchNamespaces=["one"]', *EVERYTHING)):
        container = rendered(*values)["Deployment", NAME]["spec"]["template"]["spec"]["containers"][0]
        parser = argparse.ArgumentParser(exit_on_error=False)
        add_flags(parser)
        assert container["args"][0] == "cluster"
        settings = settings_of(parser.parse_args(container["args"][1:]))
        assert settings.telemetry_address == f"{NAME}.thinwire-system.svc:8443"
        assert (settings.tls_dir is None) == bool(settings.tls_secret)


def test_switches_bring_what_they_name_and_nothing_is_on_by_itself() -> None:
    extra = {kind for kind, _ in rendered(*EVERYTHING)} - {kind for kind, _ in rendered()}
    assert extra == {
        "Certificate",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "ServiceMonitor",
        "PrometheusRule",
        "ConfigMap",
    }


REFUSED = [
    ('watchNamespaces=["Upper"]', "watchNamespaces/0"),
    ('controller={"replicas":0}', "controller/replicas"),
    ('controller={"image":{"pullPolicy":"Sometimes"}}', "controller/image/pullPolicy"),
    ('controler={"replicas":1}', "controler"),
    ('tls={"certManager":{"enabled":true}}', "expected the name of an issuer, got none"),
    ('podDisruptionBudget={"enabled":true}', "expected controller.replicas of 2 or more, got 1"),
]


@pytest.mark.parametrize(("values", "sentence"), REFUSED)
def test_values_that_cannot_be_meant_are_refused_by_name(values: str, sentence: str) -> None:
    with pytest.raises(ChartRefused) as caught:
        rendered(values)
    assert sentence in str(caught.value).replace(".", "/") or sentence in str(caught.value)


def test_the_readme_is_what_helm_docs_writes() -> None:
    command = [str(found(CHART_TOOLS).path("helm-docs")), "--chart-search-root", str(CHART), "--dry-run"]
    written = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert written.strip() == (CHART / "README.md").read_text(encoding="utf-8").strip(), "run `make chart-docs`"


def test_the_chart_names_the_version_of_the_package() -> None:
    version = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    described = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (described["version"], described["appVersion"]) == (version, version)
