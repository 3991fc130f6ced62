"""The binary encoding inside SSH keys and signatures: strings and integers with their lengths (RFC 4251 section 5)."""

from __future__ import annotations


class WireReader:
    """Reads wire values one after the other. Every method raises ValueError where the bytes do not hold the value."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes.

        Raises:
            ValueError: fewer are left.
        """
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise ValueError(f"{size} bytes are promised, {len(taken)} are there")
        self._at += size
        return taken

    def uint32(self) -> int:
        """Return a number of four bytes.

        Raises:
            ValueError: the bytes end.
        """
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        """Return a string of bytes.

        Raises:
            ValueError: it is longer than what is left.
        """
        return self.take(self.uint32())

    def name(self) -> str:
        """Return a name: a string of printable US-ASCII, maybe empty.

        Raises:
            ValueError: another character is in it.
        """
        text = self.string().decode("ascii", "replace")
        if not (text.isascii() and text.isprintable()):
            raise ValueError("a name holds characters outside printable US-ASCII")
        return text

    def positive(self) -> int:
        """Return an `mpint` that is not negative, in its one shortest form.

        Raises:
            ValueError: the number is negative, or has a needless leading zero.
        """
        encoded = self.string()
        number = int.from_bytes(encoded, "big")
        if wire_positive(number) != wire_string(encoded):
            raise ValueError("a number is negative or not in its shortest form")
        return number

    def end(self) -> None:
        """Expect the end.

        Raises:
            ValueError: bytes are left.
        """
        left = len(self._data) - self._at
        if left:
            raise ValueError(f"{left} bytes too many")


def wire_string(content: bytes | str) -> bytes:
    """Return `content` as a wire string; text is US-ASCII."""
    data = content.encode("ascii") if isinstance(content, str) else content
    return len(data).to_bytes(4, "big") + data


def wire_positive(number: int) -> bytes:
    """Return `number`, zero or more, as an `mpint`: a leading zero keeps the top bit from meaning a minus."""
    return wire_string(number.to_bytes((number.bit_length() + 8) // 8, "big") if number else b"")
