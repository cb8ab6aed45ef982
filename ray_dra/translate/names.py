"""Every name that ray-dra shares with somebody else, and nothing else: labels and annotations, environment variables,
API versions, and keys of the store. What is a GPU vendor's own, `vendors.py` has.

No other file spells one (tests/translate/test_names.py holds it). What stands beside a name says whose it is and who
writes it.
"""

from __future__ import annotations

VERSION = "0.1.0"
"""Of ray-dra; pyproject.toml has the same."""

# -- labels of Ray nodes

GPU_DOMAIN = "ray.io/gpu-domain"  # Ray's; its value is the clique. Pods of gangs carry it, too
ACCELERATOR_TYPE = "ray.io/accelerator-type"  # Ray's
RAY_NODE_ID = "ray.io/node-id"  # Ray's, and new for every raylet
NODE_LABEL = "ray-dra.io/node"  # ours: the node's name, which a restarted raylet keeps
SLOT_LABEL = "ray-dra.io/slot"  # ours, on Kubernetes, of pods and claims, too: an attempt's place for one worker
TRAY_LABEL = "ray-dra.io/tray"  # ours: the tray in the rack
LOCALITY_LABEL = (
    "ray-dra.io/locality"  # ours, in ordinary groups' label selectors, and annotation of RayClusters: their policy
)

# -- Ray's resources

HEAD_RESOURCE = "node:__internal_head__"  # Ray's, of the head's raylet alone
DOMAIN_RESOURCE = "nvlink_domain_"  # + ClusterUUID; NeMo-RL's, which places by it, as by the next: 1 of it
TOPOLOGY_RESOURCE = "topo_rank"  # NeMo-RL's: as many as the node's place among its neighbours, from 1

# -- labels, annotations and gates of Kubernetes objects

