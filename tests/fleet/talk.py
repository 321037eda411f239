"""A worker's end of a connection, frame by frame, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from roadtrain.membership.frames import PROTOCOL, Beat, Down, Hello, Up, Welcome, encode, from_coordinator
from roadtrain.membership.messages import FromWorker, Join, NewView, RunSpec, ToWorker
from roadtrain.version import VERSION

T = TypeVar("T", bound=ToWorker)
SPEC = RunSpec(run="a run", plan="[job]", folder="/nowhere", resume=None, begun=(0, 0))


class Talk:
    """One connection of the process `process`, which has said and heard so much before."""

    def __init__(
        self,
        send: Callable[[bytes], None],
        receive: Callable[[], bytes],
        process: str,
        said: int = 0,
        heard: int = 0,
    ) -> None:
        self._send, self._receive = send, receive
        self.process, self.said, self.heard = process, said, heard
        self.conversation = 1 if said or heard else 0
        self.acknowledged = 0

    def frame(self) -> Down:
        """The next message, which is not a beat."""
        while isinstance(frame := from_coordinator(self._receive()), Beat):
            self.acknowledged = frame.heard
        assert isinstance(frame, Down)
        assert frame.number == self.heard + 1
        self.heard, self.acknowledged = frame.number, frame.heard
        return frame

    def hello(self, protocol: int = PROTOCOL) -> Welcome:
        """Say who this is; the answer."""
        self._send(encode(Hello(protocol, VERSION, self.process, self.heard, self.conversation)))
        welcome = from_coordinator(self._receive())
        assert isinstance(welcome, Welcome)
        return welcome

    def say(self, message: FromWorker, number: int | None = None) -> None:
        """Send a message, by default the next one."""
        self.said = self.said + 1 if number is None else number
        self._send(encode(Up(self.said, self.heard, message)))

    def beat(self, step: int, *, waits: bool = False) -> None:
        """Send a heartbeat."""
        self._send(encode(Beat(self.heard, 1.0, step=step, waits=waits)))

    def hear(self, kind: type[T]) -> T:
        """The next message, which is of this kind."""
        message = self.frame().message
        assert isinstance(message, kind), message
        return message

    def hear_until(self, kind: type[T]) -> T:
        """The next message of this kind."""
        while not isinstance(message := self.frame().message, kind):
            pass
        return message

    def join(self, said: Join) -> None:
        """Come in, as far as being asked to wait for the others."""
        assert self.hello().fresh
        assert self.hear(RunSpec) == SPEC
        self.say(said)

    def view(self) -> NewView:
        """The next view."""
        return self.hear_until(NewView)
