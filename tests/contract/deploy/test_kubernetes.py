"""The manifests: valid by Kubernetes's own schemas, restricted, and of one mind with each other and the program."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema_rs
import pytest
from ruamel.yaml import YAML

from hx_gateway import __version__
from hx_gateway.app import build_app
from hx_gateway.pipeline.routes import ANYONE
from hx_gateway.setting_sources import CREDENTIALS_VARIABLE, is_secret
from hx_gateway.settings import Settings, SettingsError, load_settings
from tests.contract.deploy.containerfile import assignments, read_stages
from tests.contract.deploy.program import LONGEST_STOP_SECONDS, VARIABLES
from tests.contract.doc_pages import ROOT
from tests.fixtures.gateway import ADMIN_KEY

Document = Mapping[str, Any]
FOLDER = ROOT / "deploy" / "kubernetes"
SCHEMAS = json.loads((Path(__file__).parent / "schemas/kubernetes-1.34.json").read_text())
GROUPS = {"v1": "core.v1", "networking.k8s.io/v1": "networking.v1"}
TEMPLATE = "secret.example.yaml"
IMAGE = read_stages(ROOT / "deploy/container/Containerfile")["gateway"]
GOOD = {
    "PG_URL": "postgresql://hx_gateway:made-up@db.example.org/hx_gateway",
    "REDIS_URL": "redis://cache.example.org",
    "HX_ADMIN_KEY": ADMIN_KEY,
    "LITELLM_API_KEY": "made-up",
    "QDRANT_API_KEY": "made-up",
}


def read(name: str) -> list[Document]:
    return list(YAML(typ="safe").load_all((FOLDER / name).read_text()))


KUSTOMIZATION: Document = read("kustomization.yaml")[0]
NAMES = [*KUSTOMIZATION["resources"], TEMPLATE]
DOCUMENTS = [(name, document) for name in NAMES for document in read(name)]
BY_KIND = {document["kind"]: document for _, document in DOCUMENTS}
SET = BY_KIND["StatefulSet"]["spec"]
TEMPLATES = {kind: BY_KIND[kind]["spec"]["template"] for kind in ("StatefulSet", "Job")}


def container(kind: str) -> Document:
    (only,) = TEMPLATES[kind]["spec"]["containers"]
    found: Document = only
    return found


def validator(document: Document) -> Any:
    """Return the validator of a document's kind."""
    version = document["apiVersion"]
    name = f"io.k8s.api.{GROUPS.get(version, version.replace('/', '.'))}.{document['kind']}"
    assert name in SCHEMAS["$defs"]
    return jsonschema_rs.validator_for(SCHEMAS | {"$ref": f"#/$defs/{name}"})


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return selector.items() <= labels.items()


@pytest.mark.parametrize(("name", "document"), DOCUMENTS, ids=[f"{name}-{d['kind']}" for name, d in DOCUMENTS])
def test_a_manifest_is_what_kubernetes_takes(name: str, document: Document) -> None:
    validator(document).validate(document)


def test_the_schemas_refuse_what_kubernetes_does_not_take() -> None:
    document = json.loads(json.dumps(BY_KIND["StatefulSet"]))
    document["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    assert not validator(document).is_valid(document)


def test_every_manifest_is_applied_but_the_template_of_the_secret() -> None:
    assert {*NAMES, "kustomization.yaml"} == {path.name for path in FOLDER.iterdir()}
    assert {document["kind"] for _, document in DOCUMENTS} == {
        *("Namespace", "ServiceAccount", "ConfigMap", "Secret", "Job", "Service", "StatefulSet"),
        *("PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy"),
    }


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_makes_one_namespace_of_them() -> None:
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, check=True)
    made = list(YAML(typ="safe").load_all(done.stdout))
    assert len(made) == len(DOCUMENTS) - 1
    assert {document["metadata"].get("namespace", "hx-gateway") for document in made} == {"hx-gateway"}
    assert BY_KIND["Secret"]["metadata"]["namespace"] == KUSTOMIZATION["namespace"] == "hx-gateway"


