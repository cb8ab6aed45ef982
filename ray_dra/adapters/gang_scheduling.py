"""Whether an API server takes pods into PodGroups of Kubernetes' own, which is off by default as of 1.37.

Neighbours: `kube_watch.py` asks once, for a coordinator; `operate.check` for whoever sets it up.
"""

from __future__ import annotations

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import NotAllowed, Rejected
from ray_dra.ports.kubernetes import Object
from ray_dra.translate.kube.gang_scheduling import keeps_group
from ray_dra.translate.kube.shapes import kind_in
from ray_dra.translate.names import POD_GROUP_APIS


def pod_group_api(api: KubernetesApi) -> str:
    """The version by which it serves them, the newest; "" for none."""
    return next((each for each in POD_GROUP_APIS if api.serves(kind_in(each, "PodGroup"))), "")


def why_ungrouped(api: KubernetesApi, served: str, probe: Object, namespace: str) -> str:
    """Why pods would be in no PodGroup of Kubernetes' own, whatever they say; "": they would. `served`: the version;
    `probe`: a pod that says so, which is not made."""
    if not served:
        return f"no {' or '.join(POD_GROUP_APIS)} with PodGroups is served"
    try:
        taken = api.create(probe, namespace, dry_run=True)
    except (NotAllowed, Rejected) as error:
        return f"a pod that names one is refused: {error.available or error.reason}"
    return "" if keeps_group(taken) else "schedulingGroup is dropped from pods: the gate GenericWorkload is off"
