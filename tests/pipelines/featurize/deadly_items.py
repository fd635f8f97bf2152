"""An encoding worker whose process dies at one medium; a module of its own, for child processes import it."""

import os
from dataclasses import dataclass

from pipelines.decode.isolated import IsolatedDecoder
from pipelines.featurize.write import EncodeWorker
from schemas.digest import sha256_hex


@dataclass(frozen=True, slots=True)
class DeadlyItemWorker(EncodeWorker):
    """Dies as long as the medium of a digest is given to it."""

    deadly_sha256: str = ""

    def build(self):
        render = IsolatedDecoder.render

        def render_or_die(decoder, data, kind):
            if sha256_hex(data) == self.deadly_sha256:
                os.abort()
            return render(decoder, data, kind)

        IsolatedDecoder.render = render_or_die
        return EncodeWorker.build(self)
