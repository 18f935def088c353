"""Whether the points of a study may be compared: one version of everything, one machine, one job.

Times of two machines or two versions in one table are the classic wrong scaling plot, so they are
refused, or marked where the user asks for that.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hpc_bnn.study.outcomes import Outcome

SHOWN = 4


@dataclass(frozen=True)
class Mixture:
    """Points that differ from the others in something that must be the same.

    Attributes
    ----------
    what
        ``versions``, ``hosts``, ``device``, ``settings`` or ``grid``.
    usual
        What most points say.
    others
        What the others say, by the name of the point.
    """

    what: str
    usual: str
    others: dict[str, str]

    def told(self) -> str:
        """Return a sentence that names who differs."""
        names = list(self.others)
        shown = "; ".join(f"{name}: {self.others[name]}" for name in names[:SHOWN])
        more = f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        told = f"mixed {self.what}: most points have {self.usual}, but {shown}{more}"
        advice = "; submit all points with one --nodelist, or mark them"
        return told + (advice if self.what == "hosts" else "")


def mixtures(outcomes: Sequence[Outcome]) -> list[Mixture]:
    """Return in what finished points differ that the plan does not vary."""
    done = [outcome for outcome in outcomes if outcome.state == "finished"]
    said = {
        "versions": {o.point.name: _versions(o) for o in done},
        "device": {o.point.name: str(o.summary.get("device") or "") for o in done},
    }
    found = [_unlike(what, values) for what, values in said.items()]
    found.append(_strangers(done))
    changed = {o.point.name: ", ".join(o.changed) for o in done if o.changed}
    found.append(Mixture("settings", "those of the plan", changed) if changed else None)
    wrong = {o.point.name: _grid(o) for o in done if not _as_planned(o)}
    found.append(Mixture("grid", "that of the plan", wrong) if wrong else None)
    return [mixture for mixture in found if mixture is not None]


def _versions(outcome: Outcome) -> str:
    versions = outcome.summary.get("versions") or {}
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) or "none"


def _unlike(what: str, values: dict[str, str]) -> Mixture | None:
    if len(set(values.values())) <= 1:
        return None
    usual = Counter(values.values()).most_common(1)[0][0]
    others = {name: value or "none" for name, value in values.items() if value != usual}
    return Mixture(what, usual or "none", others)


def _strangers(done: Sequence[Outcome]) -> Mixture | None:
    """Small points may use a part of the nodes of the largest one, but no others."""
    hosts = {o.point.name: frozenset(map(str, o.summary.get("hosts") or ())) for o in done}
    widest = max((len(own) for own in hosts.values()), default=0)
    whole = Counter(own for own in hosts.values() if len(own) == widest).most_common(1)
    if not whole or not widest:
        return None
    others = {name: own for name, own in hosts.items() if not own or not own <= whole[0][0]}
    if not others:
        return None
    shown = {name: ", ".join(sorted(own)) or "none" for name, own in others.items()}
    return Mixture("hosts", ", ".join(sorted(whole[0][0])), shown)


def _as_planned(outcome: Outcome) -> bool:
    grid, point = outcome.summary.get("grid") or {}, outcome.point
    same = grid.get("sample_ranks") == point.sample_ranks
    return same and grid.get("data_ranks") == point.data_ranks and grid.get("nodes") == point.nodes


def _grid(outcome: Outcome) -> str:
    grid = outcome.summary.get("grid") or {}
    return (
        f"{grid.get('sample_ranks')} x {grid.get('data_ranks')} on {grid.get('nodes')} node(s) "
        f"instead of {outcome.point.sample_ranks} x {outcome.point.data_ranks} on "
        f"{outcome.point.nodes}"
    )
