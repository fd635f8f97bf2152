"""Who works for a dispatcher, and at what; what it asks at each report costs the same for any number.

Limits are the same for all, and time goes on: so whoever was hired first is late first, and likewise whoever
was given work first. Two queues in that order (linked lists, from which anybody can leave) tell who is late
next, a heap who rests. Tests compare it with lists that are searched through.
"""

import heapq
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

Task = TypeVar("Task")


@dataclass(slots=True)
class Post(Generic[Task]):
    """What a worker is at; one that is ready and has no task rests."""

    deadline_s: float
    """Of its start or its task."""
    is_ready: bool = False
    task: Task | None = None
    start_s: float = 0.0
    """When it was given the task."""


class Roster(Generic[Task]):
    """Workers by number: starting, busy or at rest. Deadlines are given in the order in which they fall."""

    def __init__(self) -> None:
        """Nobody."""
        self._posts: dict[int, Post[Task]] = {}
        self._starting: OrderedDict[int, Post[Task]] = OrderedDict()
        self._busy: OrderedDict[int, Post[Task]] = OrderedDict()
        self._resting: list[int] = []
        """A heap; workers that are gone stay in it until they come up."""

    def __len__(self) -> int:
        """How many are hired."""
        return len(self._posts)

    def __getitem__(self, worker: int) -> Post[Task]:
        """What somebody is at."""
        return self._posts[worker]

    @property
    def num_busy(self) -> int:
        """How many hold a task."""
        return len(self._busy)

    @property
    def has_ready(self) -> bool:
        """Whether anybody has started."""
        return len(self._posts) > len(self._starting)

    def add(self, worker: int, deadline_s: float) -> None:
        """Somebody was hired."""
        self._posts[worker] = self._starting[worker] = Post(deadline_s)

    def rest(self, worker: int) -> None:
        """Somebody has started, or has no task any more."""
        post = self._posts[worker]
        post.task, post.is_ready = None, True
        self._starting.pop(worker, None)
        self._busy.pop(worker, None)
        heapq.heappush(self._resting, worker)

    def take_resting(self) -> int | None:
        """The lowest number among those who rest; it has to be given a task, to rest or to be removed."""
        while self._resting:
            worker = heapq.heappop(self._resting)
            if worker in self._posts:
                return worker
        return None

    def occupy(self, worker: int, task: Task, start_s: float, deadline_s: float) -> None:
        """Somebody was given a task."""
        post = self._posts[worker]
        post.task, post.start_s, post.deadline_s = task, start_s, deadline_s
        self._busy[worker] = post

    def remove(self, worker: int) -> Post[Task]:
        """Somebody is gone."""
        self._starting.pop(worker, None)
        self._busy.pop(worker, None)
        return self._posts.pop(worker)

    def first_due(self) -> tuple[float, int] | None:
        """The next deadline, and whose it is."""
        workers = [next(iter(queue)) for queue in (self._starting, self._busy) if queue]
        return min(((self._posts[worker].deadline_s, worker) for worker in workers), default=None)
