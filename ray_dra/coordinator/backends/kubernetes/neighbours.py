"""Gangs of other RayClusters: which devices their claims name and wait for, and for how long that is believed.

Neither may write in the other's namespace, so gangs that want one device tell each other by their claims
(`Provisioning._give_way`), and the planner leaves to a neighbour what its claims name (`Machines.mark_taken`).
Anybody who may create ResourceClaims could say the same, and a RayCluster whose coordinator is gone goes on saying it.
So both ask here, and what is believed is bounded:

- Only claims that a Pod owns are believed; Kubernetes' collector deletes a claim whose owner does not exist. What else
  stands in a claim, the RayCluster's name too, cannot be checked: nobody may read pods and RayClusters of other
  namespaces, nor should.
- An attempt's claims are believed to name as many devices as they count, and all that they name only while they come.
- A namespace whose claims, one or one after the other, have kept devices from us for NAMED_SECONDS (less the time when
  none did) is not believed for ten minutes, and each further time for twice as long. A claim that has waited for longer
  is never believed again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from ray_dra.ports.clock import Clock
from ray_dra.ports.kube_objects import Claim
from ray_dra.translate.kube.claims import claim_of

NAMED_SECONDS = 120.0  # for which a namespace's claims that get no devices keep others from them
WAITED_SECONDS = 2 * NAMED_SECONDS  # a claim that has waited for so long is believed at no later time either
COMING_SECONDS = 10.0  # after an attempt's first claim: its others may still be made
GIVE_WAY_SECONDS = 10.0  # what a gang that gave way counts like, of a namespace's time
IGNORED_SECONDS, MOST_DOUBLED = 600.0, 4  # for which a namespace is not believed; doubled so many times
FORGIVEN_SECONDS = 3600.0  # after that, until what is past is forgotten


class Attempt(NamedTuple):
    """Whose claims: of one attempt at a gang."""

    namespace: str
    raycluster: str
    name: str


@dataclass
class _Claims:
    """What an attempt's claims say, all that are seen of them."""

    names: set[str] = field(default_factory=set)
    count: int = 0  # devices that they count, or have
    age: tuple[str, str] = ("", "")  # of the oldest that waits
    own: bool = False  # of this RayCluster: an earlier attempt that is being given back
    waiting: list[str] = field(default_factory=list)  # uids


@dataclass
class _Account:
    """For how long a namespace's claims have kept devices from us, and until when they are not believed."""

    spent: float = 0.0
    until: float = float("-inf")
    times: int = 0


