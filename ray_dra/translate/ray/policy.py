"""A policy as text, for wherever one is carried: an address, an environment variable, a label selector.

    same_clique                        every bundle in one NVLink clique
    same_clique(segment=4)             each 4 consecutive bundles in one
    at_most_cliques(2)                 the whole group on at most 2 cliques
    prefer:same_clique                 as near as it can be; so is every group for which nothing is said
    prefer:same_clique(patience=600)   the same, after it could have been in one clique for so many seconds
    prefer:same_clique(scope=job)      the same, and where it can be in a clique that groups of the same job have
    same_clique(scope=name, set=16)    16 groups, of the same name up to its number, as one gang: all in one clique
    prefer:same_clique(runs_for=3600)  the same, of groups that run for so many seconds, a guess (docs/queue.md)
    prefer:same_clique(speed=0.5)      the same, of groups that are half as fast outside of a clique
    prefer:same_clique(queue=team-a)   the same, in the queue of a team (docs/queue.md)
    linked_devices                     the GPUs of each bundle are linked by NVLink, every two of them
    none                               the group is left to Ray

Two are joined by `&`. Values of labels may have letters, digits, `.`, `-` and `_` only, so each can be written with
these, too: `same_clique.segment-4`, `prefer.same_clique.patience-600`, `at_most_cliques.2`,
`same_clique.scope-name.set-16`, `same_clique.and.linked_devices`.

An address or an environment variable may have rules for groups by their name, too: `*verl_group_*=same_clique; none`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import NamedTuple

from ray_dra.core.gangs.order import LEAST_SECONDS
from ray_dra.core.gangs.record_sense import MOST_SECONDS
from ray_dra.core.gangs.team_queues import NAME
from ray_dra.core.model.locality import LEAST_SPEED, MAX_CLIQUES, MAX_PATIENCE, Connect, Locality, no_locality
from ray_dra.errors import InvalidRequest, shown

MAX_POLICY = 200
MAX_LABEL = 63  # characters of a label's value
MAX_RULES = 2000  # characters of a text with rules
MOST_GROUPS = 10_000  # of a set
FORMS = (
    "same_clique, same_clique(segment=4), at_most_cliques(2), linked_devices, prefer:same_clique(patience=600), "
    "same_clique(scope=name, set=16), none"
)
SCOPES = ("job", "application", "name")


@dataclass(frozen=True, slots=True)
class Policy:
    """How a group's bundles lie, and near which other groups.

    Attributes:
        scope: which groups are a set, one of SCOPES; "" where each is for itself.
        groups: so many groups of the scope are one gang; 0 where each is placed when it comes.
        runs_for: seconds, a guess of how long each runs; None: nothing is said.
        queue: the queue of a team; "": nothing is said.
    """

    locality: Locality
    scope: str = ""
    groups: int = 0
    runs_for: float | None = None
    queue: str = ""


NEAREST = Policy(Locality(cliques=1, required=False))
"""What holds where nobody says anything: nothing that ran before is refused or has to wait."""

_TERM = re.compile(r"(?:(prefer)[:.])?(same_clique|at_most_cliques|linked_devices|none)(?:\((.*)\)|((?:\.[^.()]+)*))")
_SPACES = re.compile(r"\s*([&(),=:])\s*")  # beside what parts words; `segment=1 6` is not 16
_DOTTED = re.compile(r"\.([^.]+[=-][0-9]+\.[0-9]+(?=\.|$)|[^.]+)")  # an argument, which may be a fraction
_ARGUMENT = re.compile(
    r"(?:(segment|patience|set|runs_for|speed)[=-])?([0-9]+(?:\.[0-9]+)?)|scope[=-](job|application|name)"
    rf"|queue[=-]({NAME.pattern})"
)
_WHOLE = {"segment": MAX_CLIQUES, "count": MAX_CLIQUES, "set": MOST_GROUPS}
_FRACTIONS = {"patience": (0.0, MAX_PATIENCE), "runs_for": (LEAST_SECONDS, MOST_SECONDS), "speed": (LEAST_SPEED, 1.0)}


def parse_policy(said: object, place: str = "locality") -> Policy | None:
    """The policy that a text is; None for `none`.

    Raises:
        InvalidRequest: it is none; says what one is.
    """
    if not isinstance(said, str) or not said.isascii() or len(said) > MAX_POLICY:
        raise _wrong(said, place, "This is no policy.")
    terms = [_term(term, said, place) for term in re.split(r"&|\.and\.", _SPACES.sub(r"\1", said.strip()))]
    if None in terms:
        if len(terms) > 1:
            raise _wrong(said, place, "none stands alone.")
        return None
    policies = [term for term in terms if term is not None]
    locality = Locality()
    try:
        for policy in policies:
            locality = locality & policy.locality
    except InvalidRequest as error:
        raise _wrong(said, place, f"The parts contradict each other: {error.reason}") from error
    scopes, sizes = ({policy.scope for policy in policies} - {""}, {policy.groups for policy in policies} - {0})
    if len(scopes) > 1 or len(sizes) > 1:
        raise _wrong(said, place, "The parts contradict each other: a group is of one set.")
    guesses = {policy.runs_for for policy in policies} - {None}
    if len(guesses) > 1:
        raise _wrong(said, place, "The parts contradict each other: a group runs for one time.")
    queues = {policy.queue for policy in policies} - {""}
    if len(queues) > 1:
        raise _wrong(said, place, "The parts contradict each other: a group is in one queue.")
    if sizes and locality.segment is not None:
        raise _wrong(said, place, "A set of groups takes no segment.")
    scope = "".join(scopes) or ("name" if sizes else "")
    return Policy(locality, scope, max(sizes, default=0), next(iter(guesses), None), "".join(queues))


def _term(term: str, said: str, place: str) -> Policy | None:
    match = _TERM.fullmatch(term)
    if match is None:
        raise _wrong(said, place, "This is no policy.")
    prefer, name, in_brackets, in_dots = match.groups()
    given = in_brackets.split(",") if in_brackets else _DOTTED.findall(in_dots or "")
    arguments, words = _arguments(given, said, place)
    scope, queue = words.get("scope", ""), words.get("queue", "")
    made: dict[str, Callable[[], Policy | None]] = {
        "same_clique": lambda: _cliques(arguments, scope, None, bool(prefer), said, place),
        "at_most_cliques": lambda: _cliques(arguments, scope, arguments.pop("count", 0), bool(prefer), said, place),
        "linked_devices": lambda: Policy(
            Locality(connect=Connect.PREFERRED if prefer else Connect.REQUIRED),
            runs_for=arguments.pop("runs_for", None),
        ),
        "none": lambda: None,
    }
    if prefer and name == "none":
        raise _wrong(said, place, "none stands alone.")
    found = made[name]()
    left = [*arguments, *(["scope"] if scope and (found is None or not found.scope) else [])]
    left += ["queue"] if queue and found is None else []
    if left:
        raise _wrong(said, place, f"{name} takes no {', '.join(left)}.")
    return replace(found, queue=queue) if found is not None else None


def _arguments(given: list[str], said: str, place: str) -> tuple[dict[str, float], dict[str, str]]:
    """The numbers by name, and the scope and the queue."""
    found: dict[str, float] = {}
    words: dict[str, str] = {}
    for at, argument in enumerate(given):
        match = _ARGUMENT.fullmatch(argument)
        word = None if match is None else "scope" if match[3] is not None else "queue" if match[4] is not None else None
        if match is not None and word is not None and word not in words:
            words[word] = match[3] or match[4]
            continue
        name = "count" if match is None or match[1] is None else match[1]
        if match is None or word is not None or name in found or (name == "count" and at):
            raise _wrong(said, place, f"{argument or 'an argument'} is not understood.")
        value = float(match[2])
        least, most = _FRACTIONS.get(name) or (1, _WHOLE[name])
        if not least <= value <= most or (name in _WHOLE and value % 1):
            raise _wrong(said, place, f"{name} is out of range.")
        found[name] = value
    return found, words


def _cliques(
    arguments: dict[str, float], scope: str, count: float | None, prefer: bool, said: str, place: str
) -> Policy:
    segment, patience = arguments.pop("segment", None), arguments.pop("patience", None)
    groups, runs_for, speed = (
        int(arguments.pop("set", 0)),
        arguments.pop("runs_for", None),
        arguments.pop("speed", None),
    )
    if count == 0:
        raise _wrong(said, place, "at_most_cliques needs a number.")
    if count is not None and segment is not None:
        raise _wrong(said, place, "at_most_cliques takes no segment.")
    if (patience or speed) and not prefer:
        raise _wrong(said, place, "Patience is for what is preferred; what is required is waited for anyway.")
    cliques = int(count) if count is not None else (None if segment is not None else 1)
    locality = Locality(
        cliques=cliques,
        segment=None if segment is None else int(segment),
        required=not prefer,
        patience=patience if prefer else None,
        outside_speed=speed,
    )
    return Policy(locality, scope, groups, runs_for)


def policy_label(locality: Locality) -> str:
    """A locality as a policy that a label's value can be.

    Raises:
        InvalidRequest: no policy says this.
    """
    if not isinstance(locality, Locality):
        raise no_locality(locality)
    prefer = "" if locality.required else "prefer."
    waits = {"patience": locality.patience, "speed": locality.outside_speed}
    given = "".join(f".{name}-{_decimal(value)}" for name, value in waits.items() if value is not None)
    terms = []
    if locality.segment is not None:
        terms.append(f"{prefer}same_clique.segment-{locality.segment}{given}")
    elif locality.cliques == 1:
        terms.append(f"{prefer}same_clique{given}")
    if locality.cliques is not None and (locality.cliques > 1 or locality.segment is not None):
        terms.append(f"{prefer}at_most_cliques.{locality.cliques}{'' if terms else given}")
    if locality.connect is Connect.REQUIRED:
        terms.append("linked_devices")
    found = ".and.".join(terms)
    if not terms or len(found) > MAX_LABEL or parse_policy(found) != Policy(locality):
        raise InvalidRequest("No policy says this.", place="locality", wanted=str(locality), available=FORMS)
    return found


def _decimal(value: float) -> str:
    return f"{value:f}".rstrip("0").rstrip(".")


# -- rules


class Rule(NamedTuple):
    """A policy for the groups whose name is like `pattern`; "" for all. `policy`: None leaves them to Ray."""

    pattern: str
    policy: Policy | None


def parse_rules(said: object, place: str = "locality") -> tuple[Rule, ...]:
    """The rules of a text, in order.

    Raises:
        InvalidRequest: one of them has no policy.
    """
    if not isinstance(said, str) or len(said) > MAX_RULES:
        raise _wrong(said, place, "This is no policy.")
    return tuple(_rule(part, place) for part in said.split(";"))


def _rule(said: str, place: str) -> Rule:
    pattern, equals, policy = said.strip().partition("=")
    if not equals or "(" in pattern:  # the first = is an argument's
        return Rule("", parse_policy(said, place))
    if not pattern.strip():
        raise _wrong(said, place, "A rule begins with a pattern of names, as in verl_*=same_clique.")
    return Rule(pattern.strip(), parse_policy(policy, place))


def policy_for(name: str, texts: Iterable[str]) -> Policy | None:
    """The policy for a group of this name. A rule for its name comes before what is said of all; of either kind, the
    first that speaks. `texts`: the strongest first; "" for nothing."""
    rules = [rule for text in texts if text for rule in parse_rules(text)]
    for rule in rules:
        if rule.pattern and fnmatchcase(name, rule.pattern):
            return rule.policy
    return next((rule.policy for rule in rules if not rule.pattern), NEAREST)


# -- sets of groups

_SERVE_REPLICA, _SERVE_GANG = "SERVE_REPLICA::", "SERVE_GANG::"
_NUMBERED = re.compile(r"(.*?)[:_-]?\d*")


def set_of(scope: str, job: str, namespace: str, name: str) -> str:
    """The id of the set that a group is of, by its scope. Serve's names end with a replica's random id."""
    if scope == "job":
        return job
    family, application = name, ""
    if name.startswith(_SERVE_REPLICA):  # SERVE_REPLICA::<application>#<deployment>#<replica>
        family, application = name.rpartition("#")[0], name.partition("#")[0]
    elif name.startswith(_SERVE_GANG):  # SERVE_GANG::<application>_<deployment>_<number>_<id>
        family = application = name.rsplit("_", 2)[0]
    elif (numbered := _NUMBERED.fullmatch(name)) is not None:
        family = numbered[1]
    if scope == "application":
        return f"{job}/{namespace}/{application}" if application else job
    return f"{job}/{namespace}/{family}"


def _wrong(said: object, place: str, reason: str) -> InvalidRequest:
    return InvalidRequest(reason, place=place, wanted=shown(said), available=FORMS)
