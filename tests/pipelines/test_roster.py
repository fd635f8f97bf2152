"""The roster against lists that are searched through."""

import random

from pipelines.roster import Roster


class SearchedRoster:
    """The same answers, by looking at everybody."""

    def __init__(self) -> None:
        self.deadlines: dict[int, float] = {}
        self.states: dict[int, str] = {}

    def resting(self) -> list[int]:
        return [worker for worker, state in self.states.items() if state == "resting"]

    def first_due(self) -> tuple[float, int] | None:
        due = [
            (self.deadlines[worker], worker) for worker, state in self.states.items() if state != "resting"
        ]
        return min(due, default=None)


def test_random_lives_agree_with_searching() -> None:
    draw = random.Random(0)
    roster, searched = Roster[str](), SearchedRoster()
    taken: set[str] = set()
    for now in range(1000):
        action = draw.choice(["add", "rest", "give", "give", "remove"])
        if action == "add":
            roster.add(now, now + 50.0)
            searched.states[now], searched.deadlines[now] = "starting", now + 50.0
        elif action == "rest" and (at_work := [w for w in searched.states if w not in searched.resting()]):
            worker = draw.choice(at_work)
            roster.rest(worker)
            searched.states[worker] = "resting"
        elif action == "give":
            worker = roster.take_resting()
            assert worker == min(searched.resting(), default=None)
            if worker is not None:
                roster.occupy(worker, f"task {now}", float(now), now + 70.0)
                searched.states[worker], searched.deadlines[worker] = "busy", now + 70.0
                taken.add(f"task {now}")
        elif action == "remove" and searched.states:
            worker = draw.choice(sorted(searched.states))
            assert roster.remove(worker).is_ready == (searched.states.pop(worker) != "starting")
        states = list(searched.states.values())
        assert len(roster) == len(states)
        assert roster.num_busy == states.count("busy")
        assert roster.has_ready == (states.count("starting") < len(states))
        assert roster.first_due() == searched.first_due()
        assert all((roster[w].task in taken) == (state == "busy") for w, state in searched.states.items())
    assert len(taken) > 100
