"""The files of a site of one page, which lists other sites."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from tasks.documents import SiteFile
from tasks.render.pages import Site, assets, drawn
from tasks.result_cache import ResultCache

_TITLE = "Documentation"
_ASSETS = ("docmill.css", "theme.js")


class Listed(Struct, frozen=True):
    """A site in the list: its address, if known, its place, and what it is, if it was published."""

    repository: str
    branch: str
    url: str | None
    place: str
    revision: str | None = None
    published: datetime | None = None
    pages: int = 0
    share_with_text: float = 0.0


def index_files(sites: Sequence[Listed], cache: ResultCache) -> dict[str, SiteFile]:
    """The files of the index by path, their content in the cache."""
    contents = dict(assets()[name] for name in _ASSETS)
    page = drawn("sites.html", Site(_TITLE, None), "index.html", sites=sites)
    contents["index.html"] = page.encode()
    files = {}
    for path, data in contents.items():
        digest = hashlib.sha256(data).hexdigest()
        files[path] = SiteFile(f"file:{digest[:40]}", digest, len(data))
        cache.put_many({files[path].key: data})
    return files
