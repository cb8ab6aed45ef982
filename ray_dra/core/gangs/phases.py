"""The phases of a gang's life, and which change of phase may happen, and why.

No phase is stored: `lifecycle.phase` reads it off the record and the world. `changes.py` enforces the changes that
change a record.

    [quota ->] queued -> [provisioning ->] held -> placing -> ready <-> degraded
                  ^            |            |         |         |          |
                  '------------+------------+---------'         '----------+--> releasing -> gone

What a queue outside takes back of a gang that is not ready yet leads to `quota` from everywhere. A gang that has
declared what is done about faults is `draining` from its notice on, then `repairing` or on its way again (`repair.py`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping


class Phase(enum.Enum):
    QUOTA = "quota"  # waits for somebody else's queue to admit it; not in our own yet
    QUEUED = "queued"  # waits for its turn, or for room
    PROVISIONING = "provisioning"  # devices held; on Kubernetes, workers with them are being made
    HELD = "held"  # devices held, no placement group yet
    PLACING = "placing"  # the placement group exists and waits for Ray
    READY = "ready"
    DEGRADED = "degraded"  # a node or device of it is lost; its other devices stay its own
    DRAINING = "draining"  # it will be ended for a fault, and has notice of it
    REPAIRING = "repairing"  # workers of it are replaced; the others run on
    RELEASING = "releasing"  # asked to go; Ray still ends its workers
    GONE = "gone"


ARROWS: Mapping[tuple[Phase, Phase], str] = {
    (Phase.QUOTA, Phase.QUOTA): "its quota was taken back before it was used; asked again",
    (Phase.QUOTA, Phase.QUEUED): "admitted by the queue that it is paid from",
    (Phase.QUOTA, Phase.RELEASING): "released, given up, or its program has ended",
    (Phase.QUOTA, Phase.GONE): "the same, with nothing made for it to undo",
    (Phase.QUEUED, Phase.QUOTA): "its quota was taken back; asked again",
    (Phase.PROVISIONING, Phase.QUOTA): "its quota was taken back, and all that was made is given back; asked again",
    (Phase.HELD, Phase.QUOTA): "the same",
    (Phase.PLACING, Phase.QUOTA): "the same",
    (Phase.DEGRADED, Phase.QUOTA): "the same",
    (Phase.QUEUED, Phase.PROVISIONING): "its turn: devices are held, its workers are made",
    (Phase.QUEUED, Phase.HELD): "its turn: devices are held",
    (Phase.QUEUED, Phase.PLACING): "its turn: devices are held, and Ray is told of its ordinary placement group",
    (Phase.QUEUED, Phase.RELEASING): "released, or its program has ended",
    (Phase.QUEUED, Phase.GONE): "the same, with nothing made for it to undo",
    (Phase.PROVISIONING, Phase.PROVISIONING): "planned again: its workers could not be made",
    (Phase.PROVISIONING, Phase.HELD): "its workers are there",
    (Phase.PROVISIONING, Phase.PLACING): "its placement group exists, which a coordinator before this one waited for",
    (Phase.PROVISIONING, Phase.QUEUED): "planned again: its workers could not be made, and nothing else is free",
    (Phase.PROVISIONING, Phase.DEGRADED): "its workers are there, and a part of it is lost",
    (Phase.PROVISIONING, Phase.RELEASING): "released, given up, or its program has ended",
    (Phase.PROVISIONING, Phase.GONE): "the same, before anything was made",
    (Phase.HELD, Phase.HELD): "planned again: other work took a device",
    (Phase.HELD, Phase.PROVISIONING): "its workers are made again, elsewhere or after a restart of the coordinator",
    (Phase.HELD, Phase.PLACING): "its placement group exists",
    (Phase.HELD, Phase.QUEUED): "planned again: other work took a device, and nothing else is free",
    (Phase.HELD, Phase.DEGRADED): "a part of it is lost",
    (Phase.HELD, Phase.RELEASING): "released, its program has ended, or nobody made its placement group in time",
    (Phase.HELD, Phase.GONE): "the same, with nothing to end",
    (Phase.PLACING, Phase.READY): "Ray has placed all its bundles",
    (Phase.PLACING, Phase.HELD): "planned again: Ray did not place it in time",
    (Phase.PLACING, Phase.PLACING): "other devices of the same nodes: other work took one",
    (Phase.PLACING, Phase.PROVISIONING): "planned again: Ray did not place it in time, or its workers failed",
    (Phase.PLACING, Phase.QUEUED): "planned again, and nothing else is free",
    (Phase.PLACING, Phase.DEGRADED): "a part of it is lost",
    (Phase.PLACING, Phase.RELEASING): "released, given up, its program has ended, or its placement group was removed",
    (Phase.PLACING, Phase.GONE): "the same, with no workers to end",
    (Phase.READY, Phase.PLACING): "Ray places a part of it again",
    (Phase.READY, Phase.HELD): "its program changes its shape: it has the next one",
    (Phase.READY, Phase.PROVISIONING): "the same; its workers stay",
    (Phase.READY, Phase.DEGRADED): "a part of it is lost",
    (Phase.READY, Phase.QUEUED): "preempted: its devices are given back for another gang, after notice",
    (Phase.READY, Phase.RELEASING): "released, its program has ended, or its placement group was removed",
    (Phase.READY, Phase.GONE): "the same, with no workers to end",
    (Phase.DEGRADED, Phase.PROVISIONING): "planned again, or its workers are made again after a restart",
    (Phase.DEGRADED, Phase.HELD): "what was lost is back, or planned again: Ray did not place it",
    (Phase.DEGRADED, Phase.PLACING): "what was lost is back, or its placement group exists",
    (Phase.DEGRADED, Phase.READY): "what was lost is back",
    (Phase.DEGRADED, Phase.QUEUED): "planned again, and nothing else is free",
    (Phase.DEGRADED, Phase.RELEASING): "released, given up, its program has ended, or its placement group was removed",
    (Phase.DEGRADED, Phase.GONE): "the same, with no workers to end",
    (Phase.PLACING, Phase.DRAINING): "Ray places a part of it again, and it has notice of a fault",
    (Phase.READY, Phase.DRAINING): "it has notice of a fault",
    (Phase.DEGRADED, Phase.DRAINING): "the same, or something can be done about it now",
    (Phase.DEGRADED, Phase.REPAIRING): "lost workers are replaced, which could not be before",
    (
        Phase.DRAINING,
        Phase.PLACING,
    ): "started again elsewhere, or the notice is taken back while Ray places a part of it",
    (Phase.DRAINING, Phase.READY): "the notice is taken back",
    (Phase.DRAINING, Phase.REPAIRING): "lost workers are replaced",
    (Phase.REPAIRING, Phase.READY): "the lost workers are replaced, and Ray has placed their bundles again",
    (Phase.REPAIRING, Phase.PLACING): "the same, or started again elsewhere",
    (Phase.REPAIRING, Phase.DRAINING): "the lost workers are replaced or cannot be, and it has notice of a fault",
    (Phase.REPAIRING, Phase.DEGRADED): "the lost workers cannot be replaced",
    (Phase.REPAIRING, Phase.PROVISIONING): "started again: its workers are made anew",
    (Phase.REPAIRING, Phase.HELD): "started again elsewhere",
    (Phase.REPAIRING, Phase.QUEUED): "started again, and nothing else is free",
    (Phase.REPAIRING, Phase.QUOTA): "its quota was taken back; asked again",
    (Phase.REPAIRING, Phase.RELEASING): "released, given up, its program has ended, or its placement group was removed",
    (Phase.REPAIRING, Phase.GONE): "the same, with no workers to end",
    (Phase.DRAINING, Phase.DEGRADED): "a part of it is lost, and the notice is taken back, or nothing can be done now",
    (Phase.DRAINING, Phase.PROVISIONING): "started again: its workers are made anew",
    (Phase.DRAINING, Phase.HELD): "started again elsewhere",
    (Phase.DRAINING, Phase.QUEUED): "started again, and nothing else is free",
    (Phase.DRAINING, Phase.QUOTA): "its quota was taken back; asked again",
    (Phase.DRAINING, Phase.RELEASING): "released, given up, its program has ended, or its placement group was removed",
    (Phase.DRAINING, Phase.GONE): "the same, with no workers to end",
    (Phase.RELEASING, Phase.GONE): "Ray has ended its workers, and nothing made for it is left",
}
"""Every change of phase that may happen, and why it does. Those that change a record are enforced by `check_change`."""
