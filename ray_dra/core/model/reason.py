"""What can be short, and where: the vocabulary of shortfalls."""

from __future__ import annotations

import enum


class ShortfallKind(enum.Enum):
    """What was short."""

    DEVICES = "devices"
    NODE_SIZE = "devices on one node"
    PRODUCT = "product"
    DEVICE_CLASS = "device class"
    ATTRIBUTE = "device attribute"
    MATCHING = "devices that will do"
    LABELS = "node labels"
    RESOURCES = "resources"
    CLIQUE = "room in one clique"
    CLIQUE_UNKNOWN = "known clique"
    SEGMENT = "room for segments"
    CLIQUES = "room in so few cliques"
    EXCLUSIVE = "empty cliques"
    CONNECTED = "linked devices"
    NODES = "nodes"
    PACKING = "packing"
    BOUND = "search bound"
    QUEUE = "turn"
    PATIENCE = "patience"
    WORKERS = "workers"
    SET = "groups of a set"
    PARTS = "parts of GPUs"
    SHARES = "shares of GPUs"
    QUOTA = "quota"
    LIMIT = "limit"
    POOL = "shared GPUs"


class PlaceKind(enum.Enum):
    """What a place is, and so what its id is."""

    CLUSTER = "cluster"
    NODE = "node"
    CLIQUE = "clique"
    CLIQUES = "cliques"
    BUNDLE = "bundle"
    GANG = "gang"
    QUEUE = "queue"
    KUBERNETES = "kubernetes"
    RAY = "ray"
    OUTSIDE = "outside"
    POOL = "pool"


class Choice(enum.Enum):
    """Why this node or clique is named, of all there are."""

    MOST_FREE = "most free"
    MOST = "most"
    BEST_LINKED = "best-linked"
    ROOMIEST = "roomiest"
    BEST = "best"
