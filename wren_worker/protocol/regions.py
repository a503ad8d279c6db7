"""Where in a pickle its opcodes lie: large payloads stand outside its frames and need not be searched.

Pure layout, imports nothing of ours, unpickles nothing. Searching 10 MB of an array for a name costs as much as copying
it, and there is a search per local module.
"""

from __future__ import annotations

import struct

__all__ = ["without_payloads"]

#: Shorter pickles are searched as they are.
_SHORT_BYTES = 64 * 1024
_PROTO, _FRAMED_SINCE = b"\x80", 4
_FRAME = 0x95
#: Opcodes that may stand outside a frame with a payload behind them: BINBYTES, BINUNICODE, BINBYTES8, BINUNICODE8,
#: BYTEARRAY8, by the format of their payload's length.
#: Source: PEP 3154 ("framing") and PEP 574, read 2026-11.
_PAYLOADS = {
    ord("B"): struct.Struct("<xI"),
    ord("X"): struct.Struct("<xI"),
    0x8E: struct.Struct("<xQ"),
    0x8D: struct.Struct("<xQ"),
    0x96: struct.Struct("<xQ"),
}
#: Opcodes without a payload, and BININT1 and BINGET with their one byte: fewer than four bytes of them get no frame.
_SHORT = dict.fromkeys(b"]})(.Ntesuab0R\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x93\x94\x97\x98", 1) | dict.fromkeys(
    b"Kh", 2
)
_FRAME_HEAD = struct.Struct("<xQ")


def without_payloads(data: bytes) -> bytes:
    """Return what of a pickle (protocol 4 or later) holds names: its frames, without the large payloads between them.

    What is not laid out as expected is returned as it is.
    """
    if len(data) < _SHORT_BYTES or data[:1] != _PROTO or data[1] < _FRAMED_SINCE:
        return data  # not worth it, or a piece of a pickle, which may begin anywhere
    kept: list[memoryview] = []
    view, position, total = memoryview(data), 2, len(data)
    while position + _FRAME_HEAD.size <= total:
        opcode = data[position]
        if opcode == _FRAME:
            end = position + _FRAME_HEAD.size + _FRAME_HEAD.unpack_from(data, position)[0]
            kept.append(view[position:end])
        elif (payload := _PAYLOADS.get(opcode)) is not None:
            end = position + payload.size + payload.unpack_from(data, position)[0]
        elif opcode in _SHORT:
            end = position + _SHORT[opcode]
            kept.append(view[position:end])
        else:
            break  # a pickler that frames differently: what is left is kept
        if end > total:
            return data
        position = end
    kept.append(view[position:])
    return data if sum(map(len, kept)) > total // 2 else b"".join(kept)
