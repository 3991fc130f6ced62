"""Values in a fleet repo that look like secrets (R114). No message has the value.

LIKELY-1  A text looks like a secret if its parameter's name ends with a word for one, if it has the form of a known
          token or of a private key, or if it is long and random.
LIKELY-2  Expressions, paths, URLs without a password, ids and digests do not. What suppliers write is not looked at.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from margo_gitops.documents.components import ParameterValue
from margo_gitops.operations.validate.rule_findings import RuleFinding, of_rule
from margo_gitops.rendering.intent import Intent, Located
from margo_gitops.rendering.templates import is_template

_NAME: Final = re.compile(
    r"(^|_)(password|passwd|passphrase|secret|token|credentials?|(api|access|private|secret|auth)_?key)$"
)
_WORDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+")
_FORMS: Final = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----|AGE-SECRET-KEY-1",
    "a URL with a password": r"\A[a-z][a-z0-9+.-]*://[^/@\s:]*:[^/@\s]+@",
    "a token of a git host": r"\b(gh[pousr]_|github_pat_|glpat-)[A-Za-z0-9_-]{16,}",
    "a key of a cloud": r"\b(AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[A-Za-z0-9_-]{30,}|\bhvs\.[A-Za-z0-9_-]{20,}",
    "a token of a service": r"\b(xox[abprs]-|sk_live_|sk-ant-|SG\.)[A-Za-z0-9_.-]{16,}",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.",
}
_KNOWN: Final = {what: re.compile(form) for what, form in _FORMS.items()}
_RANDOM: Final = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9].*[0-9])[A-Za-z0-9+/_-]{24,400}={0,2}")
_BITS: Final = 4.2
"""Of each character; names of people's making have less."""
_PLACE: Final = re.compile(r"\A(\.{0,2}/|\$|[a-z][a-z0-9+.-]*://)")


def sign_of_secret(name: str, value: ParameterValue) -> str:
    """Return why a parameter's value looks like a secret; empty where it does not."""
    for text in value if isinstance(value, tuple) else (value,):
        if not isinstance(text, str) or is_template(text):
            continue
        for what, form in _KNOWN.items():
            if form.search(text):
                return f"it is {what}"
        if len(text) >= 4 and not _PLACE.search(text) and _NAME.search("_".join(_WORDS.split(name)).lower()):
            return "its name says so"
        if _RANDOM.fullmatch(text) and _bits(text) >= _BITS:
            return "it is long and random"
    return ""


def _bits(text: str) -> float:
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())


def likely_secrets(intent: Intent) -> Iterator[RuleFinding]:
    """Yield the values of deployments, sites and devices that look like secrets."""
    for document, path, values in _layers(intent):
        for name, value in values.items():
            if sign := sign_of_secret(name, value):
                remedy = "name it in spec.secretRefs and change it: the history of the fleet repo has it"
                yield of_rule("R114", f"parameter {name} looks like a secret: {sign}", document.at(*path, name), remedy)


def _layers(intent: Intent) -> Iterator[tuple[Located[object], tuple[str | int, ...], Mapping[str, ParameterValue]]]:
    own = ("spec", "parameters")
    for deployment in intent.deployments.values():
        yield deployment, own, deployment.value.spec.parameters
        for index, overlay in enumerate(deployment.value.spec.overlays):
            yield deployment, ("spec", "overlays", index, "parameters"), overlay.parameters
    for site in intent.sites.values():
        yield site, own, site.value.spec.parameters
    for device in intent.devices.values():
        yield device, own, device.value.spec.parameters