OUR_PREFIX = "ray-dra.io/"  # of all names of ours
GANG_LABEL = "ray-dra.io/gang"  # ours, of all objects of a gang: its id
ATTEMPT_LABEL = "ray-dra.io/attempt"  # ours: one try at the gang; every object of the try carries it
NAMESPACE_LABEL = "ray-dra.io/namespace"  # ours, of objects without a namespace: that of their RayCluster
CLUSTER_LABEL = "ray-dra.io/raycluster"  # ours: the RayCluster that the gang belongs to
KUEUE_PREFIX = "kueue.x-k8s.io/"  # Kueue's, of all that it writes into a queued RayCluster's groups
KUEUE_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"  # the user's, of what Kueue is to queue
KUBERAY_GANG_LABEL = "ray.io/gang-scheduling-enabled"  # the user's, of the RayCluster, as the next: for KubeRay's batch
KUBERAY_SCHEDULER_LABEL = "ray.io/scheduler-name"  # schedulers
VOLCANO_QUEUE_LABEL = "volcano.sh/queue-name"  # the user's, of what Volcano is to queue
YUNIKORN_LABEL = "yunikorn.apache.org/app-id"  # the user's, of what YuniKorn is to queue
KAI_QUEUE_LABEL = "kai.scheduler/queue"  # the user's, of what KAI is to queue; ours, of gangs' pods and claims
KAI_SCHEDULER = "kai-scheduler"  # the name by which pods choose KAI
KAI_SKIP_ANNOTATION = "kai.scheduler/skip-podgrouper"  # KAI's, of pods: "true" where it is not to group them itself
KAI_POD_GROUP_ANNOTATION = "pod-group-name"  # KAI's, of pods: their PodGroup
KAI_EVICTION_ANNOTATION = "kai.scheduler/last-eviction-timestamp"  # KAI's, of PodGroups: when it ended their pods
KAI_PRIORITIES_ANNOTATION = "ray-dra.io/kai-priority-classes"  # the user's, of the RayCluster: which gangs have which
GANG_SCHEDULING_ANNOTATION = "ray-dra.io/gang-scheduling"  # the user's, of the RayCluster: "true": in-tree PodGroups
QUEUE_ANNOTATION = "ray-dra.io/queue"  # the user's, of the RayCluster: the queue that its gangs are paid from
GUARD_TAINT = "ray-dra.io/guard"  # ours, a taint of devices whose gang's claims change; its value says whose
GATE = "ray-dra.io/gang"  # ours, a scheduling gate of the pods, opened for the whole gang at once
TEMPLATE_ANNOTATION = "ray-dra.io/worker-template"  # the user's, of the RayCluster: the worker group to copy
WRITES_AT_ONCE_ANNOTATION = "ray-dra.io/writes-at-once"  # the user's, of the RayCluster, as the next: limits of ours
WRITES_PER_SECOND_ANNOTATION = "ray-dra.io/writes-per-second"
ON_FAULT_LABEL = "ray-dra.io/on-fault"  # ours, as the locality's: what is done about faults
SCHEDULE_ANNOTATION = "ray-dra.io/schedule"  # the user's, of the RayCluster: when its gangs have which shape
SPARES_ANNOTATION = "ray-dra.io/spares"  # the user's, of the RayCluster: how many nodes of each clique are spares
SPARE_LABEL = "ray-dra.io/spare"  # the user's, of Nodes: "true" makes it a spare
WARM_ANNOTATION = "ray-dra.io/warm-image"  # the user's, of the RayCluster: "true" has nodes pull workers' images early
WARM_LABEL = "ray-dra.io/warm"  # ours, of the pods that do: which images
DEFAULT_TEMPLATE = "ray-dra"  # the name of that worker group where there is no annotation
PASSTHROUGH_LABEL = (
    "ray-dra.io/passthrough"  # ours, of nodes as the planner sees them: their GPUs can be passed through
)
TOPOLOGY_LABEL = "ray-dra.io/topology"  # ours, label and annotation of ConfigMaps with a node's links
FABRIC_TIER_LABEL = "fabric.topograph.run/tier-"  # topograph's, of nodes, + 0, 1, ...: their switches, outwards
PROBLEMS_ANNOTATION = "ray-dra.io/problems"  # ours, of the lease: what its holder cannot see as it should
GROUP_LABEL = "ray.io/group"  # KubeRay's, of its pods: their worker group
KUBERAY_CLUSTER_LABEL = "ray.io/cluster"  # KubeRay's, of its pods: their RayCluster
KUBERAY_NODE_TYPE_LABEL = "ray.io/node-type"  # KubeRay's, of its pods: head or worker
KUBERAY_NODE_LABEL = "ray.io/is-ray-node"  # KubeRay's, of its pods
KUBERAY_IDENTIFIER_LABEL = "ray.io/identifier"  # KubeRay's, of its pods: their RayCluster and type
KUBERAY_REPLICA_LABEL = "ray.io/worker-group-replica-index"  # KubeRay's, of its workers
KUBERAY_SERVING_LABEL = "ray.io/serve"  # KubeRay's, of its pods: traffic of a RayService may go there
KUBERAY_ORIGIN_LABEL = "ray.io/originated-from-crd"  # KubeRay's, of RayClusters: the kind that made them
KUBERAY_ORIGIN_NAME_LABEL = "ray.io/originated-from-cr-name"  # KubeRay's, of RayClusters: its name
KUBERAY_VERSION_ANNOTATION = "ray.io/kuberay-version"  # KubeRay's, of heads' pods
APPLICATION_LABEL = "app.kubernetes.io/name"
CREATED_BY_LABEL = "app.kubernetes.io/created-by"
FAULT_TOLERANCE_ANNOTATION = "ray.io/ft-enabled"  # the user's, of the RayCluster
OWN_COMMAND_ANNOTATION = "ray.io/overwrite-container-cmd"  # the user's: KubeRay leaves the containers' command
DRIVER_ANNOTATION = "ray-dra.io/driver"  # the user's, of the RayCluster: the DRA driver whose GPUs its gangs have

# -- API groups and versions of what we make besides Kubernetes' own kinds

