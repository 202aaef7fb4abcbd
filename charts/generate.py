"""The files that are made for the chart and from it: schema, definition, plain manifests, Argo CD's patch.

`python -m charts.generate`, in the repository's root, writes them; with `--check` it only compares, fails where one is
out of date, and lints the chart.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from finetune_api.generate import generated_files

from charts.values_schema import values_schema
from tests.cluster.binaries import Unavailable, command

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "finetune-operator"
MANIFESTS = ROOT / "deploy" / "manifests" / "finetune-operator.yaml"
HEALTH = ROOT / "deploy" / "argocd" / "health.lua"
"""It reads only what jobs and experiments have in common."""

NAMESPACE = "finetune-system"
_CRDS = ("crds/finetune.dev_finetunejobs.yaml", "crds/finetune.dev_finetuneexperiments.yaml")
_HELM_LABELS = ("helm.sh/chart:", "app.kubernetes.io/managed-by: Helm")
_HEADER = f"""\
# Generated from charts/finetune-operator and its own values by `make generate`.
# kubectl apply --server-side -f finetune-operator.yaml
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels: {{pod-security.kubernetes.io/enforce: restricted}}
"""


def crd_template() -> str:
    """The CustomResourceDefinitions as a template: kept when the release goes, and only where they are wanted."""
    parts = "---\n".join(map(_crd_part, _CRDS))
    return f"{{{{- if .Values.crds.install }}}}\n{parts}{{{{- end }}}}\n"


def _crd_part(file: str) -> str:
    header, _, content = generated_files()[file].partition("\n")
    # Its texts speak of templates, which are not Helm's.
    content = content.replace("{{", "\0").replace("}}", '{{ "}}" }}').replace("\0", '{{ "{{" }}')
    annotations = ("metadata:\n"
                   "{{- if .Values.crds.keep }}\n  annotations: {helm.sh/resource-policy: keep}\n{{- end }}\n"
                   "  labels: {{- include \"operator.labels\" . | nindent 4 }}\n")
    content = content.replace("metadata:\n", annotations, 1)
    return f"{header}\n{content}"


def argocd_patch() -> str:
    """What health.lua goes into: the ConfigMap of Argo CD."""
    script = "".join(f"    {line}\n" if line else "\n" for line in HEALTH.read_text(encoding="utf-8").splitlines())
    return f"""\
# Generated from health.lua by `make generate`.
# kubectl patch configmap argocd-cm -n argocd --patch-file argocd-cm.yaml
data:
  resource.customizations.health.finetune.dev_FineTuneJob: |
{script}\
  resource.customizations.health.finetune.dev_FineTuneExperiment: |
{script}"""


def manifests() -> str:
    """What Helm makes of the chart, for those without Helm.

    Raises:
        Unavailable: there is no helm, and it can't be built.
    """
    rendered = subprocess.run(
        [*command("helm"), "template", "finetune", str(CHART), "--namespace", NAMESPACE, "--set", "crds.keep=false"],
        capture_output=True, text=True, check=True).stdout
    lines = (line.rstrip() for line in rendered.splitlines() if not line.strip().startswith(_HELM_LABELS))
    return _HEADER + "\n".join(lines) + "\n"


def _write(path: Path, content: str, check: bool) -> bool:
    """Write a file where it is out of date; whether it was."""
    if path.exists() and path.read_text(encoding="utf-8") == content:
        return False
    if check:
        print(f"{path.relative_to(ROOT)} is out of date: run `make generate`", file=sys.stderr)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return True


def main() -> int:
    """Write or check the files; 1 where one is out of date, or the chart is not well-formed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [_write(CHART / "values.schema.json", json.dumps(values_schema(), indent=1) + "\n", check),
             _write(CHART / "templates" / "crds.yaml", crd_template(), check),
             _write(HEALTH.with_name("argocd-cm.yaml"), argocd_patch(), check)]
    try:
        helm = command("helm")
    except Unavailable as missing:
        print(f"the chart is NOT CHECKED: {missing}", file=sys.stderr)
        return 1 if os.environ.get("CI") else int(check and any(stale))
    if subprocess.run([*helm, "lint", "--strict", "--quiet", str(CHART)], check=False).returncode:
        return 1
    stale.append(_write(MANIFESTS, manifests(), check))
    return int(check and any(stale))


if __name__ == "__main__":
    raise SystemExit(main())
