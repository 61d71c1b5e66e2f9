"""Read text out of a pickle without ever running it.

LiveCodeBench packs its private tests as base64(zlib(pickle(text))). `pickle.loads` would run
whatever a pickle asks for, so it is not used: the opcodes are read as data, and only those that
put down a single text are allowed.
"""

import base64
import binascii
import pickletools
import zlib

# The largest tests of LiveCodeBench are some tens of MB.
MAX_BYTES = 512 << 20

_TEXTS = {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
# The protocol's number, the length of a frame, and a note of the text for later use.
_FORMALITIES = {"PROTO", "FRAME", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}


def unpack(packed: str, max_bytes: int = MAX_BYTES) -> str:
    """Return the text of base64(zlib(pickle(text))).

    Raises:
        ValueError: it is packed otherwise, is more than `max_bytes` long when unpacked, or its
            pickle holds anything but one text.
    """
    try:
        compressed = base64.b64decode(packed, validate=True)
        stream = zlib.decompressobj()
        pickled = stream.decompress(compressed, max_bytes)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise ValueError(f"tests are neither JSON nor base64 of zlib: {error}") from None
    if stream.unconsumed_tail:
        raise ValueError(f"tests are over {max_bytes} bytes when unpacked")
    return text_of_pickle(pickled)


def text_of_pickle(pickled: bytes) -> str:
    """Return the text of a pickle that holds only a text, in any protocol.

    Raises:
        ValueError: it is cut off or holds anything else, such as a call; nothing of it is run.
    """
    texts = []
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in _TEXTS and not texts:
            texts.append(argument)
        elif opcode.name == "STOP" and texts:
            return texts[0]
        elif opcode.name not in _FORMALITIES:
            break
    raise ValueError(f"a pickle that is no single text is refused and not run; found {opcode.name}")
