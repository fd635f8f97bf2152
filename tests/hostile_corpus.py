"""A corpus whose annotations try to get out of any page that shows them; sharded, not encoded."""

import json
from pathlib import Path

from PIL import Image

from infra.storage import open_storage
from pipelines.engine import SerialEngine
from pipelines.ingest.flow import ingest
from pipelines.shard.flow import shard
from schemas.recipe import Recipe

SCRIPT = "<script>document.title='taken'</script>"
HANDLER = "\"><img src=x onerror=\"document.title='taken'\"><a href='javascript:1'>"
CLOSER = "</dd></dl></details></body></html><!-- {{ 7 * 7 }} {% raw %}"
BIDI = "safe \u202egnp.exe\u202c \u2066x\u2069"
HUGE = "x" * 200_000


def talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def build_hostile_corpus(folder: Path) -> Path:
    rows: list[object] = []
    for number, text in enumerate([SCRIPT, HANDLER, CLOSER, BIDI, HUGE]):
        Image.new("RGB", (40 + 20 * number, 30), (30 * number, 90, 200)).save(folder / f"{number}.png")
        rows.append(
            {"id": text[:50], "image": f"{number}.png", "conversations": talk(f"<image>\n{text}", text)}
        )
    rows += [{"id": SCRIPT, "image": f"{SCRIPT}.png", "conversations": talk(f"<image>{HANDLER}", CLOSER)}]
    rows += [{"id": 1, "image": "0.png", "conversations": talk(f"<image>{BIDI}{HANDLER}", "")}] * 5
    rows += [{"id": 2, "image": "0.png", "conversations": HUGE}, SCRIPT]
    (folder / "rows.json").write_text(json.dumps(rows))
    source = {
        "name": "hostile",
        "format": "llava",
        "annotations": str(folder / "rows.json"),
        "media_root": str(folder),
        "reject_budget": 1.0,
    }
    recipe = Recipe.model_validate({"name": "hostile", "sources": [source]})
    storage = open_storage(folder / "corpus")
    ingest(recipe, storage, SerialEngine())
    shard(recipe, storage, SerialEngine())
    return folder / "corpus"
