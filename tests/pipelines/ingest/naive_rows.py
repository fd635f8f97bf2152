"""The plainest way to read an annotation file: byte by byte, all of it in memory."""

import json

import msgspec

SPACES = b" \t\r\n"
CLOSERS = {"[": "]", "{": "}"}


def naive_rows(data):
    """(raw, value or None, whether it is sound) of every row; None for a file that is broken between rows."""
    text = data.removeprefix(b"\xef\xbb\xbf")
    if text.lstrip(SPACES).startswith(b"["):
        raws = _split_list(text)
    elif text.lstrip(SPACES).startswith(b"{") and text.split(b"\n")[0].strip(SPACES) != b"{":
        raws = [line.strip(SPACES) for line in text.split(b"\n") if line.strip(SPACES)]
    else:
        raws = None
    return None if raws is None else [(raw, *_parse(raw)) for raw in raws]


def _parse(raw):
    try:
        value = msgspec.json.decode(raw)
        json.loads(raw.decode(), object_pairs_hook=_refuse_doubles)
    except (ValueError, RecursionError):
        return None, False
    return value, True


def _refuse_doubles(pairs):
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _split_list(data):
    """The rows of a list, by strings and brackets alone."""
    text = data.decode("latin-1")
    at = _skip(text, text.index("[") + 1)
    raws = []
    if text[at : at + 1] == "]":
        return None if _skip(text, at + 1) < len(text) else raws
    while True:
        end = _end_of_value(text, at)
        if end is None:
            return None
        raws.append(data[at:end])
        at = _skip(text, end)
        if text[at : at + 1] == "]":
            return None if _skip(text, at + 1) < len(text) else raws
        if text[at : at + 1] != ",":
            return None
        at = _skip(text, at + 1)


def _skip(text, at):
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _end_of_value(text, at):
    if text[at : at + 1] == '"':
        return _end_of_string(text, at)
    if text[at : at + 1] not in ("[", "{"):
        start = at
        while at < len(text) and text[at] not in ' \t\r\n\v\f,[]{}"':
            at += 1
        return at if at > start else None
    wanted = []
    while at < len(text):
        letter = text[at]
        if letter == '"':
            at = _end_of_string(text, at)
            if at is None:
                return None
            continue
        at += 1
        if letter in CLOSERS:
            wanted.append(CLOSERS[letter])
        elif letter in "]}" and wanted.pop() != letter:
            return None
        if not wanted:
            return at
    return None


def _end_of_string(text, at):
    at += 1
    while at < len(text) and text[at] != '"':
        at += 2 if text[at] == "\\" else 1
    return at + 1 if at < len(text) else None
