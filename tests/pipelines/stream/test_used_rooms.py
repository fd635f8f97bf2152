"""Rooms are used again when nobody looks at them any more, and never before."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from pipelines.stream.used_rooms import UsedRooms


def address_of(room: memoryview) -> int:
    return np.frombuffer(room, np.uint8).ctypes.data


def test_a_room_is_used_again_once_nobody_holds_a_part_of_it() -> None:
    rooms = UsedRooms()
    first = rooms.take(1000)
    address = address_of(first)
    assert address % 64 == 0
    part = first[10:20]
    del first
    assert address_of(rooms.take(1000)) != address, "a part of it is still held"
    tensor = torch.frombuffer(part, dtype=torch.uint8)
    del part
    other = rooms.take(900)
    assert address_of(other) != address, "a tensor lies in it"
    del tensor
    assert address_of(rooms.take(900)) == address


def test_the_room_that_was_used_last_comes_first() -> None:
    rooms = UsedRooms()
    held = [rooms.take(1000) for _ in range(5)]
    addresses = [address_of(room) for room in held]
    held.clear()
    assert address_of(rooms.take(1000)) == addresses[-1]
    kept = rooms.take(1000)
    assert address_of(kept) == addresses[-1]
    again = rooms.take(1000)
    assert address_of(again) == addresses[-2]
    del kept
    assert address_of(rooms.take(1000)) == addresses[-1]


def test_a_room_is_not_wasted_on_little() -> None:
    rooms = UsedRooms()
    address = address_of(rooms.take(1000))
    assert len(rooms.take(100)) == 100
    kept = rooms.take(100)
    assert address_of(kept) != address
    assert address_of(rooms.take(1000)) == address


def test_free_rooms_are_given_back() -> None:
    rooms = UsedRooms(max_free_bytes=5000)
    held = [rooms.take(size) for size in range(1000, 3000, 256)]
    assert len(rooms._rooms) == len(held)
    held.clear()
    rooms.take(9000)
    assert sum(map(len, rooms._rooms)) <= 9000 + 64


def test_threads_get_rooms_of_their_own() -> None:
    rooms = UsedRooms()

    def write(number: int) -> bool:
        room = rooms.take(4096)
        room[:] = bytes([number % 251]) * 4096
        return all(bytes(room) == bytes([number % 251]) * 4096 for _ in range(3))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write, range(2000)))
    assert len(rooms._rooms) <= 8


def test_they_travel_without_what_they_hold() -> None:
    rooms = UsedRooms(123)
    rooms.take(100)
    assert pickle.loads(pickle.dumps(rooms))._rooms == []
