"""A kubeconfig for the HTTP servers that stand for an API server here."""

from __future__ import annotations

import json
from http.server import HTTPServer
from pathlib import Path


def kubeconfig(server: HTTPServer, folder: Path) -> str:
    """The path of a kubeconfig, written into `folder`, that leads to this server."""
    return kubeconfig_of(server.server_address[1], folder)


def kubeconfig_of(port: int, folder: Path) -> str:
    """The same, to this port of this machine."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {}}],
    }
    path = folder / "config"
    path.write_text(json.dumps(config))
    return str(path)
