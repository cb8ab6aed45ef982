"""Commands from a laptop: with `--raycluster`, or as `kubectl ray-dra`, the RayCluster's head answers them.

`reaching` gives a command the four options that say which RayCluster, and has the head's own `ray-dra` run it, by
`adapters/pod_command.py`: nothing of Ray's is opened to the outside, and the head knows its token. What a command
reads from a file here travels along; what it writes is written here.
"""

from __future__ import annotations

import enum
import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer

from ray_dra.cli import connection
from ray_dra.cli.exit_codes import INTERRUPTED
from ray_dra.cli.terminal import STANDARD, said_options, say_as_it_is, write_file
from ray_dra.errors import InvalidSnapshot, NotFound

KUBECTL = "kubectl ray-dra"
"""How the program is called where kubectl calls it."""

Raycluster = Annotated[
    str,
    typer.Option(
        "--raycluster", metavar="NAME", help="From elsewhere, by the kubeconfig: the RayCluster whose head answers."
    ),
]
Namespace = Annotated[
    str,
    typer.Option(
        "--namespace", "-n", metavar="NAME", help="With --raycluster: its namespace; else that of the kubeconfig."
    ),
]
Kubeconfig = Annotated[
    str | None, typer.Option("--kubeconfig", metavar="FILE", help="With --raycluster; else $KUBECONFIG.")
]
Context = Annotated[
    str | None, typer.Option("--context", metavar="NAME", help="With --raycluster: a context of the kubeconfig.")
]
WHERE: Mapping[str, tuple[Any, Any]] = {
    "raycluster": (Raycluster, ""),
    "namespace": (Namespace, ""),
    "kubeconfig": (Kubeconfig, None),
    "kube_context": (Context, None),
}

# Standard input stays open for as long as somebody waits for the answer; at its end the command is ended, which would
# otherwise go on in the pod. So many bytes of it are a file that the command reads.
SCRIPT = """
exec 3<&0 4</dev/null
size=$1; shift
if [ "$size" -gt 0 ]; then
    file=$(mktemp) && head -c "$size" >"$file" && exec 4<"$file" && rm "$file" || exit 4
fi
python3 -m ray_dra.cli "$@" <&4 3<&- &
command=$!
{ cat <&3; kill "$command"; } >/dev/null 2>&1 &
watch=$!
wait "$command"
code=$?
kill "$watch" 2>/dev/null
exit "$code"
"""
FROM_HERE = "/dev/stdin"


class Files(NamedTuple):
    """Parameters of a command that name files. `instead`: what is looked at in place of a running cluster; `read`:
    what travels to the head; `written`: where its answer goes."""

    instead: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    written: str = ""


class Asked(NamedTuple):
    """Where a command is to be answered."""

    raycluster: str
    namespace: str
    kubeconfig: str | None
    context: str | None


def reaching(command: Callable[..., None], files: Files | None = None) -> Callable[..., None]:
    """The command with the options that say which RayCluster's head answers it."""
    names = files or Files()
    signature, hints = inspect.signature(command), get_type_hints(command, include_extras=True)
    own = [each.replace(annotation=hints[name]) for name, each in signature.parameters.items()]
    taken = {each.name for each in own}
    where = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in WHERE.items()
    ]
    context = [] if "context" in taken else [inspect.Parameter("context", own[0].kind, annotation=typer.Context)]

    @functools.wraps(command)
    def reached(**given: Any) -> None:
        asked = Asked(*(given.pop(name) for name in WHERE))
        here: typer.Context = given["context"] if "context" in taken else given.pop("context")
        if not _elsewhere(here, asked, names):
            command(**given)
            return
        _forward(here, asked, names)

    reached.__signature__ = signature.replace(parameters=[*context, *own, *where])  # type: ignore[attr-defined]
    reached.__annotations__ = {each.name: each.annotation for each in (*context, *own, *where)}
    return reached


def _elsewhere(context: typer.Context, asked: Asked, files: Files) -> bool:
    """Whether a head is to answer.

    Raises:
        BadParameter: two places are said, or half of one.
    """
    said = said_options(context)
    instead = [name for name in files.instead if context.params.get(name) is not None]
    here = ", ".join([*(_called(context, name) for name in instead), *({"--address"} & said)])
    options = sorted({"--raycluster", "--namespace", "--kubeconfig", "--context"} & said)
    if here and options:
        raise typer.BadParameter(f"{here} says another place already", param_hint=", ".join(options))
    if here:
        return False
    if asked.raycluster or of_kubectl(context):
        return True
    if options:
        raise typer.BadParameter("it belongs to --raycluster", param_hint=", ".join(options))
    return False


