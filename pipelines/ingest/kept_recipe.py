"""The recipe that a corpus was ingested by, kept beside it: it leads back to annotations and media.

It names places, so it is no part of the manifest: the same corpus may be made from data in two folders, and
then two recipes are kept.
"""

from io import BytesIO
from pathlib import Path
from typing import Final

from infra.storage import Storage
from pipelines.commit import parse_stored, read_named
from pipelines.ingest.inputs import list_inputs
from schemas.corpus import Manifest
from schemas.digest import SHORT, canonical_json, sha256_hex
from schemas.errors import ConfigError
from schemas.recipe import Recipe

FOLDER: Final = "recipes"


def keep_recipe(storage: Storage, recipe: Recipe) -> None:
    """Store a recipe, paths and all."""
    data = canonical_json(recipe.model_dump(mode="json"))
    storage.put(f"{FOLDER}/{recipe.ingest_digest[:SHORT]}-{sha256_hex(data)[:SHORT]}.json", BytesIO(data))


def find_recipe(storage: Storage, manifest: Manifest, here: Path) -> Recipe:
    """The recipe of a manifest whose annotations are there, as seen from `here`.

    Raises:
        ConfigError: when none is, or several are.
    """
    prefix = f"{FOLDER}/{manifest.ingest_digest[:SHORT]}-"
    paths = [path for path in storage.list(FOLDER) if path.startswith(prefix)]
    recipes = [parse_stored(read_named(storage, path), Recipe, f"{storage.url}/{path}") for path in paths]
    usable = [recipe for recipe in recipes if _leads_somewhere(recipe, here)]
    if len(usable) != 1:
        what = "leads to its annotations" if not usable else "is the only one whose annotations are there"
        raise ConfigError(
            f"{storage.url} keeps {len(recipes)} recipes, none of which {what}, seen from {here}; run the "
            "command where ingest was run, or name the recipe with --recipe"
        )
    return usable[0]


def _leads_somewhere(recipe: Recipe, here: Path) -> bool:
    try:
        return bool(list_inputs(recipe, here))
    except ConfigError:
        return False
