"""The replica: one worker's side of the protocol.

It has at most one contribution outstanding for each fragment, and keeps it until the state of its clock arrives: should the
owner be lost, it is pushed again to whoever took over. While an answer is late it asks with a Pull, which is a few bytes.
A newcomer first asks for the state of every fragment, with a Pull of clock 0; the answer names the clock to go on from.
Who has nothing more to contribute says Leave, and says it again to every owner that is new: a Leave is not replicated.
"""

from __future__ import annotations

from roadtrain.message import Leave, Left, Nack, Params, Pull, Push, Stable
from roadtrain.sync.effects import Install, Out, Resent
from roadtrain.view import FragmentId, PeerId, View


class Replica:
    """What this worker has pushed and not yet been answered."""

    def __init__(self, me: PeerId) -> None:
        self._me = me
        self._owners: tuple[PeerId, ...] = ()
        self._outstanding: dict[FragmentId, Push] = {}
        self._beginning: set[FragmentId] = set()
        self._leaves: dict[FragmentId, Leave] = {}
        self._leaving: set[FragmentId] = set()
        self._offered: dict[FragmentId, Params] = {}
        self._stable: dict[FragmentId, int] = {}

    @property
    def outstanding(self) -> int:
        """Fragments whose state has been asked for and has not come."""
        return len(self._outstanding) + len(self._beginning) + len(self._leaving)

    def begin(self, view: View, out: Out) -> None:
        """This worker comes to a run that goes on already: ask for everything."""
        self._beginning = set(range(len(view.owners)))
        for fragment in sorted(self._beginning):
            out.say(view.owners[fragment], Pull(fragment, 0))

    def contribute(self, push: Push, out: Out) -> None:
        """Push a contribution and ask for the state at its clock."""
        self._outstanding[push.fragment] = push
        out.say(self._owners[push.fragment], push)

    def leave(self, leave: Leave, out: Out) -> None:
        """Contribute nothing more to a fragment; ask for what it ends with."""
        self._leaves[leave.fragment] = leave
        self._leaving.add(leave.fragment)
        out.say(self._owners[leave.fragment], leave)

    def left(self, answer: Left) -> Left | None:
        """What the fragment ended with, when it answers what was asked last."""
        leave = self._leaves.get(answer.fragment)
        if leave is None or leave.clock != answer.clock or answer.fragment not in self._leaving:
            return None
        self._leaving.discard(answer.fragment)
        return answer

    def join(self, view: View, out: Out) -> None:
        """Push again to owners that are new; ask those that stayed (they refused what was still on its way)."""
        before, self._owners = self._owners, view.owners
        self._offered.clear()
        self._stable.clear()
        for fragment, push in self._outstanding.items():
            stayed = bool(before) and before[fragment] == view.owners[fragment]
            out.say(view.owners[fragment], Pull(fragment, push.clock) if stayed else push)
        for fragment in sorted(self._beginning):
            out.say(view.owners[fragment], Pull(fragment, 0))
        for fragment, leave in self._leaves.items():
            if before and before[fragment] != view.owners[fragment]:
                self._leaving.add(fragment)  # whoever took over must know, also where this was answered
            out.say(view.owners[fragment], leave)

    def pushes(self) -> list[Push]:
        """Every contribution that is kept."""
        return list(self._outstanding.values())

    def missing(self, question: Nack, out: Out) -> None:
        """The owner does not have what we asked about: push it again."""
        push = self._outstanding.get(question.fragment)
        if push is not None and push.clock == question.clock:
            out.events.append(Resent(push.fragment))
            out.say(self._owners[push.fragment], push)

    def probe(self, out: Out, owner: PeerId | None = None) -> None:
        """Ask again for everything outstanding (from one owner, or from all)."""
        clocks = {fragment: push.clock for fragment, push in self._outstanding.items()}
        for fragment, clock in [*clocks.items(), *((f, 0) for f in sorted(self._beginning))]:
            if owner is None or self._owners[fragment] == owner:
                out.say(self._owners[fragment], Pull(fragment, clock))
        for fragment in sorted(self._leaving):
            if owner is None or self._owners[fragment] == owner:
                out.say(self._owners[fragment], self._leaves[fragment])

    def params(self, answer: Params) -> Install | None:
        """The state, if it answers what is outstanding (a late copy of an older answer does not) and may be used."""
        if answer.fragment in self._beginning:
            return self._install(answer) if answer.full and answer.stable else None
        push = self._outstanding.get(answer.fragment)
        if push is None or push.clock != answer.clock:
            return None
        if answer.stable or self._stable.get(answer.fragment, 0) >= answer.version:
            return self._install(answer)
        self._offered[answer.fragment] = answer
        return None

    def stable(self, word: Stable) -> Install | None:
        """What was offered may be used; the word may also come before the offer."""
        self._stable[word.fragment] = max(word.version, self._stable.get(word.fragment, 0))
        answer = self._offered.get(word.fragment)
        return self._install(answer) if answer is not None and answer.version <= word.version else None

    def _install(self, answer: Params) -> Install:
        self._outstanding.pop(answer.fragment, None)
        self._beginning.discard(answer.fragment)
        self._offered.pop(answer.fragment, None)
        return Install(
            answer.fragment,
            answer.clock,
            answer.version,
            answer.staleness,
            answer.lead,
            answer.full,
            answer.packet,
            answer.work,
        )
