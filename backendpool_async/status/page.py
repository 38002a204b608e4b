"""The page: one HTML document that needs nothing but itself and its data."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Final

_FILES: Final = files(__name__.rpartition(".")[0])
# Read when it is imported, not while a loop runs.
_PAGE, _STYLE, _SCRIPT = (
    (_FILES / name).read_text("utf-8") for name in ("page.html", "page.css", "page.js")
)


def page(title: str) -> bytes:
    """Return the document.

    >>> b"<title>A &lt; B</title>" in page("A < B")
    True
    """
    # The title last: whatever is in it, nothing is put into it.
    whole = _PAGE.replace("{{style}}", _STYLE).replace("{{script}}", _SCRIPT)
    return whole.replace("{{title}}", escape(title)).encode("utf-8", "replace")


def content_security_policy() -> str:
    """Return what the page may do: run its own script, use its own style, ask its own server."""
    return (
        f"default-src 'none'; script-src {_source(_SCRIPT)}; style-src {_source(_STYLE)};"
        " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'self'"
    )


def _source(text: str) -> str:
    # CSP Level 3, section 2.3.1: the digest of exactly what is between the tags.
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
