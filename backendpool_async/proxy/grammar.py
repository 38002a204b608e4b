"""Which bytes may stand where in a message (RFC 9110, RFC 3986)."""

from __future__ import annotations

from typing import Final

TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Of a Host field: a name, an address in brackets, a port.
HOST: Final = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._~%!$&'()*+,;=:[]"
LONGEST_HOST: Final = 512
