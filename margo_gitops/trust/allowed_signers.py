"""Whose signatures a device accepts: the list of ssh-keygen(1), ALLOWED SIGNERS.

    # principals        options                                    key
    renderer@example    namespaces="git",valid-before="20270101Z"  ssh-ed25519 AAAAC3Nza...

SIGNERS-1  Each line is principals, options (none, or separated by commas), key type, key, and maybe a comment. Empty
           lines and lines that start with `#` say nothing.
SIGNERS-2  Options: `namespaces`, `valid-after`, `valid-before`, each once, their values in double quotes.
SIGNERS-3  Times are YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with `Z` or `UTC` behind. Without, ssh-keygen takes them
           for the machine's local time; here they are UTC too, so that one list means the same on every device.
SIGNERS-4  `cert-authority` is refused: certificates are not accepted, and a line silently left out would look
           accepted.
SIGNERS-5  One broken line makes the whole list invalid; the first 50 are named.
SIGNERS-6  A key is valid from `valid-after` to `valid-before`, both included.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from margo_gitops.errors import MAX_SHOWN, AllowedSignersInvalid, Finding, Location
from margo_gitops.trust.ssh_key import SshPublicKey, Verify, read_public_key
from margo_gitops.values import dataclass, field

MAX_LIST_BYTES: Final = 1024 * 1024
MAX_SIGNERS: Final = 1000

_BLANK: Final = " \t"
_PRINCIPALS: Final = re.compile(r'[ \t]*(?:"(?P<quoted>[^"]*)"|(?P<plain>[^ \t"]+))(?=[ \t]|$)')
_OPTIONS: Final = re.compile(r'[ \t]+(?P<options>(?:[^ \t"]|"[^"]*")+)(?=[ \t]|$)')
_KEY: Final = re.compile(r"[ \t]+(?P<type>[^ \t]+)[ \t]+(?P<key>[^ \t]+)")
_OPTION: Final = re.compile(r'(?P<name>[^,="]+)(?P<value>="[^"\\]*"|=[^,"]*)?(?:,|$)')
_TIME: Final = re.compile(r"(?P<digits>[0-9]{8}(?:[0-9]{4}(?:[0-9]{2})?)?)(?:Z|UTC)?", re.IGNORECASE)
_TIME_FORMS: Final = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_HOW: Final = 'write: principals, options like namespaces="git", key type, key'


@dataclass(frozen=True, slots=True)
class AllowedSigner:
    """One line of the list.

    Attributes:
        principals: who it is, as the line says: one or more patterns, separated by commas.
        namespaces: patterns of the uses the key is for, separated by commas; None for every use.
        valid_after: the key says nothing before; None for no such time.
        valid_before: the key says nothing after; None for no such time.
        line: its number in the file, from 1; None for a list that is in no file.
        revoked: why no signature of the key counts; empty where it counts.
    """

    principals: str
    key: SshPublicKey
    namespaces: str | None = None
    valid_after: datetime | None = None
    valid_before: datetime | None = None
    line: int | None = None
    revoked: str = ""

    def objection(self, namespace: str, at: datetime) -> str:
        """Return why this line does not allow a signature, or nothing.

        Args:
            namespace: what kind of thing was signed, `git` for commits.
            at: when it was signed, with a time zone.
        """
        if self.revoked:
            return self.revoked
        if self.namespaces is not None and not _matches(namespace, self.namespaces):
            return f"the key is for {self.namespaces!r}, not for {namespace!r}"
        if self.valid_after is not None and at < self.valid_after:
            return f"the key is valid from {_utc(self.valid_after)} on, the signature is of {_utc(at)}"
        if self.valid_before is not None and at > self.valid_before:
            return f"the key was valid until {_utc(self.valid_before)}, the signature is of {_utc(at)}"
        return ""


@dataclass(frozen=True, slots=True)
class AllowedSigners:
    """The whole list, in file order.

    Attributes:
        signers: the lines.
        file: the list's name as people know it.
        verify: checks a signature by a key of the list.
    """

    signers: tuple[AllowedSigner, ...] = field(repr=False)
    file: str
    verify: Verify = field(default=SshPublicKey.verify, repr=False, compare=False)

    def find(self, key: SshPublicKey, namespace: str, at: datetime) -> str | None:
        """Return the principals of the first line that allows this key, or None; `objections` says why none does.

        Args:
            key: the key that signed.
            namespace: what kind of thing was signed, `git` for commits.
            at: when it was signed, with a time zone.
        """
        allowing = (line for line in self.signers if line.key == key and not line.objection(namespace, at))
        return next((line.principals for line in allowing), None)

    def objections(self, key: SshPublicKey, namespace: str, at: datetime) -> tuple[str, ...]:
        """Return why no line allows this key: a reason for each line that names it, or that none does."""
        known = [line for line in self.signers if line.key == key]
        if not known:
            return (f"{self.file} does not list the key {key.fingerprint}",)
        named = ((line, line.objection(namespace, at)) for line in known)
        return tuple(f"{Location(self.file, line.line)}: {objection}" for line, objection in named if objection)


@dataclass(frozen=True, slots=True)
class AnySigner(AllowedSigners):
    """Takes every key whose signature is right: for what a list allowed when it was stored."""

    signers: tuple[AllowedSigner, ...] = field(default=(), repr=False)
    file: str = ""

    def find(self, key: SshPublicKey, namespace: str, at: datetime) -> str | None:  # noqa: ARG002
        """Return what is shown in place of the principals that the list named then."""
        return "(no longer listed)"


def parse_allowed_signers(content: bytes, file: str) -> AllowedSigners:
    """Return the list in a file.

    Args:
        content: the file's bytes, at most 1 MiB and 1000 signers.
        file: its name, for messages.

    Raises:
        AllowedSignersInvalid: one of SIGNERS-1 to SIGNERS-5 is broken; the findings say where.
    """
    if len(content) > MAX_LIST_BYTES:
        raise _invalid(file, [Finding(f"{len(content)} bytes; {MAX_LIST_BYTES} are possible", Location(file))])
    signers: list[AllowedSigner] = []
    findings: list[Finding] = []
    for number, raw in enumerate(content.split(b"\n"), start=1):
        if len(findings) == MAX_SHOWN:
            break
        try:
            line = raw.removesuffix(b"\r").decode()
            if line.strip(_BLANK) and not line.lstrip(_BLANK).startswith("#"):
                signers.append(_parse_line(line, number))
        except UnicodeDecodeError as error:
            findings.append(Finding("the line is not UTF-8", Location(file, number, error.start + 1)))
        except _Misfit as misfit:
            findings.append(Finding(str(misfit), Location(file, number, misfit.column), remedy=misfit.remedy))

    if not signers and not findings:
        findings.append(Finding("the list is empty, so no signature could be accepted", Location(file)))
    if len(signers) > MAX_SIGNERS:
        findings.append(Finding(f"{len(signers)} signers; {MAX_SIGNERS} are possible", Location(file)))
    if findings:
        raise _invalid(file, findings)
    return AllowedSigners(tuple(signers), file)


def _invalid(file: str, findings: list[Finding]) -> AllowedSignersInvalid:
    return AllowedSignersInvalid("the list of allowed signers cannot be used", findings, where=Location(file))


class _Misfit(Exception):
    """What is wrong in a line, and in which column."""

    def __init__(self, message: str, column: int, remedy: str = "") -> None:
        super().__init__(message)
        self.column = column
        self.remedy = remedy


def _parse_line(line: str, number: int) -> AllowedSigner:
    who = _PRINCIPALS.match(line)
    if who is None:
        raise _Misfit("the principals are not one word, or their quotes do not match", 1, _HOW)
    at = who.end()
    options: dict[str, str] = {}
    given = _OPTIONS.match(line, at)
    if given is not None and _are_options(given["options"]):
        options = _parse_options(given["options"], given.start("options") + 1)
        at = given.end()
    elif given is None and '"' in line[at:]:
        raise _Misfit("a quote of the options is not closed", at + 1, _HOW)

    found = _KEY.match(line, at)
    if found is None:
        raise _Misfit("the key is missing", len(line) + 1, _HOW)
    try:
        key = read_public_key(found["type"], found["key"])
    except ValueError as error:
        raise _Misfit(str(error), found.start("type") + 1) from None

    column = given.start("options") + 1 if given else 1
    after, before = (_parse_time(options.get(name), column) for name in ("valid-after", "valid-before"))
    if after and before and before <= after:
        raise _Misfit("valid-before is not later than valid-after", column)
    return AllowedSigner(_parse_principals(who), key, options.get("namespaces"), after, before, number)


def _parse_principals(who: re.Match[str]) -> str:
    principals: str = who["plain"] if who["quoted"] is None else who["quoted"]
    if not all(principals.split(",")) or not principals.isprintable():
        raise _Misfit("a principal is empty, or holds characters that cannot be shown", 1)
    return principals


def _are_options(word: str) -> bool:
    """Whether a word is the options of a line, not its key type: no key type has these characters."""
    return "=" in word or "," in word or '"' in word or word.lower() == "cert-authority"


def _parse_options(text: str, column: int) -> dict[str, str]:
    options: dict[str, str] = {}
    at = 0
    while at < len(text):
        option = _OPTION.match(text, at)
        name = option["name"].lower() if option else ""
        if name == "cert-authority":
            raise _Misfit("certificate authorities are not accepted", column + at, "list each signer's own key")
        if name not in ("namespaces", "valid-after", "valid-before"):
            raise _Misfit(f"{text[at : at + 40]!r} is not an option that is known", column + at, _HOW)
        value = option["value"] if option else None
        if option is None or value is None or not value.startswith('="') or value == '=""':
            raise _Misfit(f"the option {name} needs a value in double quotes", column + at, _HOW)
        if name in options:
            raise _Misfit(f"the option {name} is there twice", column + at)
        options[name] = value[2:-1]
        at = option.end()
    if text.endswith(","):
        raise _Misfit("an option is missing behind the last comma", column + len(text), _HOW)
    return options


def _parse_time(text: str | None, column: int) -> datetime | None:
    if text is None:
        return None
    match = _TIME.fullmatch(text)
    try:
        if match is not None:
            digits = match["digits"]
            return datetime.strptime(digits, _TIME_FORMS[len(digits)]).replace(tzinfo=UTC)
    except ValueError:
        pass  # no such day or hour
    raise _Misfit(f"{text!r} is not a time", column, "write YYYYMMDDZ or YYYYMMDDHHMMSSZ")


def _matches(text: str, patterns: str) -> bool:
    """Whether `text` matches a pattern list of ssh_config(5): `*`, `?`, and `!` for patterns that must not match."""
    matched = False
    for pattern in patterns.split(","):
        body = pattern.removeprefix("!")
        expression = re.escape(body).replace(r"\*", ".*").replace(r"\?", ".")
        if re.fullmatch(expression, text):
            if body != pattern:
                return False
            matched = True
    return matched


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
