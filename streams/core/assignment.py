"""Who runs which task: the division of an app's tasks among its members.

What must live here: the pure decision, the same function for every log.  What must not: how members hear of each other
and of the decision (a connector), how a task is started or stopped (``runtime.worker``).

Theory of operation.  A *round* is one call of ``assign`` with what every living member said last.  It has three steps:

1. **Eligible** are the members that run the newest version; the others get an empty share and a reason.
2. **Target**: a division in which the counts of two members differ by at most one, for stateful tasks and for all of
   them.  A task stays with its holder as long as that holder's quota allows; what is over, or nobody's, goes to who
   has its state up to date, then to who has it on its disk, then to who has the most room.
3. **Share**: what the members may do now, on the way to the target.  For a task whose target is T:

       nobody holds it, T is ready or nobody is         T runs it
       nobody holds it, R is ready, T isn't             R runs it, T follows it (warm-up)
       T holds it                                       T runs it
       O holds it, T isn't ready, it keeps state        O runs it, T follows it (warm-up)
       O holds it, T is ready or it keeps no state      nobody: O is to release it, T goes on following it
       only outdated members hold it                    nobody: they are to release it, T follows it

   A task in the "nobody" rows is *withheld*: its holder stops it, says so, and the next round finds it free (KIP-429).
   A warm-up (KIP-441) that has caught up says so, and the next round finds T ready.

So a new round is due when a member comes or goes, when a holder has released what it was asked to, and when a warm-up
is ready.  Rounds without news change nothing.  Advice only, as all of membership: the fence in the commits is what
keeps two owners apart when a member is wrong about itself.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from streams.core.membership import Assignment, Wanted

READY, STORED, COLD = 0, 1, 2
"""How much of a task's state a member has: all of it or nearly, some of it, nothing."""


@dataclass(frozen=True, slots=True)
class MemberState:
    """What a member says of itself before a round.

    version, fingerprint: of the topology that it runs.  address: where it answers other workers; "" for nowhere.
    stored: tasks some of whose state lies on its disk.  ready: tasks whose state it has up to date or nearly, those
    that it runs and standbys that have caught up.
    held: tasks that it runs, or was last told to run and may start at any time.
    generation: the round whose share it acts on; -1 before the first.  Where two members claim a task (one was away
    while the other got it) the later claim is believed.
    """

    version: int = 1
    fingerprint: str = ""
    address: str = ""
    stored: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    ready: frozenset[str] = frozenset()
    generation: int = -1


@dataclass(frozen=True, slots=True)
class Share:
    """What a member is to do after a round.

    warmups: those of ``assignment.standby`` that it is to run as soon as it says that they are ready.
    releases: tasks that it holds and that wait for it to let them go.
    reason: why it gets nothing, in one line; "" for a member that takes part.
    """

    assignment: Assignment = field(default_factory=Assignment)
    warmups: frozenset[str] = frozenset()
    releases: frozenset[str] = frozenset()
    reason: str = ""


def eligible(members: Mapping[str, MemberState]) -> list[str]:
    """The members that take part, sorted: those of the newest version, and of one fingerprint.

    Where one version has two fingerprints, an edit without a new version number: the one that holds more tasks stays,
    so that a stray worker can't take an app over; then the one with more members.
    """
    if not members:
        return []
    newest = max(member.version for member in members.values())
    held: Counter[str] = Counter()
    votes: Counter[str] = Counter()
    for member in members.values():
        if member.version == newest:
            held[member.fingerprint] += len(member.held)
            votes[member.fingerprint] += 1
    chosen = min(votes, key=lambda fingerprint: (-held[fingerprint], -votes[fingerprint], fingerprint))
    return sorted(name for name, each in members.items() if (each.version, each.fingerprint) == (newest, chosen))


