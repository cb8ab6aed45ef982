"""What is done about faults, as text, for wherever it is carried: an address, an environment variable, a label
selector, an annotation. Checked where it is said, before anything starts.

    replace                     lost workers are replaced
    replace,restart             the same; where that is not possible, the next way
    restart,grace=60            so many seconds from the notice until anything is ended
    *verl_group_*=replace;degrade    rules for gangs by their name, and for all others

Values of labels may have letters, digits, `.`, `-` and `_` only, so each can be written with these, too:
`replace.restart.grace-60`.

Neighbours: `core.gangs.repair` says what each means, `settings.read_on_fault` reads the ways; `ray/policy.py` is the
same for locality.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ray_dra.core.gangs.repair import FaultRule, OnFault, declared_for
from ray_dra.errors import InvalidRequest, shown
from ray_dra.translate.settings import read_on_fault

MAX_RULES = 2000  # characters
FORMS = "replace, restart,grace=60, replace,restart, train*=replace;degrade"
_DOT = re.compile(r"\.(?![0-9])")  # one that parts words, and is no number's
_VALUE = re.compile(r"([a-z_]+)-([0-9.]+)")


def parse_on_fault(said: object, place: str = "on_fault") -> OnFault:
    """What one text says of all gangs.

    Raises:
        InvalidRequest: it says nothing that can be done about a fault.
    """
    if not isinstance(said, str) or not said.isascii() or len(said) > MAX_RULES:
        raise InvalidRequest("This says nothing of faults.", place=place, wanted=shown(said), available=FORMS)
    dotted = "," not in said and "=" not in said
    return read_on_fault(_VALUE.sub(r"\1=\2", _DOT.sub(",", said)) if dotted else said, place)


def parse_fault_rules(said: object, place: str = "on_fault") -> tuple[FaultRule, ...]:
    """The rules of a text, in order. Raises InvalidRequest where one of them says nothing that can be done."""
    if not isinstance(said, str) or len(said) > MAX_RULES:
        raise InvalidRequest("This says nothing of faults.", place=place, wanted=shown(said), available=FORMS)
    parts = [part.strip() for part in said.split(";")]
    if len(parts) > 1 and not all(parts):
        raise InvalidRequest("A ; stands between two rules.", place=place, wanted=shown(said), available=FORMS)
    return tuple(_rule(part, place) for part in parts)


def _rule(said: str, place: str) -> FaultRule:
    pattern, equals, policy = said.partition("=")
    if not equals or "," in pattern:  # the first = is a number's
        return FaultRule("", parse_on_fault(said, place))
    if not pattern.strip():
        raise InvalidRequest(
            "A rule begins with a pattern of names, as in train*=replace.", place=place, wanted=shown(said)
        )
    return FaultRule(pattern.strip(), parse_on_fault(policy.strip(), place))


def said_of_faults(name: str, texts: Mapping[str, str]) -> OnFault | None:
    """What holds for a gang of this name; None where nobody says anything. A rule for its name comes before what is
    said of all; of either kind, the first that speaks.

    Args:
        texts: where it is said -> what, the strongest first; "" for nothing.

    Raises:
        InvalidRequest: one of them says nothing that can be done.
    """
    return declared_for(
        name, [rule for place, text in texts.items() if text for rule in parse_fault_rules(text, place)]
    )


def fault_rules_of(environment: Mapping[str, str], variable: str) -> tuple[FaultRule, ...]:
    """The rules of a variable; none where it is not set. Raises InvalidRequest as `parse_fault_rules`."""
    said = environment.get(variable, "").strip()
    return parse_fault_rules(said, variable) if said else ()
