"""A problem document, what servers of the API answer errors with (RFC 9457, with Margo's members for retries)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from margo_gitops.documents.declarations import About, Range, Text


@dataclass(frozen=True, slots=True)
class ProblemFieldError:
    """What is wrong with one field of a request's body."""

    field: str
    message: str


@dataclass(frozen=True, slots=True)
class ProblemDetail:
    """An error of the API; other members are allowed (RFC 9457, 3.2)."""

    type: Annotated[str, About("A URI that names the kind of problem.")]
    title: Annotated[str, Text(min_length=1)]
    status: Annotated[int, Range(minimum=100, maximum=599)]
    detail: str | None = None
    instance: str | None = None
    errors: tuple[ProblemFieldError, ...] = ()
    retryable: bool | None = None
    backoff_strategy: Literal["exponential", "none"] | None = None
    retry_after_seconds: Annotated[int | None, Range(minimum=0)] = None