def assign(members: Mapping[str, MemberState], wanted: Wanted) -> dict[str, Share]:
    """One round: the share of each living member.  Called by whichever member leads; pure and deterministic.

    ``wanted`` is what an eligible member wants (a leader that is outdated knows another set of tasks).  No task is
    active in two shares, and none is given to a member while another one says that it holds it.
    """
    names = eligible(members)
    if not names:
        return {}
    tasks = sorted(task.name for task in wanted.tasks)
    holders = _holders(members, tasks)
    owners = _owners(members, names, holders)
    target = _target(members, names, tasks, wanted.stateful, owners)

    active: dict[str, str] = {}
    home: dict[str, str] = {}
    following: dict[str, set[str]] = defaultdict(set)
    warmups: dict[str, set[str]] = defaultdict(set)
    releases: dict[str, set[str]] = defaultdict(set)
    load: Counter[str] = Counter()
    for task in tasks:
        to, owner, stateful = target[task], owners.get(task), task in wanted.stateful
        runs: str | None = to
        if owner is None and holders[task]:
            runs = None
        elif owner is None:
            heirs = [name for name in names if task in members[name].ready] if stateful else []
            if heirs and to not in heirs:
                runs = min(heirs, key=lambda name: (load[name], name))
        elif owner != to:
            runs = owner if stateful and task not in members[to].ready else None
        if runs is None:
            for holder in holders[task]:
                releases[holder].add(task)
        else:
            active[task] = runs
            load[runs] += 1
        if stateful and runs != to:
            following[task].add(to)
            if runs is not None:
                warmups[to].add(task)
        home[task] = to if runs is None else runs

    keeping = [task for task in tasks if task in wanted.stateful]
    for task, followers in _standbys(members, names, keeping, wanted.standbys, home, following, load).items():
        following[task] |= followers
    return _shares(members, names, active, following, warmups, releases)


def _holders(members: Mapping[str, MemberState], tasks: Iterable[str]) -> dict[str, list[str]]:
    holders: dict[str, list[str]] = {task: [] for task in tasks}
    for name in sorted(members):
        for task in members[name].held:
            if task in holders:
                holders[task].append(name)
    return holders