def of_kubectl(context: typer.Context) -> bool:
    return context.find_root().info_name == KUBECTL


def _called(context: typer.Context, name: str) -> str:
    parameter = next(each for each in context.command.params if each.name == name)
    return max(parameter.opts, key=len) if parameter.param_type_name == "option" else name.upper()


def words_of(context: typer.Context, without: frozenset[str]) -> list[str]:
    """The command as it was typed, without these parameters."""
    options: list[str] = []
    arguments: list[str] = []
    for parameter in context.command.params:
        name = parameter.name
        source = context.get_parameter_source(name) if name is not None else None
        if name is None or name in without or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[name]
        values = [each for each in (value if isinstance(value, list | tuple) else [value]) if each is not None]
        if parameter.param_type_name == "argument":
            arguments += map(_text, values)
        elif getattr(parameter, "is_flag", False):
            off = [each for each in parameter.secondary_opts if each.startswith("--")]
            options.append(max(parameter.opts, key=len) if value else off[0])
        else:
            options += [f"{max(parameter.opts, key=len)}={_text(each)}" for each in values]
    return [str(context.info_name), *options, *(["--", *arguments] if arguments else [])]


def _text(value: Any) -> str:
    return str(value.value if isinstance(value, enum.Enum) else value)


def _forward(context: typer.Context, asked: Asked, files: Files) -> None:
    """Have the head answer, and end as it ends."""
    read = [name for name in files.read if context.params.get(name) is not None]
    written: Path | None = context.params.get(files.written) if files.written else None
    into = written if written != STANDARD else None
    words = words_of(context, frozenset({*WHERE, *read, *([files.written] if files.written else ())}))
    given = b""
    for name in read:  # a command has one
        given = _bytes_of(context.params[name])
        words.insert(1, f"{_called(context, name)}={FROM_HERE}")
    parts: list[bytes] = []
    code = ask_head(asked, words, given, parts.append if into is not None else _out)
    if into is not None and code == 0:
        write_file(into, b"".join(parts))
    raise typer.Exit(code)


def _bytes_of(path: Path) -> bytes:
    try:
        found = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidSnapshot("The file cannot be read.", place=str(path), available=str(error)) from error
    if not found:
        raise InvalidSnapshot("The file is empty.", place=str(path))
    return found


def _out(data: bytes) -> None:
    say_as_it_is(data)
    sys.stdout.flush()


def _err(data: bytes) -> None:
    sys.stderr.write(data.decode(errors="backslashreplace"))
    sys.stderr.flush()


def ask_head(asked: Asked, words: list[str], given: bytes, out: Callable[[bytes], object]) -> int:
    """The exit code of `ray-dra WORDS` on the head."""
    connection.silence()
    from ray_dra.adapters.kubernetes import KubernetesApi
    from ray_dra.adapters.pod_command import run_in_pod
    from ray_dra.program.submit_job import head_pod

    api = KubernetesApi(asked.kubeconfig, asked.context)
    api.await_answer()
    namespace, raycluster = found_raycluster(api, asked)
    pod = head_pod(api, namespace, raycluster)
    container = api.get("Pod", pod, namespace)["spec"]["containers"][0]["name"]
    command = ["sh", "-c", SCRIPT, "ray-dra", str(len(given)), *words]
    try:
        return run_in_pod(api, namespace, pod, container, command, given=given, out=out, err=_err)
    except KeyboardInterrupt:
        return INTERRUPTED


def found_raycluster(api: Any, asked: Asked) -> tuple[str, str]:
    """Namespace and name; without a name that of the only RayCluster of the namespace.

    Raises:
        NotFound: there is none, or several.
    """
    namespace = asked.namespace or api.namespace
    if asked.raycluster:
        return namespace, asked.raycluster
    names = sorted(str(each["metadata"]["name"]) for each in api.items("RayCluster", namespace))
    if len(names) == 1:
        return namespace, names[0]
    raise NotFound(
        "Which RayCluster is meant has to be said, by --raycluster NAME." if names else "There is no RayCluster.",
        place=f"namespace {namespace}",
        wanted="one RayCluster",
        available=", ".join(names) or "none; another namespace is said by -n NAME",
    )
