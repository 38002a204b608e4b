"""What to install where a library is missing."""

from __future__ import annotations

from typing import Final

# Where a distribution is not called as what it brings.
_DISTRIBUTIONS: Final = {"dns": "dnspython", "opentelemetry": "opentelemetry-api"}


def missing(what: str, requirement: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return the error to raise when the import of what needs a library has failed.

    >>> error = ModuleNotFoundError(name="dns.flags")
    >>> print(missing("FakeDnsServer", "'backendpool-async[testing]'", error))
    FakeDnsServer needs dnspython: pip install 'backendpool-async[testing]'
    """
    library = str(error.name).partition(".")[0]
    return ModuleNotFoundError(
        f"{what} needs {_DISTRIBUTIONS.get(library, library)}: pip install {requirement}",
        name=error.name,
    )
