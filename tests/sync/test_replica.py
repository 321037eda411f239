from __future__ import annotations

from table import answer, push, view

from roadtrain.message import Nack, Pull, Stable
from roadtrain.sync.effects import Out, Resent
from roadtrain.sync.replica import Replica

PUSHES = [push(1, 0, 1.0, fragment=f) for f in (0, 1)]


def replica() -> Replica:
    """Worker a with a contribution to each of two fragments, owned by b and by c."""
    one = Replica("a")
    one.join(view(1, "abc", ["b", "c"], ["c", "b"]), Out())
    for each in PUSHES:
        one.contribute(each, Out())
    return one


def test_a_contribution_goes_to_the_owner_of_its_fragment() -> None:
    one, out = Replica("a"), Out()
    one.join(view(1, "abc", ["b", "c"], ["c", "b"]), out)
    assert out.messages == []
    for each in PUSHES:
        one.contribute(each, out)
    assert out.messages == [("b", PUSHES[0]), ("c", PUSHES[1])]
    assert one.outstanding == 2


def test_an_answer_is_installed_once() -> None:
    one = replica()
    install = one.params(answer(1, 9, 4.0, fragment=0))
    assert install is not None
    assert (install.fragment, install.clock, install.version, install.staleness, install.lead) == (0, 1, 9, 2, 1)
    assert install.full
    assert one.params(answer(1, 9, 4.0, fragment=0)) is None
    assert one.outstanding == 1


def test_an_answer_to_another_question_is_not_installed() -> None:
    one = replica()
    one.params(answer(1, 9, 4.0, fragment=0))
    one.contribute(push(2, 9, 1.0), Out())
    assert one.params(answer(1, 9, 4.0, fragment=0)) is None, "a late copy of the answer before"
    assert one.params(answer(1, 9, 4.0, fragment=7)) is None
    assert one.params(answer(2, 9, 4.0, fragment=0)) is not None


def test_probing_asks_without_pushing() -> None:
    one, out = replica(), Out()
    one.probe(out)
    assert out.messages == [("b", Pull(0, 1)), ("c", Pull(1, 1))]
    out = Out()
    one.probe(out, "c")
    assert out.messages == [("c", Pull(1, 1))]
    one.params(answer(1, 9, 4.0, fragment=0))
    out = Out()
    one.probe(out)
    assert out.messages == [("c", Pull(1, 1))]


def test_what_is_missing_is_pushed_again() -> None:
    one, out = replica(), Out()
    one.missing(Nack(1, 1), out)
    assert out.messages == [("c", PUSHES[1])]
    assert out.events == [Resent(1)]
    for stale in (Nack(1, 2), Nack(5, 1)):
        out = Out()
        one.missing(stale, out)
        assert out.messages == []


def test_a_new_owner_gets_the_contribution_and_one_that_stayed_a_question() -> None:
    one, out = replica(), Out()
    one.join(view(2, "ac", ["c", "c"], ["a", "a"]), out)
    assert out.messages == [("c", PUSHES[0]), ("c", Pull(1, 1))]
    assert one.pushes() == PUSHES


def test_an_offer_is_installed_when_it_is_settled() -> None:
    one = replica()
    offer = answer(1, 9, 4.0, stable=False)
    assert one.params(offer) is None
    assert one.stable(Stable(0, 8)) is None
    assert one.stable(Stable(1, 9)) is None
    assert one.outstanding == 2
    install = one.stable(Stable(0, 9))
    assert install is not None
    assert (install.clock, install.version, install.packet) == (1, 9, offer.packet)
    assert one.stable(Stable(0, 9)) is None


def test_an_offer_may_come_after_its_settlement() -> None:
    one = replica()
    assert one.stable(Stable(0, 9)) is None
    assert one.params(answer(1, 9, 4.0, stable=False)) is not None


def test_an_offer_of_a_lost_owner_is_void() -> None:
    one = replica()
    one.params(answer(1, 9, 4.0, stable=False))
    one.join(view(2, "ac", ["c", "c"], ["a", "a"]), Out())
    assert one.stable(Stable(0, 9)) is None, "another owner's version 9 may be made of other contributions"


def test_the_word_of_a_lost_owner_is_void() -> None:
    one = replica()
    one.stable(Stable(0, 9))
    one.join(view(2, "ac", ["c", "c"], ["a", "a"]), Out())
    assert one.params(answer(1, 9, 4.0, stable=False)) is None
    assert one.stable(Stable(0, 9)) is not None