RAY_GROUP = "ray.io"
RAY_API = f"{RAY_GROUP}/v1"
RAY_API_UNWATCHED = f"{RAY_GROUP}/v1alpha1"  # KubeRay serves it, too, and Kueue does not look for it
NVSENTINEL_API = "nvsentinel.nvidia.com/v1alpha1"
NVSENTINEL_STATE_LABEL = "dgxc.nvidia.com/nvsentinel-state"  # of a node
KUEUE_GROUP = "kueue.x-k8s.io"
KUEUE_API = f"{KUEUE_GROUP}/v1beta2"
SCHEDULING_GROUP = "scheduling.k8s.io"
POD_GROUP_APIS = (f"{SCHEDULING_GROUP}/v1beta1", f"{SCHEDULING_GROUP}/v1alpha2")  # those with in-tree PodGroups
KAI_GROUP = "scheduling.run.ai"
KAI_API = f"{KAI_GROUP}/v2alpha2"
SANDBOX_GROUP = "agents.x-k8s.io"
SANDBOX_API = f"{SANDBOX_GROUP}/v1beta1"
SANDBOX_TEMPLATE_API = f"extensions.{SANDBOX_GROUP}/v1beta1"
COMPUTE_DOMAIN_GROUP = "resource.nvidia.com"
COMPUTE_DOMAIN_API = f"{COMPUTE_DOMAIN_GROUP}/v1beta1"
DOMAIN_DRIVER = "compute-domain.nvidia.com"

# -- environment variables

