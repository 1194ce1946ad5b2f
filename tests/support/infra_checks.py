"""The files of `infra/`, and the tools that check them without a network.

Each check returns what is wrong, one line a finding; none is an empty list. Tools from PyPI are in
the extra `infra`, which `test` includes; of others (`promtool`, `systemd-analyze`) a test says that
they are not there, and is skipped.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cel
import jsonschema
import kubernetes_validate
import pytest
import yaml
from structure import ROOT

INFRA = ROOT / "infra"
KUBERNETES = INFRA / "kubernetes"
OVERLAYS = ("cpu", "spot-gpu", "kueue", "raycronjob")

CRD_VARIABLE = "KUBERAY_CRDS"
"""Names folders with custom resource definitions, separated as in PATH."""

Resource = dict[str, Any]
Schemas = Mapping[tuple[str, str], Resource]


FROM_PYPI = ("check-jsonschema", "hadolint", "kubectl")
"""Programs of the extra `infra`."""


def tool(name: str) -> str:
    """The path of a program, of this environment or of the machine.

    The test is skipped without it, or fails if it is one of `FROM_PYPI`.
    """
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None and name in FROM_PYPI:
        pytest.fail(f"{name} is not installed; it is part of the extra `infra`")
    if found is None:
        pytest.skip(f"{name} is not installed here, so what it checks is not checked")
    return found


def run_tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program; its exit code is for the caller to read."""
    command = [tool(name), *(str(each) for each in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def findings(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a program says, if it ended with an error."""
    return (done.stdout + done.stderr).splitlines() or ["no output"] if done.returncode else []


@cache
def rendered(folder: Path) -> tuple[Resource, ...]:
    """What Kustomize makes of a folder."""
    done = run_tool("kubectl", "kustomize", folder)
    assert done.returncode == 0, done.stderr
    return tuple(each for each in yaml.safe_load_all(done.stdout) if each)


def overlay(name: str) -> tuple[Resource, ...]:
    """What Kustomize makes of one of `OVERLAYS`."""
    return rendered(KUBERNETES / "overlays" / name)


def of_kind(resources: Sequence[Resource], kind: str) -> list[Resource]:
    """The resources of a kind."""
    return [each for each in resources if each["kind"] == kind]


def ray_cluster(name: str) -> Resource:
    """The specification of the Ray cluster of one of `OVERLAYS`."""
    resources = overlay(name)
    if name == "raycronjob":
        (schedule,) = of_kind(resources, "RayCronJob")
        inner: Resource = schedule["spec"]["jobTemplate"]["rayClusterSpec"]
        return inner
    (cluster,) = of_kind(resources, "RayCluster")
    spec: Resource = cluster["spec"]
    return spec


def is_custom(resource: Resource) -> bool:
    """Whether a resource is of a kind that some operator adds to Kubernetes."""
    group = resource["apiVersion"].rpartition("/")[0]
    return group.startswith("kueue.") or ("." in group and not group.endswith(".k8s.io"))


def plain_findings(resource: Resource) -> list[str]:
    """What Kubernetes' own schema has against a resource."""
    try:
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        path = ".".join(str(each) for each in error.path)
        return [f"{resource['kind']} {path}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError:
        return [f"{resource['kind']}: Kubernetes has no such kind in {resource['apiVersion']}"]
    return []


@cache
def schemas() -> Schemas:
    """The custom resource definitions of this machine; skips the test where there are none."""
    named = os.environ.get(CRD_VARIABLE)
    folders = named.split(os.pathsep) if named else [str(ROOT.parent / "shared" / "kuberay")]
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.yaml"))]
    if not files:
        pytest.skip(f"no custom resource definitions in {folders}; {CRD_VARIABLE} can name folders")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definitions = [yaml.load(file.read_bytes(), loader)["spec"] for file in files]
    return {
        (f"{each['group']}/{version['name']}", each["names"]["kind"]): version["schema"][
            "openAPIV3Schema"
        ]
        for each in definitions
        for version in each["versions"]
    }


def custom_findings(resource: Resource) -> list[str]:
    """What the definition of a custom resource has against it; skips where there is none."""
    schema = schemas().get((resource["apiVersion"], resource["kind"]))
    if schema is None:
        pytest.skip(f"no definition of {resource['apiVersion']} {resource['kind']} here")
    validator = jsonschema.Draft202012Validator(_strict(schema, is_top=True))
    structural = [
        f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message[:200]}"
        for error in validator.iter_errors(resource)
    ]
    return structural + list(_broken_rules(schema, resource, resource["kind"]))


def _strict(schema: Any, is_top: bool = False) -> Any:
    """A structural schema as JSON Schema, in which unknown fields are errors."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if made.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if made.get("nullable") and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    is_closed = isinstance(made.get("properties"), dict) and made.get("type") == "object"
    if is_closed and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if is_top:
        made["properties"]["metadata"] = {"type": "object"}
    return made


def _broken_rules(schema: Any, value: Any, path: str) -> Iterator[str]:
    """The CEL rules of a schema that a value breaks; those about a change are left out."""
    if not isinstance(schema, dict):
        return
    for rule in schema.get("x-kubernetes-validations", []):
        if (
            "oldSelf" not in rule["rule"]
            and cel.evaluate(rule["rule"], {"self": value}) is not True
        ):
            yield f"{path}: {rule.get('message', rule['rule'])}"
    if isinstance(value, dict):
        others = schema.get("additionalProperties")
        for key, inner in value.items():
            yield from _broken_rules(
                schema.get("properties", {}).get(key, others), inner, f"{path}.{key}"
            )
    if isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _broken_rules(schema.get("items"), inner, f"{path}[{number}]")


def pod_specs(resource: Any) -> Iterator[Resource]:
    """Every pod specification inside a resource."""
    if isinstance(resource, dict):
        if isinstance(resource.get("containers"), list):
            yield resource
        for inner in resource.values():
            yield from pod_specs(inner)
    elif isinstance(resource, list):
        for inner in resource:
            yield from pod_specs(inner)


def variables(container: Resource) -> dict[str, str]:
    """The environment variables that a container sets to a value."""
    return {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}
