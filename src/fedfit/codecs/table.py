"""The table of codecs, by the names of ``[transport]``.

A codec of one's own needs no row here: ``package.module:Codec`` names its class, and so does an entry point of the group
``fedfit.codecs``.
"""

from __future__ import annotations

from fedfit.codecs.contract import Codec
from fedfit.codecs.plain import PlainCodec
from fedfit.core.plugins import find

CODECS: dict[str, type[Codec]] = {"plain": PlainCodec}


def make_codec(names: tuple[str, ...]) -> Codec:
    """The codec that ``names`` name.

    Raises:
        LookupError: with the reason, for a name that leads to none, and for more than one.
    """
    if len(names) != 1:
        raise LookupError(f"{len(names)} codecs are named; name one")
    kind: type[Codec] = find(names[0], CODECS, "fedfit.codecs", type)
    try:
        codec = kind()
    except TypeError as error:
        raise LookupError(f"{names[0]} is no codec: it cannot be made without arguments ({error})") from error
    if not isinstance(codec, Codec):
        missing = [name for name in ("bits_per_number", "encode", "decode", "most_bytes") if not hasattr(codec, name)]
        raise LookupError(f"{names[0]} is no codec: it lacks {', '.join(missing)}")
    return codec
