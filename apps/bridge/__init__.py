"""The bridge: any topic of any transport to any other, from a small TOML file.

    config ── what the file may say: routes, their filters, keys and codecs
    patterns ── topics with wildcards, templates of keys
    routes ── from the file to an App: a pipeline for each source and target

    streams worker -A streams.apps.bridge --config bridge.toml

What must live here: what a route is.  What must not: any transport.
"""

from __future__ import annotations

from streams.apps.bridge.routes import make_bridge as app

__all__ = ["app"]
