"""Thin commands: parse, call, print."""

COMPLETION_VARIABLE = "_MARGO_GITOPS_COMPLETE"
"""Set by the script when the shell asks for words; click reads it."""
