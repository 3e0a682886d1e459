"""Renders a JobSet for TPU slices on GKE to stdout; needs nothing but Python.

    python launch/gke_jobset.py --name=syncmv4d --image=REGISTRY/syncmv4d:1 --accelerator=v5p \\
        --topology=2x2x4 --slices=1 -- --config=configs/taco.py --workdir=/mnt/shared/run \\
        | kubectl apply -f -

One pod a host. GKE sets TPU_WORKER_* (and, for several slices, MEGASCALE_*), which is how the
processes find each other. A pod that is taken away saves on TERM and exits with 143; the JobSet
restarts the whole run, which resumes. An error (a status of ERRORS) would come again: it ends the
JobSet at once.
"""

import argparse
import json
import math
import re
import sys
from typing import Any

# accelerator -> (node label, axes of a topology, chips of a host, chips of the one-host topologies)
ACCELERATORS = {
    "v5e": ("tpu-v5-lite-podslice", 2, 4, {"1x1": 1, "2x4": 8}),
    "v5p": ("tpu-v5p-slice", 3, 4, {}),
    "v6e": ("tpu-v6e-slice", 2, 4, {"1x1": 1, "2x4": 8}),
    "tpu7x": ("tpu7x", 3, 4, {}),
}


ERRORS = (1, 2)  # statuses of an error and of a wrong command line


def hosts(accelerator: str, topology: str) -> tuple[int, int]:
    """Returns (hosts, chips of a host) of one slice.

    Raises:
      ValueError: an unknown accelerator, or a topology that is none of it.
    """
    if accelerator not in ACCELERATORS:
        raise ValueError(f"--accelerator: wanted one of {list(ACCELERATORS)}, got {accelerator!r}")
    _, axes, chips, whole = ACCELERATORS[accelerator]
    if not re.fullmatch(r"\d+" + r"x\d+" * (axes - 1), topology):
        example = "x".join(["2"] * axes)
        raise ValueError(f"--topology of {accelerator}: wanted {example}, ..., got {topology!r}")
    total = math.prod(int(size) for size in topology.split("x"))
    chips = whole.get(topology, chips)
    if total % chips:
        raise ValueError(f"--topology {topology}: {total} chips are no whole hosts of {chips}")
    return total // chips, chips


def job_set(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the manifest as nested dicts."""
    count, chips = hosts(options.accelerator, options.topology)
    container = {
        "name": "run",
        "image": options.image,
        "command": ["launch/entry.sh", *options.arguments],
        "ports": [{"containerPort": 8471}, {"containerPort": 8080}],
        "resources": {
            "requests": {"google.com/tpu": chips},
            "limits": {"google.com/tpu": chips},
        },
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": options.grace,
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": ACCELERATORS[options.accelerator][0],
            "cloud.google.com/gke-tpu-topology": options.topology,
        },
        "containers": [container],
    }
    job = {
        "parallelism": count,
        "completions": count,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": container["name"],
                        "operator": "In",
                        "values": list(ERRORS),
                    },
                }
            ]
        },
        "template": {"spec": pod},
    }
    exclusive = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": options.name, "annotations": exclusive},
        "spec": {
            "failurePolicy": {
                "maxRestarts": options.restarts,
                "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [
                {"name": "slice", "replicas": options.slices, "template": {"spec": job}}
            ],
        },
    }


def to_yaml(value: Any, indent: str = "") -> str:
    """Returns nested dicts and lists of scalars as YAML; strings are quoted as in JSON."""
    if isinstance(value, dict):
        pairs = value.items()
        lines = []
        for key, item in pairs:
            nested = isinstance(item, dict | list)
            gap = f"\n{to_yaml(item, indent + '  ')}" if nested else f" {json.dumps(item)}"
            lines.append(f"{indent}{key}:{gap}")
        return "\n".join(lines)
    if isinstance(value, list):
        parts = [to_yaml(item, indent + "  ") for item in value]
        return "\n".join(f"{indent}- {part.lstrip()}" for part in parts)
    return json.dumps(value)


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the options; what follows "--" goes to syncmv4d_jax.main."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default="syncmv4d")
    parser.add_argument("--image", required=True)
    parser.add_argument("--accelerator", required=True)
    parser.add_argument("--topology", required=True)
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--restarts", type=int, default=100)
    parser.add_argument("--grace", type=int, default=300, help="seconds to save in after TERM")
    parser.add_argument("arguments", nargs="+")
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        print(to_yaml(job_set(parse(sys.argv[1:]))))
    except ValueError as error:
        sys.exit(str(error))
