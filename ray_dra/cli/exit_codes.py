"""With what `ray-dra` ends, so that a script can tell a no from a cluster that is not there."""

from __future__ import annotations

from ray_dra.errors import (
    GangGone,
    GangTimeout,
    InvalidAddress,
    InvalidRequest,
    InvalidSnapshot,
    NameTaken,
    RayDraError,
    UnsatisfiableError,
)

YES, NO, USAGE, UNREACHABLE, WRONG_FILE = 0, 1, 2, 3, 4
FAULT = 70  # of ray-dra's own, as in sysexits.h
INTERRUPTED = 130  # by ctrl-C, as shells have it
NO_READER = 141  # whoever reads the answer has gone (`| head`): as shells have it for SIGPIPE

EXIT_CODES = (
    "Ends with 0 for yes, 1 for no (it does not fit, there is no such gang, a check failed), 2 for wrong usage, 3 where"
    " a cluster, a coordinator or a driver does not answer or refuses, 4 for a file that cannot be read or written."
    " Errors go to stderr."
)


def exit_code(error: RayDraError) -> int:
    """The exit code of an error."""
    if isinstance(error, UnsatisfiableError | GangGone | GangTimeout):
        return NO
    if isinstance(error, InvalidRequest | InvalidAddress | NameTaken):
        return USAGE
    if isinstance(error, InvalidSnapshot):
        return WRONG_FILE
    return UNREACHABLE
