"""Prints README.md of the chart: python -m helm.readme > helm/README.md. The comments of values.yaml are its text."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from service.settings import Settings

CHART = Path(__file__).parent

HEAD = """\
# Helm chart

Made by `python -m helm.readme` from `values.yaml`, `values.schema.json` and `examples/`; do not edit.

```console
$ helm install line-3 helm --values helm/examples/cpu.yaml    # from a checkout; NOTES say how to go on
$ helm test line-3                                            # every recipe inspects its first golden image
$ helm package helm                                           # an archive that needs no checkout
```

Needs Kubernetes 1.30 and the images of `docker/`; without values it serves the demo recipe. Every pod runs as no user
of the node, without capabilities, on a read-only root: the Pod Security Standard `restricted`.

Stations scale on what waits for the network, never on CPU. Engines are built before a station starts.
`helm/kserve.yaml` serves what `export --triton` wrote.

- **A station is a pod of a StatefulSet** and keeps its own records. Counters, answers to repeated triggers, what makes
  an image count as frozen, and `activate` are each station's own too: `service.sessionAffinity` keeps a camera at one.
- **Restarting**: `/livez` fails while the device hangs (15 s) or fails run after run (ten); after a minute of that the
  container is started again. A recipe that was refused restarts nothing.
- **Stopping**: a pod goes on for `preStopSeconds`, hears SIGTERM, says `draining` for `settings.drain_grace_s`,
  finishes what runs within `settings.drain_timeout_s`; the grace period is computed from these.
- **From outside** the way is an Ingress (`ingress`), which ends TLS. Of ingress-nginx the chart sets what
  `docker/nginx/nginx.conf` sets: bodies up to twice `settings.max_upload_bytes`, sent on without a buffer; 60 s; no
  second try; 256 connections an address; one station for one address. Times for heads and bodies are for all Ingresses,
  in the controller's ConfigMap: `client-header-timeout: 10`, `client-body-timeout: 10`, `use-forwarded-headers:
  "false"`. Another controller, or a Gateway, needs `ingress.annotations` or an object of its own, so that it takes
  bodies above `settings.max_upload_bytes` without a buffer, waits longer than `settings.deadline_ms`, repeats no POST,
  and sets forwarding headers in place of those that clients send. `networkPolicy.from` must let the controller in.
- **Recipes** come with the image, from a volume, an OCI image or archives (`tar -czf A.tar.gz -C models NAME/VERSION`).
  `sha256` is checked before an archive is opened, the manifest's own checksums after that, and a signature where
  `trustedKey` asks for one. On a claim the version that serves first stays until another is activated; with
  `trustedKey` alone nothing can be activated: the newest serves, and `sealKeySecret` is what lets a choice count.
- **Training** is a Job with one index a category. Stopped or evicted it goes on at its checkpoint; failed it is tried
  again, and the others go on. A station that starts serves the first version of a recipe; newer ones are activated.
- **Uninstalling** keeps the claims with recipes, engines, runs and records.

Checked without a cluster, in `make test`: rendered and linted by Helm's own library over all of `helm/examples`,
every object held to Kubernetes' schemas of 1.30 and the newest (strict); wrong values are refused; values, schema and
settings agree; alerts and dashboard are those of `docker/`; the commands of Job, init containers and `helm test` are
really run. Triton's configuration is read with its own schema, and the graph run with the shapes that it promises.
Not run: a cluster, ingress-nginx, KEDA, the Prometheus operator, KServe, Triton, the images of `aws-cli` and `oras`.

## Examples

| values | for |
|---|---|
"""

VALUES = """
## Values

`values.schema.json` refuses wrong values and unknown names.

| value | default | meaning |
|---|---|---|
"""


def rows(node: yaml.MappingNode, lines: list[str], path: str = "") -> Iterator[str]:
    for key, value in node.value:
        name = f"{path}{key.value}"
        meaning = " ".join(_comment_above(key.start_mark, lines))
        if name.startswith("settings."):
            meaning = str(Settings.model_fields[key.value].description)
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            if meaning:
                yield f"| `{name}` | | {meaning} |"
            yield from rows(value, lines, f"{name}.")
        else:
            default = json.dumps(yaml.safe_load(yaml.serialize(value)))
            yield f"| `{name}` | `{default}` | {meaning} |"


def _comment_above(mark: yaml.Mark, lines: list[str]) -> list[str]:
    start = " " * mark.column + "# "
    first = mark.line
    while first and lines[first - 1].startswith(start):
        first -= 1
    return [line.removeprefix(start) for line in lines[first : mark.line]]


def readme() -> str:
    text = (CHART / "values.yaml").read_text()
    parts = [HEAD]
    for file in sorted((CHART / "examples").glob("*.yaml")):
        comment = [line[2:] for line in file.read_text().splitlines() if line.startswith("# ")]
        parts.append(f"| `examples/{file.name}` | {' '.join(comment)} |\n")
    parts.append(VALUES)
    parts += [f"{row}\n" for row in rows(yaml.compose(text), text.splitlines())]
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(readme())