START_HOOK_VARIABLE = "RAY_START_HOOK"  # Ray's: what it calls before a raylet starts
NODE_VARIABLE = "RAY_DRA_NODE"  # ours, in gangs' pods: the Kubernetes node
LOCALITY_VARIABLE = "RAY_DRA_LOCALITY"  # ours: the policy of the ordinary placement groups that a process makes
DRIVER_HOOK_VARIABLE = "RAY_RUNTIME_ENV_HOOK"  # Ray's: what it calls in a program that connects
DEFAULT_LOCALITY_VARIABLE = "RAY_DRA_DEFAULT_LOCALITY"  # ours, on the head: the policy where nobody says one
ON_FAULT_VARIABLE = "RAY_DRA_ON_FAULT"  # ours: what is done about faults of the ordinary groups that a process makes
SCHEDULE_VARIABLE = "RAY_DRA_SCHEDULE"  # ours, on the head: when gangs have which of their named shapes
DEFAULT_ON_FAULT_VARIABLE = (
    "RAY_DRA_DEFAULT_ON_FAULT"  # ours, on the head: the same, of all gangs for which nobody says it
)
LEVELS_VARIABLE = "RAY_DRA_LEVELS"  # ours, on the head: labels of nodes that name the levels above cliques, or off
BACKFILL_VARIABLE = "RAY_DRA_BACKFILL"  # ours, on the head: how many waiting gangs may be asked to overtake, or off
CONSOLIDATION_VARIABLE = "RAY_DRA_CONSOLIDATION"  # ours, on the head: how many gangs are moved for others, or off
PREEMPTION_VARIABLE = "RAY_DRA_PREEMPTION"  # ours, on the head: how often, and when, gangs are preempted
LEARN_VARIABLE = "RAY_DRA_LEARN"  # ours, on the head: whether run times are guessed from earlier runs, or off
PATIENCE_VARIABLE = "RAY_DRA_PATIENCE"  # ours, on the head: what a clique is worth, or off
QUEUES_VARIABLE = "RAY_DRA_QUEUES"  # ours, on the head: the queues of teams, or the absolute path of a file with them
RAYCLUSTER_LOCALITY_VARIABLE = "RAY_DRA_RAYCLUSTER_LOCALITY"  # ours, on a head of KubeRay's: the policy it started with
SLOT_VARIABLE = "RAY_DRA_SLOT"  # ours, in gangs' pods: the slot for which the raylet is
OTLP_ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")  # OpenTelemetry's
OTLP_SERVICE_VARIABLE = "OTEL_SERVICE_NAME"  # OpenTelemetry's
LOG_FORMAT_VARIABLE = "RAY_DRA_LOG_FORMAT"  # ours, on the head: how the coordinator's log is written, text or json
METRICS_PORT_VARIABLE = "RAY_DRA_METRICS_PORT"  # ours, of programs of DaemonSets: where Prometheus scrapes them
PROGRESS_VARIABLE = "RAY_DRA_PROGRESS"  # ours: "0" keeps `gang.wait` from showing a line in a terminal
BACKEND_LOG_VARIABLE = "RAY_BACKEND_LOG_LEVEL"  # Ray's: what its C++ prints
RAY_ADDRESS_VARIABLE = "RAY_ADDRESS"  # Ray's
GCS_ADDRESS_VARIABLE = "RAY_GCS_ADDRESS"  # Ray's
USE_TLS_VARIABLE = "RAY_USE_TLS"  # Ray's
AUTH_MODE_VARIABLE = "RAY_AUTH_MODE"  # Ray's
AUTH_TOKEN_VARIABLE = "RAY_AUTH_TOKEN"  # Ray's
AUTH_TOKEN_PATH_VARIABLE = "RAY_AUTH_TOKEN_PATH"  # Ray's
NO_IMPORT_WARNING_VARIABLE = "RAY_DISABLE_IMPORT_WARNING"  # Ray's
WORKER_HOOK_VARIABLE = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"  # Ray's: what it calls in a worker process
CLUSTER_NAME_VARIABLE = "RAY_CLUSTER_NAME"  # KubeRay's, in its pods
CLUSTER_NAMESPACE_VARIABLE = "RAY_CLUSTER_NAMESPACE"  # KubeRay's, in its pods
HEAD_HOST_VARIABLES = ("FQ_RAY_IP", "RAY_IP")  # KubeRay's, in its pods; the first that is set
HEAD_PORT_VARIABLE = "RAY_PORT"  # KubeRay's, in its pods
INSTANCE_VARIABLE = "RAY_CLOUD_INSTANCE_ID"  # KubeRay's, in its pods, for Ray's autoscaler, as the next
NODE_TYPE_VARIABLE = "RAY_NODE_TYPE_NAME"
AUTOSCALER_VARIABLE = "RAY_enable_autoscaler_v2"  # Ray's, on the head; KubeRay's heads run version 2 without it
START_COMMAND_VARIABLE = "KUBERAY_GEN_RAY_START_CMD"  # KubeRay's, in its pods
USAGE_VARIABLE = "RAY_USAGE_STATS_KUBERAY_IN_USE"  # Ray's, set by KubeRay, as the next
DISK_USAGE_VARIABLE = "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE"
USAGE_TAGS_VARIABLE = "RAY_USAGE_STATS_EXTRA_TAGS"  # Ray's, set by KubeRay to its version
OPEN_FILES_VARIABLE = "RAY_START_ULIMIT_OPEN_FILES"  # KubeRay's, since 1.7
GCS_RECONNECT_VARIABLE = "RAY_gcs_rpc_server_reconnect_timeout_s"  # Ray's, set by KubeRay
KUBERNETES_TOKEN_VARIABLE = "RAY_ENABLE_K8S_TOKEN_AUTH"  # Ray's, set by KubeRay
KUBERAY_TOKEN_FOLDER = "/var/run/secrets/ray.io/serviceaccount"  # KubeRay's, in its pods
SERVE_VARIABLES = (  # Ray's, set by KubeRay in pods of a RayService
    ("RAY_timeout_ms_task_wait_for_death_info", "0"),
    ("RAY_gcs_server_request_timeout_seconds", "5"),
    ("RAY_SERVE_KV_TIMEOUT_S", "5"),
)
TLS_VARIABLES = (  # Ray's, set by KubeRay where it makes the certificates
    (USE_TLS_VARIABLE, "1"),
    ("RAY_TLS_SERVER_CERT", "/etc/ray/tls/tls.crt"),
    ("RAY_TLS_SERVER_KEY", "/etc/ray/tls/tls.key"),
    ("RAY_TLS_CA_CERT", "/etc/ray/tls/ca.crt"),
)
KUBERAY_TLS_VOLUME = "ray-tls"  # KubeRay's, of its pods, since 1.7
HEADS_VARIABLES = frozenset(  # KubeRay's, in its pods before the ones that all have, by what the RayCluster asks for
    {
        AUTH_MODE_VARIABLE,
        AUTH_TOKEN_VARIABLE,
        KUBERNETES_TOKEN_VARIABLE,
        *dict(TLS_VARIABLES),
        "RAY_external_storage_namespace",
        "RAY_REDIS_ADDRESS",
        "REDIS_USERNAME",
        "REDIS_PASSWORD",
        "RAY_gcs_storage",
        "RAY_gcs_storage_path",
        "RAY_enable_autoscaler_v2",
    }
)
RAY_VARIABLES = r"(?:FQ_)?RAY_|KUBERAY_"  # how Ray's and KubeRay's begin
VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"  # CUDA's
MPS_VARIABLE = "CUDA_MPS_PIPE_DIRECTORY"  # in a container whose GPUs are shared by MPS
MPS_THREADS_VARIABLE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"  # what a client of MPS may use of its GPU
MPS_MEMORY_VARIABLE = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"  # and have of its memory
MIG_PREFIX = "MIG-"  # of parts' UUIDs, and of Ray's resource of parts of a profile, e.g. MIG-1g.10gb
PART_PROFILES_VARIABLE = "RAY_DRA_PART_PROFILES"  # ours, of a raylet's workers: the profile of each GPU id's part
DEVICE_ORDER_VARIABLE = "CUDA_DEVICE_ORDER"  # CUDA's
KUBECONFIG_VARIABLE = "KUBECONFIG"  # Kubernetes' clients'
POD_NODE_VARIABLE = "NODE_NAME"  # ours, of the topology daemon by the downward API, as the three below
POD_NAMESPACE_VARIABLE = "POD_NAMESPACE"
POD_NAME_VARIABLE = "POD_NAME"
POD_UID_VARIABLE = "POD_UID"
POD_ADDRESS_VARIABLE = "POD_IP"  # KubeRay's, of an init container

