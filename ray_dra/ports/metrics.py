"""What is counted, for whoever collects metrics: the lists of them, and the port by which they leave.

METRICS are the coordinator's; AGENT_METRICS and DRIVER_METRICS those of programs with a port of their own. Prometheus
reads each as `ray_dra_` and its name: Ray adds `ray_` to what it exports. No label has a gang's name, a
node's or a UUID, so that the number of series is bounded; queues of teams are at most 1,000.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Protocol

PREFIX = "ray_dra_"


class Kind(Enum):
    """As in Prometheus. A counter's name ends with `_total`, a histogram's with its unit."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


def _steps(least: float, decades: int) -> tuple[float, ...]:
    return tuple(least * 10**power * step for power in range(decades) for step in (1, 2, 5))


WAITS = _steps(0.1, 5)  # from a tenth of a second to over an hour
DECISIONS = _steps(0.0001, 5)


class Metric(NamedTuple):
    """`what`: for people; `labels`: their names, in the order in which values are given; `bounds`: upper ends of a
    histogram's buckets, in seconds."""

    name: str
    kind: Kind
    what: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = WAITS


BUILD_INFO = Metric("build_info", Kind.GAUGE, "1; the versions of the coordinator that runs.", ("version", "ray"))
GANGS = Metric("gangs", Kind.GAUGE, "Gangs in each phase.", ("phase",))
STAGE_SECONDS = Metric(
    "gang_stage_seconds", Kind.HISTOGRAM, "Time of a gang in a stage on its way to readiness.", ("stage",)
)
READY_SECONDS = Metric("gang_ready_seconds", Kind.HISTOGRAM, "Time from a gang's call to its readiness.")
MOVES = Metric("gang_moves_total", Kind.COUNTER, "Gangs that were planned again after their devices were held.")
ENDS = Metric("gang_ends_total", Kind.COUNTER, "Gangs that ended: released, or failed.", ("outcome",))
NOTICES = Metric("gang_notices_total", Kind.COUNTER, "Notices to gangs' programs that they, or a part, will end.")
REPAIRS = Metric("gang_repairs_total", Kind.COUNTER, "Times that something was done about a gang's fault.")
REFUSALS = Metric("refusals_total", Kind.COUNTER, "Calls that were refused, by the error's type.", ("kind",))
PLAN_SECONDS = Metric("plan_seconds", Kind.HISTOGRAM, "Time of a decision on who gets devices.", ("result",), DECISIONS)
QUEUE_GANGS = Metric("queue_gangs", Kind.GAUGE, "Gangs that wait for devices.")
QUEUE_GPUS = Metric("queue_gpus", Kind.GAUGE, "GPUs for which gangs wait.")
QUEUE_WAIT = Metric("queue_longest_wait_seconds", Kind.GAUGE, "For how long the gang that waits longest has waited.")
TEAM_GPUS = Metric(
    "team_gpus", Kind.GAUGE, "GPUs of a queue of a team: guaranteed, used, borrowed, wanted.", ("queue", "state")
)
TEAM_GANGS = Metric("team_queue_gangs", Kind.GAUGE, "Gangs that wait in the queue of a team.", ("queue",))
GPUS = Metric("gpus", Kind.GAUGE, "GPUs by state; together all that are known.", ("state",))
CLIQUES = Metric("cliques", Kind.GAUGE, "NVLink cliques by state: free, partly, full.", ("state",))
LARGEST = Metric("largest_gang_gpus", Kind.GAUGE, "Free GPUs of the clique, or node without one, that has most.")
FRAGMENTATION = Metric(
    "fragmentation_ratio",
    Kind.GAUGE,
    "Share of the free GPUs in cliques, or on nodes without one, of which others have GPUs.",
)
SILENT = Metric("agents_silent", Kind.GAUGE, "Raylets with GPUs whose agent says nothing.")
LEASE = Metric("lease_held", Kind.GAUGE, "1 while this coordinator has the RayCluster's lease; it writes nothing else.")
WATCH_AGE = Metric("watch_age_seconds", Kind.GAUGE, "Time since the API server last said anything.", ("kind",))
REQUESTS = Metric("api_requests_total", Kind.COUNTER, "Requests to the API server.", ("verb", "kind", "code"))

METRICS = (
    BUILD_INFO,
    GANGS,
    STAGE_SECONDS,
    READY_SECONDS,
    MOVES,
    ENDS,
    NOTICES,
    REPAIRS,
    REFUSALS,
    PLAN_SECONDS,
    QUEUE_GANGS,
    QUEUE_GPUS,
    QUEUE_WAIT,
    TEAM_GPUS,
    TEAM_GANGS,
    GPUS,
    CLIQUES,
    LARGEST,
    FRAGMENTATION,
    SILENT,
    LEASE,
    WATCH_AGE,
    REQUESTS,
)

# -- of the topology agent, at a port of its own

AGENT_INFO = Metric("topology_build_info", Kind.GAUGE, "1; the version of the topology agent that runs.", ("version",))
AGENT_READINGS = Metric(
    "topology_readings_total", Kind.COUNTER, "Answers of NVML: changed, same, or failed.", ("result",)
)
AGENT_ANSWERED = Metric(
    "topology_answered_timestamp_seconds", Kind.GAUGE, "When NVML last answered without an error, since 1970."
)
AGENT_GPUS = Metric("topology_gpus", Kind.GAUGE, "GPUs that NVML shows.")
AGENT_PUBLISHED = Metric(
    "topology_published_timestamp_seconds", Kind.GAUGE, "When the topology was last written, since 1970."
)
AGENT_METRICS = (AGENT_INFO, AGENT_READINGS, AGENT_ANSWERED, AGENT_GPUS, AGENT_PUBLISHED, REQUESTS)

# -- of the simulated driver, at a port of its own

DRIVER_INFO = Metric(
    "simulated_build_info", Kind.GAUGE, "1; the version of the simulated driver that runs.", ("version",)
)
DRIVER_DEVICES = Metric("simulated_devices", Kind.GAUGE, "Devices that are published.", ("driver",))
DRIVER_CLAIMS = Metric("simulated_claims", Kind.GAUGE, "Claims that are prepared for pods.", ("driver",))
DRIVER_CALLS = Metric(
    "simulated_call_seconds",
    Kind.HISTOGRAM,
    "Time of the kubelet's calls about one claim: prepare or unprepare, ok or failed.",
    ("driver", "call", "result"),
    DECISIONS,
)
DRIVER_FAULTS = Metric("simulated_faults", Kind.GAUGE, "Things wrong with the simulated machine now.", ("kind",))
DRIVER_METRICS = (DRIVER_INFO, DRIVER_DEVICES, DRIVER_CLAIMS, DRIVER_CALLS, DRIVER_FAULTS, REQUESTS)


class Metrics(Protocol):
    """See the module. From any thread; no call raises."""

    def alive(self) -> None:
        """The process lives, and is of these versions (BUILD_INFO). At the end of each look."""

    def put(self, metric: Metric, value: float, *labels: str) -> None:
        """A gauge is this now. Said again at each look, or every few seconds."""

    def count(self, metric: Metric, *labels: str) -> None:
        """One more of a counter."""

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """One value more of a histogram."""


class _NoMetrics:
    """Nobody collects any."""

    def alive(self) -> None: ...
    def put(self, metric: Metric, value: float, *labels: str) -> None: ...
    def count(self, metric: Metric, *labels: str) -> None: ...
    def observe(self, metric: Metric, value: float, *labels: str) -> None: ...


NO_METRICS: Metrics = _NoMetrics()
