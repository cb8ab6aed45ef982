"""Processes that are kept alive, by supervisord: what systemd is on a machine of its own.

A process that dies is started again; each has a log file. They are stopped by SIGKILL: what they would save on their
way out is thrown away. Neighbours: `cluster.py` and `nodes.py` write what is to run.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import Faults, SupervisorTransport

SUPERVISORD = str(Path(sys.executable).parent / "supervisord")

_MAIN = """\
[unix_http_server]
file = {folder}/supervisor.sock
[supervisord]
nodaemon = true
silent = true
logfile = {folder}/logs/supervisord.log
pidfile = {folder}/supervisord.pid
childlogdir = {folder}/logs
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[include]
files = {folder}/programs/*.conf
"""

_PROGRAM = """\
[program:{name}]
command = {command}
directory = {folder}
environment = {environment}
autostart = {autostart}
autorestart = true
startsecs = 1
startretries = 1000000
stopsignal = KILL
redirect_stderr = true
stdout_logfile = {folder}/logs/{name}.log
stdout_logfile_maxbytes = 50MB
stdout_logfile_backups = 0
"""


@dataclass(frozen=True)
class Program:
    """One process: started at once or when told, started again whenever it ends."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    autostart: bool = False


class Supervisor:
    """The supervisord of `folder`, seen from outside: files to write before it starts, and its remote control."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, programs: Sequence[Program] = ()) -> list[str]:
        """Write the configuration; the command that runs it."""
        for name in ("logs", "programs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "supervisord.conf").write_text(_MAIN.format(folder=self.folder))
        for program in programs:
            self._write(program)
        return [SUPERVISORD, "-n", "-c", str(self.folder / "supervisord.conf")]

    def _write(self, program: Program) -> None:
        quoted = ",".join(f'{k}="{v}"' for k, v in {"PATH": os.environ["PATH"], **program.environment}.items())
        text = _PROGRAM.format(
            name=program.name,
            command=shlex.join(program.command).replace("%", "%%"),
            folder=self.folder,
            environment=quoted.replace("%", "%%"),
            autostart=str(program.autostart).lower(),
        )
        (self.folder / "programs" / f"{program.name}.conf").write_text(text)

    @property
    def rpc(self) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self.folder}/supervisor.sock")
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor

    def wait(self, seconds: float = 30.0) -> None:
        """Until it answers. TimeoutError otherwise."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.rpc.getState()
                return
            except (OSError, xmlrpc.client.Error) as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"supervisord in {self.folder} does not answer") from error
                time.sleep(0.02)

    def add(self, program: Program) -> None:
        """A new program, started at once."""
        self._write(program)
        self.rpc.reloadConfig()
        self.rpc.addProcessGroup(program.name)
        self.start(program.name)

    def start(self, name: str) -> None:
        with _unless(Faults.ALREADY_STARTED):
            self.rpc.startProcess(name, False)

    def stop(self, name: str) -> None:
        with _unless(Faults.NOT_RUNNING):
            self.rpc.stopProcess(name, True)

    def signal(self, name: str, signal: str = "KILL") -> None:
        """Send a signal behind the supervisor's back, so that it sees a process die and starts it again."""
        with _unless(Faults.NOT_RUNNING):
            self.rpc.signalProcess(name, signal)


@contextlib.contextmanager
def _unless(fault: int) -> Any:
    try:
        yield
    except xmlrpc.client.Fault as error:
        if error.faultCode != fault:
            raise