def _owners(
    members: Mapping[str, MemberState], names: Sequence[str], holders: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """The eligible member that holds each task; of several, the one with the latest claim."""
    taking_part = set(names)
    owners: dict[str, str] = {}
    for task, claimants in holders.items():
        candidates = [name for name in claimants if name in taking_part]
        if candidates:
            owners[task] = max(candidates, key=lambda name: (members[name].generation, name))
    return owners


def _target(
    members: Mapping[str, MemberState],
    names: Sequence[str],
    tasks: Sequence[str],
    stateful: Collection[str],
    owners: Mapping[str, str],
) -> dict[str, str]:
    """The balanced division that costs the fewest moves."""
    heavy = [task for task in tasks if task in stateful]
    light = [task for task in tasks if task not in stateful]
    holds_heavy = Counter(owners[task] for task in heavy if task in owners)
    holds_light = Counter(owners[task] for task in light if task in owners)

    # A member that holds more than the lesser quota saves a move by getting the greater one.
    base, extra = divmod(len(heavy), len(names))
    known = {name: sum(_has(members[name], task) != COLD for task in heavy) for name in names}
    ranked = sorted(names, key=lambda name: (holds_heavy[name] <= base, -known[name], name))
    heavy_quota = {name: base + (at < extra) for at, name in enumerate(ranked)}

    # Who has the greater quota of stateful tasks may need the greater one of all tasks to fit them in.
    base, extra = divmod(len(tasks), len(names))
    ranked = sorted(
        names, key=lambda name: (heavy_quota[name] <= base, holds_light[name] <= base - heavy_quota[name], name)
    )
    light_quota = {name: base + (at < extra) - heavy_quota[name] for at, name in enumerate(ranked)}
    return {
        **_place(members, names, heavy, heavy_quota, owners),
        **_place(members, names, light, light_quota, owners),
    }


def _place(
    members: Mapping[str, MemberState],
    names: Sequence[str],
    tasks: Sequence[str],
    quota: Mapping[str, int],
    owners: Mapping[str, str],
) -> dict[str, str]:
    """Give each member its quota of ``tasks``: first what it holds, then what it has the state of, then the rest."""
    held: dict[str, list[str]] = {name: [] for name in names}
    for task in tasks:
        if task in owners:
            held[owners[task]].append(task)
    placed: dict[str, str] = {}
    room = {name: quota[name] - len(held[name]) for name in names}
    takers = [name for name in names if room[name] > 0]
    for name in names:
        over = max(0, -room[name])
        # What another member could go on with at once is let go first; then a part of each subtopology, lest one
        # member got all tasks of the one with the work.
        held[name].sort(
            key=lambda task: (min((_has(members[each], task) for each in takers), default=COLD), _number(task), task)
        )
        placed.update((task, name) for task in held[name][over:])
    for wealth in (READY, STORED, COLD):
        for task in tasks:
            if task not in placed:
                fit = [name for name in takers if room[name] > 0 and _has(members[name], task) <= wealth]
                if fit:
                    to = min(fit, key=lambda name: (-room[name], name))
                    room[to] -= 1
                    placed[task] = to
    return placed


def _standbys(
    members: Mapping[str, MemberState],
    names: Sequence[str],
    tasks: Sequence[str],
    wanted: int,
    home: Mapping[str, str],
    warming: Mapping[str, Collection[str]],
    active: Mapping[str, int],
) -> dict[str, set[str]]:
    """Followers of each task on members other than the one that runs it, beside those that warm up.

    Spread evenly as far as that is possible; those who follow already stay, within that.
    """
    chosen: dict[str, set[str]] = {task: set() for task in tasks}
    places = {task: min(wanted, len(names) - len({home[task], *warming[task]})) for task in tasks}
    count: Counter[str] = Counter()
    even = math.ceil(sum(places.values()) / len(names))
    # The last turn is for tasks whose only free members have their even share already.
    for wealth, limit in ((READY, even), (STORED, even), (COLD, even), (COLD, len(tasks))):
        for task in tasks:
            while len(chosen[task]) < places[task]:
                taken = {home[task], *warming[task], *chosen[task]}
                fit = [
                    name
                    for name in names
                    if name not in taken and count[name] < limit and _has(members[name], task) <= wealth
                ]
                if not fit:
                    break
                # A member that has just released the task is ready too: it must not push out who follows already.
                to = min(fit, key=lambda name: (task in members[name].held, count[name], active[name], name))
                count[to] += 1
                chosen[task].add(to)
    return chosen


def _shares(
    members: Mapping[str, MemberState],
    names: Sequence[str],
    active: Mapping[str, str],
    following: Mapping[str, Collection[str]],
    warmups: Mapping[str, Collection[str]],
    releases: Mapping[str, Collection[str]],
) -> dict[str, Share]:
    runs: dict[str, set[str]] = defaultdict(set)
    for task, name in active.items():
        runs[name].add(task)
    follows: dict[str, set[str]] = defaultdict(set)
    for task, followers in following.items():
        for name in followers:
            follows[name].add(task)
    addresses = {task: members[name].address for task, name in active.items() if members[name].address}
    taking_part = set(names)
    return {
        name: Share(
            Assignment(frozenset(runs[name]), frozenset(follows[name]), addresses)
            if name in taking_part
            else Assignment(),
            frozenset(warmups.get(name, ())),
            frozenset(releases.get(name, ())),
            "" if name in taking_part else _reason(members[name], members[names[0]]),
        )
        for name in sorted(members)
    }


def _number(task: str) -> int:
    """The partition in the name of a task."""
    tail = task.rpartition("-")[2]
    return int(tail) if tail.isdecimal() else 0


def _has(member: MemberState, task: str) -> int:
    if task in member.ready:
        return READY
    return STORED if task in member.stored else COLD


def _reason(member: MemberState, other: MemberState) -> str:
    if member.version != other.version:
        return (
            f"this worker runs version {member.version} of the app and others run version {other.version}: it gets "
            f"no tasks; start it with version {other.version}, or stop it"
        )
    return (
        f"this worker runs version {member.version} of the app with another topology ({member.fingerprint or 'none'}) "
        f"than the others ({other.fingerprint or 'none'}): it gets no tasks; give the changed app a higher version"
    )
