"""The `ray start` of a worker as KubeRay writes it, from a worker group's options, labels and resources. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal

from ray_dra.errors import InvalidRequest, shown
from ray_dra.ports.kube_objects import KubeRay
from ray_dra.translate.kube.kuberay_operator import is_newer
from ray_dra.translate.kube.shapes import Raw
from ray_dra.translate.quantity import quantity
from ray_dra.translate.vendors import NVIDIA

METRICS_PORT, AGENT_PORT = 8080, 52365
_FLAGS_WITH_A_VALUE = ("log-color", "include-dashboard")  # other options of true and false have none
_NEWER_FLAG_WITH_A_VALUE = "include-log-monitor"
_ACCELERATORS = {"aws.amazon.com/neuroncore": "neuron_cores", "google.com/tpu": "TPU"}  # Ray's names of them
_MIG = re.compile(re.escape(NVIDIA.plugin_part) + r"\d+g\.\d+gb$")


def start_options(group: Raw, address: str) -> dict[str, str]:
    """The user's, those of the group's own fields, and KubeRay's and those of the Ray container's resources where the
    user has none."""
    ray = group["template"]["spec"]["containers"][0]
    return _with_resources({**_defaults(address), **_told(group), "block": "true"}, ray.get("resources") or {})


def start_command(options: Mapping[str, str], kuberay: KubeRay) -> str:
    """Nothing is quoted: a value goes into the shell as it is."""
    made = "ray start "
    for option in sorted(options):
        value = options[option]
        valued = option in _FLAGS_WITH_A_VALUE or (option == _NEWER_FLAG_WITH_A_VALUE and is_newer(kuberay))
        if value.lower() not in ("true", "false") or valued:
            made += f" --{option}={value} "
        elif value.lower() == "true":
            made += f" --{option} "
    return made


def _defaults(address: str) -> dict[str, str]:
    return {
        "address": address,
        "metrics-export-port": str(METRICS_PORT),
        "dashboard-agent-listen-port": str(AGENT_PORT),
    }


def _told(group: Raw) -> dict[str, str]:
    options = {str(key): str(value) for key, value in (group.get("rayStartParams") or {}).items()}
    custom: dict[str, float] = {}
    for name, told in (group.get("resources") or {}).items():
        try:
            amount = quantity(told)
        except ValueError:  # the operator goes on without it
            continue
        known = name.lower()
        if known in ("cpu", "memory"):
            options["num-cpus" if known == "cpu" else "memory"] = str(_whole(amount))
        elif _is_gpu(known):
            options["num-gpus"] = str(_whole(amount))
        else:
            custom[name] = amount
    if custom:
        options["resources"] = f"'{_json(custom)}'"
    if labels := group.get("labels"):
        options["labels"] = ",".join(f"{key}={labels[key]}" for key in sorted(labels))
    return options


def _with_resources(options: Mapping[str, str], resources: Raw) -> dict[str, str]:
    made = dict(options)
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    cpus = next((whole for asked in (limits, requests) if (whole := _whole(_amount(asked.get("cpu", 0))))), 0)
    if cpus:
        made.setdefault("num-cpus", str(cpus))
    if memory := _whole(_amount(limits.get("memory", 0))):
        made.setdefault("memory", str(memory))
    custom = _custom_resources(made)
    if custom is None:
        return made
    counted = any(name in custom for name in _ACCELERATORS.values())
    for name in sorted(limits):
        amount = _amount(limits[name])
        if not amount:
            continue
        if _is_gpu(name):
            made.setdefault("num-gpus", str(_whole(amount)))
        if name in _ACCELERATORS and not counted:
            made["resources"] = f"'{_json({**custom, _ACCELERATORS[name]: amount})}'"
            counted = True
    return made


def _custom_resources(options: Mapping[str, str]) -> dict[str, float] | None:
    """None: of a form that the operator cannot read, for which it counts no accelerators."""
    if "resources" not in options:
        return {}
    try:
        read = json.loads(options["resources"].strip("'\"` "))
        return {str(name): float(amount or 0) for name, amount in (read or {}).items()}
    except (ValueError, TypeError, AttributeError):
        return None


def _amount(told: str | int | float) -> float:
    try:
        return quantity(told)
    except ValueError as error:
        raise InvalidRequest(
            "The worker group to copy has a container that asks for no amount.", place="resources", wanted=shown(told)
        ) from error


def _is_gpu(name: str) -> bool:
    return name.endswith("gpu") or _MIG.search(name) is not None


def _whole(amount: float) -> int:
    """Rounded up, as Kubernetes does; the decimals are those of a sum of floats."""
    return math.ceil(round(amount, 9))


def _json(amounts: Mapping[str, float]) -> str:
    """As Go writes it: sorted, no spaces, whole numbers without a point, and nothing that HTML would read."""
    entries = ",".join(f"{json.dumps(key, ensure_ascii=False)}:{_number(amounts[key])}" for key in sorted(amounts))
    for sign in "<>&\u2028\u2029":
        entries = entries.replace(sign, f"\\u{ord(sign):04x}")
    return f"{{{entries}}}"


def _number(value: float) -> str:
    if value and not 1e-6 <= abs(value) < 1e21:
        mantissa, exponent = f"{value!r}".split("e")
        return f"{mantissa.removesuffix('.0')}e{exponent[0]}{exponent[1:].lstrip('0')}"
    return format(Decimal(repr(value)).normalize(), "f")