# -- what makes a machine a simulated one

SIMULATED_PROFILE_LABEL = "ray-dra.io/simulated-profile"  # ours, of Nodes: the machine that the driver simulates
SIMULATED_RACK_LABEL = "ray-dra.io/simulated-rack"
SIMULATED_TRAY_LABEL = "ray-dra.io/simulated-tray"
SIMULATED_NVML_VARIABLE = "RAY_DRA_SIMULATED_NVML"  # ours: the file that the simulated NVML reads
SIMULATED_VISIBLE_VARIABLE = "RAY_DRA_SIMULATED_VISIBLE"  # ours: which of its GPUs a container may see

# -- keys of the store; what is stored under each, `translate.files.records` says

GANG_KEY = "gang/"  # + gang: its record
MAP_KEY = "map/"  # + placement group: each bundle's devices; worker hooks read it
NODE_KEY = "node/"  # + raylet: its node
GPU_IDS_KEY = "gpu_ids/"  # + raylet: the device that each of its GPU ids means
FAILED_KEY = "failed/"  # + gang: why it was given up; whoever waits for it asks after its end
SESSION_KEY = "session/"  # + job: it uses ray-dra
LOCALITY_KEY = "locality/"  # + job: its ordinary placement groups are planned, and by which policy
EVERY_JOB = "every"  # in place of a job there: the cluster's default, for the programs of which the store has none
QUEUES_KEY = "queues/"  # + declared: the queues of teams that held last
ASIDE_KEY = "aside/"  # + the key that it had: a record that cannot be read
SLOT_KEY = "slot/"  # + slot: what the gang's pod must find there by NVML; its start hook reads it
VERIFIED_KEY = "verified/"  # + slot: it did; its start hook writes it
GO_KEY = "go/"  # + attempt: the barrier is open; start hooks wait for it
ATTEMPT_KEYS = (SLOT_KEY, VERIFIED_KEY, GO_KEY)  # what the store may have of an attempt
