"""Render the whole history again, and compare each commit with what is there (rules VERIFY and STATED)."""
