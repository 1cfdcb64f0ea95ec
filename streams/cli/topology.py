"""``streams topology``: an app as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streams.cli.options import AppOption, ConfigOption
from streams.errors import ConfigurationError

__all__ = ["topology"]


def topology(
    app: AppOption,
    config: ConfigOption = None,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="As a mermaid flowchart.")] = False,
    svg: Annotated[str | None, typer.Option("--svg", metavar="FILE", help="As SVG into a file; - for stdout.")] = None,
) -> None:
    """Draw an app: what its tasks read, do, keep and write."""
    from streams.cli.load import load_app
    from streams.runtime.draw import as_mermaid, as_text, draw
    from streams.runtime.svg import as_svg

    if mermaid and svg is not None:
        raise ConfigurationError("--mermaid and --svg are two answers; ask for one of them")
    found = load_app(app, config)
    if svg is None:
        print(as_mermaid(draw(found)) if mermaid else as_text(found), end="")
        return
    picture = as_svg(draw(found))
    if svg == "-":
        print(picture, end="")
        return
    try:
        Path(svg).write_text(picture, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--svg {svg}: can't be written ({error.strerror})") from error
    print(f"wrote {svg}")
