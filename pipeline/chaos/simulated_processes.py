"""Processes that are none: coroutines of one thread, of which exactly one runs, and a seed says which.

Belongs here: taking turns, waiting, pausing, dying, and an executor whose threads take part in it. Does not: what processes do, or what
goes wrong with them (`simulation`).
"""

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

STEPS_MAX = 20_000
"""Turns after which a simulation is called endless."""

GOES_ON = 0.6
"""Share of turns in which whoever ran last runs on: long stretches of one process, with an interruption now and then."""


class KilledError(BaseException):
    """The process is dead. Whatever it does on its way down comes to nothing."""


class EndlessError(AssertionError):
    """Nobody can go on, or they go on for ever."""


@dataclass(eq=False)
class Process:
    """One caller of the product.

    Attributes:
        where: the point that it came past last.
        asleep: turns for which it is paused.
        ended: what it returned or raised; None while it runs.
    """

    name: str
    is_alive: bool = True
    where: str = "start"
    asleep: int = 0
    ended: Any = None
    is_over: bool = False
    connections: list[Any] = field(default_factory=list)

    def require_alive(self) -> None:
        if not self.is_alive:
            raise KilledError

    @property
    def state(self) -> str:
        if self.is_over:
            return "dead" if not self.is_alive else "over"
        return f"paused at {self.where}" if self.asleep else self.where


class Fiber(greenlet):
    """One thread of a process."""

    def __init__(self, process: Process, function: Callable[[], Any], parent: greenlet) -> None:
        super().__init__(function, parent)
        self.process = process
        self.until: Callable[[], bool] | None = None
        self.patience: Exception | None = None


class Machine:
    """Whose turn it is.

    Args:
        draw: decides it.
        between: called before every turn; the world moves then.
    """

    def __init__(self, draw: random.Random, between: Callable[[], None]) -> None:
        self._draw, self._between = draw, between
        self._fibers: list[Fiber] = []
        self._last: Fiber | None = None
        self.processes: list[Process] = []

    @property
    def running(self) -> Process | None:
        fiber = getcurrent()
        return fiber.process if isinstance(fiber, Fiber) else None

    def start(self, process: Process, function: Callable[[], Any]) -> Process:
        """A process that calls `function`."""

        def live() -> None:
            try:
                process.ended = function()
            except KilledError:
                process.ended = None
            except Exception as error:
                process.ended = error
            process.is_over = True
            for connection in list(process.connections):
                connection.close()

        self.processes.append(process)
        self.spawn(process, live)
        return process

    def spawn(self, process: Process, function: Callable[[], Any]) -> Fiber:
        def mortal() -> None:
            with suppress(KilledError):
                function()

        hub = getcurrent()
        fiber = Fiber(process, mortal, hub.parent if isinstance(hub, Fiber) else hub)
        self._fibers.append(fiber)
        return fiber

    def pass_turn(self) -> None:
        """Let others go on; does nothing where nobody else is."""
        fiber = getcurrent()
        if isinstance(fiber, Fiber):
            if fiber.process.asleep or any(f is not fiber and not f.dead for f in self._fibers):
                fiber.parent.switch()
            fiber.process.require_alive()

    def wait(self, until: Callable[[], bool], patience: Exception | None = None) -> None:
        """Go on once `until` holds; raises `patience` where it does not while nobody else can go on."""
        fiber = getcurrent()
        if not isinstance(fiber, Fiber):
            assert until(), "the world waits for nobody"
            return
        fiber.process.require_alive()
        while not until():
            fiber.until, fiber.patience = until, patience
            fiber.parent.switch()
            fiber.process.require_alive()

    def kill(self, process: Process) -> None:
        """End a process: its connections are gone, and it goes no further."""
        process.is_alive = False
        for connection in list(process.connections):
            connection.sever()

    def run(self) -> None:
        """Until nobody is left.

        Raises:
            EndlessError: they do not come to an end.
        """
        for _ in range(STEPS_MAX):
            self._fibers = [fiber for fiber in self._fibers if not fiber.dead]
            if not self._fibers:
                return
            self._between()
            self._turn()
        raise EndlessError("they go on for ever")

    def _turn(self) -> None:
        for fiber in self._fibers:
            if not fiber.process.is_alive:
                _kill(fiber)
                return
        awake = [fiber for fiber in self._fibers if not fiber.process.asleep]
        ready = [fiber for fiber in awake if fiber.until is None or fiber.until()]
        for process in {id(f.process): f.process for f in self._fibers if f.process.asleep}.values():
            process.asleep = process.asleep - 1 if ready else 0
        if ready:
            fiber = self._last if self._last in ready and self._draw.random() < GOES_ON else self._draw.choice(ready)
            self._last, fiber.until = fiber, None
            fiber.switch()
        elif len(awake) == len(self._fibers):
            self._lose_patience()

    def _lose_patience(self) -> None:
        impatient = [fiber for fiber in self._fibers if fiber.patience is not None]
        if not impatient:
            raise EndlessError(f"nobody can go on: {[fiber.process.where for fiber in self._fibers]}")
        fiber = self._draw.choice(impatient)
        patience, fiber.until, fiber.patience = fiber.patience, None, None
        fiber.throw(patience)

    def end(self) -> None:
        """Leave nobody behind."""
        for process in self.processes:
            if not process.is_over:
                self.kill(process)
        for fiber in self._fibers:
            if not fiber.dead:
                _kill(fiber)


def _kill(fiber: Fiber) -> None:
    fiber.throw(KilledError if fiber else GreenletExit)  # one that has not begun has nothing to unwind


class Future:
    """What a thread will have come to."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self.is_done = machine, False
        self._value: Any = None
        self._error: BaseException | None = None

    def come_to(self, function: Callable[[], Any]) -> None:
        try:
            self._value = function()
        except Exception as error:
            self._error = error
        finally:
            self.is_done = True

    def result(self) -> Any:
        self._machine.wait(lambda: self.is_done)
        if self._error:
            raise self._error
        return self._value


class Threads:
    """A `ThreadPoolExecutor` whose threads take turns with everybody else."""

    def __init__(self, machine: Machine, max_workers: int) -> None:
        self._machine, self._workers = machine, max_workers
        self._futures: list[Future] = []

    def __enter__(self) -> "Threads":
        return self

    def __exit__(self, *_: object) -> None:
        process = self._machine.running
        if process is None or process.is_alive:
            self._machine.wait(lambda: all(future.is_done for future in self._futures))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        future, before = Future(self._machine), list(self._futures)
        self._futures.append(future)

        def work() -> None:
            self._machine.wait(lambda: sum(not other.is_done for other in before) < self._workers)
            future.come_to(lambda: function(*arguments))

        self._machine.spawn(self._machine.running, work)
        return future
