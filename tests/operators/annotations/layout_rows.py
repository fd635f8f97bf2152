"""Rows of the published layouts, sound ones and mutated ones, for the tests of their parsers."""

from hypothesis import strategies as st

WORDS = st.lists(
    st.sampled_from(["<image>", "<video>", "\n", " ", "word", "<b>", "QA_GT_caption_based_noisy"]), max_size=6
).map("".join)

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(alphabet=st.characters(), max_size=4)
    | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def talk(*texts, role="from", text="value", names=("human", "gpt")):
    """Turns in alternation."""
    return [{role: names[index % 2], text: said} for index, said in enumerate(texts)]


def row(*texts, **fields):
    """A row of LLaVA's layout."""
    return {"id": "1", "conversations": talk(*texts), **fields}


def messages(*texts, **fields):
    """A row of LLaMA-Factory's layout."""
    return {"messages": talk(*texts, role="role", text="content", names=("user", "assistant")), **fields}


def _talks(**spelling):
    odd_turns = st.fixed_dictionaries(
        {},
        optional={
            spelling.get("role", "from"): st.sampled_from(["human", "gpt", "user", "assistant", "system"])
            | anything,
            spelling.get("text", "value"): WORDS | anything,
        },
    )
    return st.one_of(
        st.lists(WORDS, max_size=6).map(lambda texts: talk(*texts, **spelling)),
        st.tuples(st.lists(WORDS, max_size=4), odd_turns | anything, st.lists(WORDS, max_size=2)).map(
            lambda parts: [*talk(*parts[0], **spelling), parts[1], *talk(*parts[2], **spelling)]
        ),
    )


_paths = st.sampled_from(["1.jpg", "ü.jpg", "", "\ud800"])
_media = st.one_of(
    st.none(),
    _paths,
    st.lists(_paths, max_size=3),
    st.sampled_from([["a.jpg"] * 2, ["a.jpg"] * 3, ["1.mp4", 2], ["a"] * 65]),
    anything,
)
_picture = st.sampled_from([{"path": None}, {"bytes": b"x"}, {"bytes": None}, {"bytes": "x"}, {}, None, 3])

FIELDS = {
    "id": st.sampled_from(["1", "ü", "\ud800", 7, 10**5000, True, 1.5, None]) | anything,
    "image": _media | _picture | st.lists(_picture, max_size=3),
    "video": _media,
    "images": _media,
    "videos": _media,
    "audios": st.sampled_from([None, [], ["1.wav"]]),
    "system": st.sampled_from([None, "", "Be kind."]),
    "conversations": _talks() | anything,
    "messages": st.none() | _talks(role="role", text="content", names=("user", "assistant")) | anything,
    "q": WORDS | anything,
    "a": WORDS | anything,
    "video_id": st.text(max_size=3) | anything,
}
"""Values, right or wrong, of the fields of all layouts."""

_sound = st.sampled_from(
    [
        row("<image>\nq", "a", image="1.jpg"),
        row("<image>\nq", "a", "q", "a", images=["1.jpg"]),
        row("<image><image>q", "a", image=["1.jpg", "2.jpg"]),
        row("<video>\nq", "a", video="1.mp4"),
        row("<video><image>\nq", "a", image="1.jpg", video="1.mp4"),
        row("<image>\nq", "a", image={"path": None}),
        row("q", "a", "q", "a"),
        messages("<image>q", "a", "q", "a", images=["1.jpg"]),
        messages("q", "a"),
        {"q": "q", "a": "a", "video_id": "v_x"},
    ]
)

_changes = st.lists(
    st.one_of([st.tuples(st.just(name), values) for name, values in FIELDS.items()]), max_size=2
).map(dict)

rows = st.builds(lambda sound, changes: {**sound, **changes}, _sound, _changes)
"""Sound rows with some fields replaced or added."""
