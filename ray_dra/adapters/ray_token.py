"""Ray's token authentication, for the time of one connection: the program's own settings stay as they were.

Ray reads the mode and the token from the environment once and keeps both inside its C++ library. So the environment is
set for as long as `ray.init` takes; what the library keeps serves the connection, and is read anew when that ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._private.authentication.authentication_token_setup import (
    ensure_token_if_auth_enabled,
    maybe_enable_token_auth_if_token_available,
)

from ray_dra.errors import ClusterUnavailable
from ray_dra.translate.names import AUTH_MODE_VARIABLE, AUTH_TOKEN_PATH_VARIABLE, AUTH_TOKEN_VARIABLE

MODE, TOKEN, TOKEN_PATH = VARIABLES = AUTH_MODE_VARIABLE, AUTH_TOKEN_VARIABLE, AUTH_TOKEN_PATH_VARIABLE


@contextmanager
def connection_token(address: str, token: Path | None) -> Iterator[None]:
    """What Ray is to send to the cluster at `address` while a connection to it is made.

    Args:
        address: host:port of the cluster's control store.
        token: the file with its token; None: as the program's environment says, and where that says nothing, the token
            that Ray finds by its own rule, if the cluster asks for one.

    Raises:
        ClusterUnavailable: the cluster asks for a token that this program does not have.
    """
    before = {name: os.environ.get(name) for name in VARIABLES}
    try:
        if token is not None:
            os.environ.pop(TOKEN, None)
            os.environ[MODE], os.environ[TOKEN_PATH] = "token", str(token)
        forget_token()
        if token is None and _refused(address):
            # Ray's rule changes nothing where the environment names a mode.
            maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
            if _refused(address):
                raise ClusterUnavailable(
                    "This Ray cluster asks for a token, and this program has none or another one.",
                    place=address,
                    wanted=f"the cluster's token, by {MODE}=token and {TOKEN} or {TOKEN_PATH}, or in ~/.ray/auth_token",
                    available=f"{MODE}={os.environ.get(MODE, '')}",
                )
        yield
    except BaseException:
        _restore(before)
        forget_token()
        raise
    _restore(before)


def _restore(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def forget_token() -> None:
    """Let Ray read mode and token again from the environment. In this order: a thread of a connection that ends would
    look for a token that is gone."""
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def _refused(address: str) -> bool:
    """Whether the control store refuses what Ray sends now, or there is no token to send; False where it does not
    answer at all."""
    try:
        ensure_token_if_auth_enabled(create_token_if_missing=False)  # Ray's library aborts the process without one
        ray._raylet.GcsClient(address=address).internal_kv_get(b"session_name", b"session")
    except ray.exceptions.AuthenticationError:
        return True
    except Exception:
        return False
    return False