class Neighbours:
    """See the module."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._attempts: dict[Attempt, _Claims] = {}
        self._since: dict[str, float] = {}  # uid of a claim that waits -> since when it is known
        self._first: dict[Attempt, float] = {}  # when its first claim was seen
        self._accounts: dict[str, _Account] = {}  # by namespace
        self._looked = clock()
        self._read: object = None  # the version of what was read last
        self._ignored: list[str] = []  # news for `newly_ignored`
        self._told: tuple[object, frozenset[Attempt]] = (None, frozenset())  # what the three below were made from
        self.believed: frozenset[Attempt] = frozenset()
        self.named: frozenset[str] = frozenset()  # UUIDs that are left to neighbours
        self.said = ""  # to whom devices are left; "" where to nobody

    def look(
        self,
        version: object,
        claims: Iterable[Claim],
        wanted: Callable[[Claim], bool],
        own: Callable[[Claim], bool],
    ) -> None:
        """What others' claims say, and what of it is believed now.

        Args:
            version: the same as long as the claims are.
            wanted: whether a claim is of a gang of ours; what those name, the inventory has.
            own: whether it is of this RayCluster.
        """
        if version != self._read:
            self._read = version
            self._take(claims, wanted, own)
        now = self._clock()
        passed, self._looked = now - self._looked, now
        held = {attempt for attempt, told in self._attempts.items() if self._holds(attempt, told, now)}
        for namespace in {attempt.namespace for attempt in held} | self._accounts.keys():
            account = self._accounts.setdefault(namespace, _Account())
            if now < account.until:
                continue
            hinders = any(attempt.namespace == namespace for attempt in held)
            account.spent = max(0.0, account.spent + (passed if hinders else -passed))
            if account.spent >= NAMED_SECONDS:
                self._ignore(namespace, account, now)
            elif not hinders and not account.spent and now - account.until > FORGIVEN_SECONDS:
                del self._accounts[namespace]
        believed = frozenset(a for a in held if now >= self._accounts[a.namespace].until)
        if (self._read, believed) != self._told:
            self._told, self.believed = (self._read, believed), believed
            self.named = frozenset(name for attempt in believed for name in self._attempts[attempt].names)
            self.said = self._say()

    def before(self, uuids: Collection[str], age: tuple[str, str] | None) -> Attempt | None:
        """The attempt of another gang that wants one of these devices and came first; None where there is none.

        `age` is that of our oldest claim, None where we have none.
        """
        for attempt in sorted(self.believed):
            told = self._attempts[attempt]
            if not told.own and (age is None or told.age < age) and not told.names.isdisjoint(uuids):
                return attempt
        return None

    def gave_way(self, to: Attempt) -> None:
        """Charge the namespace for it, lest a gang give way again and again for nothing."""
        self._accounts.setdefault(to.namespace, _Account()).spent += GIVE_WAY_SECONDS

    def _say(self) -> str:
        whom = sorted({(a.namespace, a.raycluster) for a in self.believed if not self._attempts[a].own})
        if not whom:
            return ""
        listed = ", ".join(f"{namespace}/{raycluster}" for namespace, raycluster in islice(whom, 3))
        more = f" and {len(whom) - 3} more" if len(whom) > 3 else ""
        return f"{len(self.named)} GPUs are left to claims of the RayClusters {listed}{more}, which wait for them"

    @property
    def ignored(self) -> tuple[str, ...]:
        """Namespaces that are not believed now, as sentences."""
        now = self._clock()
        return tuple(
            f"claims of namespace {namespace} named devices for {NAMED_SECONDS:.0f} s and got none; not given way to"
            for namespace, account in sorted(self._accounts.items())
            if now < account.until
        )

    def newly_ignored(self) -> list[str]:
        """Namespaces that are not believed from now on; each is told once."""
        found, self._ignored = self._ignored, []
        return found

    def _ignore(self, namespace: str, account: _Account, now: float) -> None:
        account.spent = 0.0
        account.until = now + IGNORED_SECONDS * 2 ** min(account.times, MOST_DOUBLED)
        account.times += 1
        self._ignored.append(
            f"claims of namespace {namespace} have named devices for {NAMED_SECONDS:.0f} s and got none; gangs do not"
            f" give way to them for {(account.until - now) / 60:.0f} minutes"
        )

    def _take(self, claims: Iterable[Claim], wanted: Callable[[Claim], bool], own: Callable[[Claim], bool]) -> None:
        now = self._clock()
        found: dict[Attempt, _Claims] = {}
        for claim in claims:
            whose = claim_of(claim)  # first: most claims are of no gang
            if whose is None or wanted(claim):
                continue
            told = found.setdefault(Attempt(*whose), _Claims(own=own(claim)))
            if claim.allocated:
                told.count += len(claim.devices)
            elif claim.named:
                told.age = min(told.age, claim.age) if told.waiting else claim.age
                told.names.update(claim.named)
                told.count += claim.count
                told.waiting.append(claim.uid)
        self._attempts = {attempt: told for attempt, told in found.items() if told.waiting}
        waiting = {uid for told in self._attempts.values() for uid in told.waiting}
        self._since = {uid: self._since.get(uid, now) for uid in waiting}
        self._first = {attempt: self._first.get(attempt, now) for attempt in self._attempts}

    def _holds(self, attempt: Attempt, told: _Claims, now: float) -> bool:
        """Whether what it names would be believed, were it not for its namespace."""
        complete = len(told.names) <= told.count
        fresh = any(now - self._since[uid] < WAITED_SECONDS for uid in told.waiting)
        return fresh and (complete or now - self._first[attempt] < COMING_SECONDS)
