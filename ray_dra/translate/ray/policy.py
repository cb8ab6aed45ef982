"""A locality as text, for wherever a policy is carried: an address, an environment variable, a label selector.

    same_clique                        every bundle in one NVLink clique
    same_clique(segment=4)             each 4 consecutive bundles in one
    at_most_cliques(2)                 the whole group on at most 2 cliques
    prefer:same_clique                 as near as it can be; so is every group for which nothing is said
    prefer:same_clique(patience=600)   the same, after it could have been in one clique for so many seconds
    linked_devices                     the GPUs of each bundle are linked by NVLink, every two of them
    none                               the group is left to Ray

Two are joined by `&`. Values of labels may have letters, digits, `.`, `-` and `_` only, so each can be written with
these, too: `same_clique.segment-4`, `prefer.same_clique.patience-600`, `at_most_cliques.2`,
`same_clique.and.linked_devices`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from ray_dra.core.model.locality import MAX_CLIQUES, MAX_PATIENCE, Connect, Locality
from ray_dra.errors import InvalidRequest, shown

MAX_POLICY = 200
FORMS = (
    "same_clique, same_clique(segment=4), at_most_cliques(2), linked_devices, prefer:same_clique(patience=600), none"
)
NEAREST = Locality(cliques=1, required=False)
"""What holds where nobody says anything: nothing that ran before is refused or has to wait."""

_TERM = re.compile(r"(?:(prefer)[:.])?(same_clique|at_most_cliques|linked_devices|none)(?:\((.*)\)|((?:\.[^.()]+)*))")
_ARGUMENT = re.compile(r"(?:(segment|patience)[=-])?([0-9]+(?:\.[0-9]+)?)")
_NUMBER = {"segment": MAX_CLIQUES, "patience": int(MAX_PATIENCE), "count": MAX_CLIQUES}


def parse_policy(said: object, place: str = "locality") -> Locality | None:
    """The locality that a text asks for; None for `none`.

    Raises:
        InvalidRequest: it is no policy; says what one is.
    """
    if not isinstance(said, str) or not said.isascii() or len(said) > MAX_POLICY:
        raise _wrong(said, place, "This is no policy.")
    terms = [_term(term, said, place) for term in re.split(r"&|\.and\.", "".join(said.split()))]
    if None in terms:
        if len(terms) > 1:
            raise _wrong(said, place, "none stands alone.")
        return None
    found = Locality()
    try:
        for term in terms:
            assert term is not None
            found = found & term
    except InvalidRequest as error:
        raise _wrong(said, place, f"The parts contradict each other: {error.reason}") from error
    return found


def _term(term: str, said: str, place: str) -> Locality | None:
    match = _TERM.fullmatch(term)
    if match is None:
        raise _wrong(said, place, "This is no policy.")
    prefer, name, in_brackets, in_dots = match.groups()
    given = in_brackets.split(",") if in_brackets else [part for part in (in_dots or "").split(".") if part]
    arguments = _arguments(given, said, place)
    made: dict[str, Callable[[], Locality | None]] = {
        "same_clique": lambda: _cliques(arguments, None, bool(prefer), said, place),
        "at_most_cliques": lambda: _cliques(arguments, arguments.pop("count", 0), bool(prefer), said, place),
        "linked_devices": lambda: Locality(connect=Connect.PREFERRED if prefer else Connect.REQUIRED),
        "none": lambda: None,
    }
    if prefer and name == "none":
        raise _wrong(said, place, "none stands alone.")
    found = made[name]()
    if arguments:
        raise _wrong(said, place, f"{name} takes no {', '.join(arguments)}.")
    return found


def _arguments(given: list[str], said: str, place: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for argument in given:
        match = _ARGUMENT.fullmatch(argument)
        name = "count" if match is None or match[1] is None else match[1]
        if match is None or name in found:
            raise _wrong(said, place, f"{argument or 'an argument'} is not understood.")
        value = float(match[2])
        if not (0 if name == "patience" else 1) <= value <= _NUMBER[name] or (name != "patience" and value % 1):
            raise _wrong(said, place, f"{name} is out of range.")
        found[name] = value
    return found


def _cliques(arguments: dict[str, float], count: float | None, prefer: bool, said: str, place: str) -> Locality:
    segment, patience = arguments.pop("segment", None), arguments.pop("patience", 0.0)
    if count == 0:
        raise _wrong(said, place, "at_most_cliques needs a number.")
    if count is not None and segment is not None:
        raise _wrong(said, place, "at_most_cliques takes no segment.")
    if patience and not prefer:
        raise _wrong(said, place, "Patience is for what is preferred; what is required is waited for anyway.")
    cliques = int(count) if count is not None else (None if segment is not None else 1)
    return Locality(
        cliques=cliques,
        segment=None if segment is None else int(segment),
        required=not prefer,
        patience=float(patience),
    )


def fitted(locality: Locality, bundles: int, *, one_node: bool) -> Locality:
    """A policy for many groups as it holds for one of them: a group smaller than a segment is one segment, and one that
    lies on one node anyway has none."""
    if locality.segment is None or (bundles > locality.segment and not one_node):
        return locality
    return replace(locality, segment=None, cliques=1)


def _wrong(said: object, place: str, reason: str) -> InvalidRequest:
    return InvalidRequest(reason, place=place, wanted=shown(said), available=FORMS)