# Pods


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_pod_is_restricted(kind: str) -> None:
    pod, inside = TEMPLATES[kind]["spec"], container(kind)
    own = pod["securityContext"]
    assert own["runAsNonRoot"] is True
    assert f"{own['runAsUser']}:{own['runAsGroup']}" == IMAGE.only("USER")
    assert own["seccompProfile"] == {"type": "RuntimeDefault"}
    assert inside["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == BY_KIND["ServiceAccount"]["metadata"]["name"]
    assert inside["resources"]["limits"]["memory"]
    assert inside["resources"]["requests"].keys() == {"cpu", "memory"}
    # Kubernetes names variables after services: HX_GATEWAY_PORT would be one of ours.
    assert pod["enableServiceLinks"] is False


@pytest.mark.parametrize("kind", TEMPLATES)
def test_the_image_and_labels_are_of_this_version(kind: str) -> None:
    assert container(kind)["image"].endswith(f"/hx-gateway:{__version__}")
    assert BY_KIND[kind]["metadata"]["labels"]["app.kubernetes.io/version"] == __version__
    assert __version__.replace(".", "-") in BY_KIND["Job"]["metadata"]["name"]


@pytest.mark.parametrize("kind", TEMPLATES)
def test_what_is_mounted_is_declared(kind: str) -> None:
    pod = TEMPLATES[kind]["spec"]
    claims = {claim["metadata"]["name"] for claim in BY_KIND[kind]["spec"].get("volumeClaimTemplates", [])}
    declared = {volume["name"] for volume in pod["volumes"]} | claims
    assert {mount["name"] for mount in container(kind)["volumeMounts"]} == declared
    for volume in pod["volumes"]:
        if "secret" in volume:
            assert volume["secret"]["defaultMode"] & stat.S_IRWXO == 0
            assert {item["key"] for item in volume["secret"]["items"]} <= BY_KIND["Secret"]["stringData"].keys()
            assert volume["secret"]["secretName"] == BY_KIND["Secret"]["metadata"]["name"]


def test_what_the_gateway_writes_is_kept() -> None:
    mounts = {mount["mountPath"]: mount for mount in container("StatefulSet")["volumeMounts"]}
    assert mounts[assignments(IMAGE.all("ENV"))["HX_DATA_DIR"]]["name"] == "data"
    assert mounts["/tmp"]["name"] == "temporary"


def test_probes_ask_routes_that_are_there_for_everybody(tmp_path: Path) -> None:
    settings = Settings(PG_URL="postgresql://hx@127.0.0.1:1/hx", HX_DATA_DIR=str(tmp_path))
    routes = build_app(settings).pipeline.routes.routes
    anyones = {route.path for route in routes if route.policy == ANYONE and "GET" in route.methods}
    probes = {
        name: container("StatefulSet")[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")
    }
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/readyz",
        "readiness": "/readyz",
        "liveness": "/livez",
    }
    assert {probe["path"] for probe in probes.values()} <= anyones
    assert {probe["port"] for probe in probes.values()} == {"http"}


def test_kubernetes_waits_for_longer_than_a_stop_takes() -> None:
    assert TEMPLATES["StatefulSet"]["spec"]["terminationGracePeriodSeconds"] > LONGEST_STOP_SECONDS


# Settings


def given(kind: str) -> dict[str, str]:
    """Return the environment of a pod, the image's own included."""
    inside = container(kind)
    assert [source["configMapRef"]["name"] for source in inside["envFrom"]] == [
        BY_KIND["ConfigMap"]["metadata"]["name"]
    ]
    own = {entry["name"]: entry["value"] for entry in inside["env"]}
    settings: dict[str, str] = BY_KIND["ConfigMap"]["data"]
    return assignments(IMAGE.all("ENV")) | settings | own


def credentials(kind: str) -> Iterator[str]:
    """Yield the names of the files in a pod's folder of credentials."""
    folder = given(kind)[CREDENTIALS_VARIABLE]
    (mount,) = (mount for mount in container(kind)["volumeMounts"] if mount["mountPath"] == folder)
    (volume,) = (volume for volume in TEMPLATES[kind]["spec"]["volumes"] if volume["name"] == mount["name"])
    yield from (item["path"] for item in volume["secret"]["items"])


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_pod_starts_with_what_it_is_given(kind: str, tmp_path: Path) -> None:
    for name in credentials(kind):
        (tmp_path / name).write_text(GOOD[name])
        (tmp_path / name).chmod(0o440)
    loaded = load_settings(given(kind) | {CREDENTIALS_VARIABLE: str(tmp_path)})
    assert loaded.warnings == ()
    assert not loaded.settings.embedded
    assert loaded.sources["pg_url"] == f"{tmp_path} (PG_URL)"


def test_every_setting_and_secret_exists() -> None:
    assert BY_KIND["ConfigMap"]["data"].keys() <= VARIABLES
    assert BY_KIND["Secret"]["stringData"].keys() - {"peppers.json"} <= VARIABLES
    assert [name for name, value in BY_KIND["ConfigMap"]["data"].items() if is_secret(name, value)] == []


def test_the_values_of_the_template_are_made_up_and_no_gateway_starts_with_them() -> None:
    values = BY_KIND["Secret"]["stringData"]
    assert all("made-up" in value for value in values.values())
    with pytest.raises(SettingsError, match="HX_ADMIN_KEY has 7 characters"):
        load_settings({name: value for name, value in values.items() if name in VARIABLES})


def test_peppers_are_a_file_and_no_link() -> None:
    path = PurePosixPath(given("StatefulSet")["HX_PEPPER_FILE"])
    (mount,) = (mount for mount in container("StatefulSet")["volumeMounts"] if mount["mountPath"] == str(path))
    assert mount["subPath"] == path.name


def test_ports_are_those_of_the_image() -> None:
    (port,) = container("StatefulSet")["ports"]
    assert str(port["containerPort"]) == IMAGE.only("EXPOSE")
    services = [document["spec"] for _, document in DOCUMENTS if document["kind"] == "Service"]
    assert [(spec["ports"][0]["port"], spec["ports"][0]["targetPort"]) for spec in services] == [(4010, "http")] * 2
    assert [rule["port"] for rule in BY_KIND["NetworkPolicy"]["spec"]["ingress"][0]["ports"]] == ["http"]


def test_the_network_lets_the_gateway_reach_what_its_settings_name() -> None:
    addresses = [BY_KIND["ConfigMap"]["data"][name] for name in ("QDRANT_URL", "LITELLM_BASE_URL")]
    addresses += [BY_KIND["Secret"]["stringData"][name] for name in ("PG_URL", "REDIS_URL")]
    named = {re.findall(r"[@/][a-z]+\.([a-z]+)\.svc:(\d+)", address)[0] for address in addresses}
    allowed = {
        (peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], str(port["port"]))
        for rule in BY_KIND["NetworkPolicy"]["spec"]["egress"]
        for peer in rule["to"]
        for port in rule["ports"]
        if "namespaceSelector" in peer
    }
    assert named <= allowed
    assert ("kube-system", "53") in allowed


# What finds what


def test_selectors_find_the_gateway_s_pods_and_no_others() -> None:
    labels = {kind: template["metadata"]["labels"] for kind, template in TEMPLATES.items()}
    services = [document["spec"]["selector"] for _, document in DOCUMENTS if document["kind"] == "Service"]
    budget = BY_KIND["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    for selector in (*services, budget, SET["selector"]["matchLabels"]):
        assert selects(selector, labels["StatefulSet"])
        assert not selects(selector, labels["Job"])
    policy = BY_KIND["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
    assert all(selects(policy, found) for found in labels.values())


def test_the_autoscaler_has_the_say_over_the_set() -> None:
    target = BY_KIND["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["apiVersion"], target["kind"], target["name"]) == (
        BY_KIND["StatefulSet"]["apiVersion"],
        "StatefulSet",
        BY_KIND["StatefulSet"]["metadata"]["name"],
    )
    assert "replicas" not in SET
    names = {document["metadata"]["name"] for _, document in DOCUMENTS if document["kind"] == "Service"}
    assert SET["serviceName"] in names
