"""Proofs from the two repos alone: what each device should run, which lines say so, and who wrote and merged them.

`verify` renders the whole history again and compares; `trace` leads from a device back to the fleet repo; `evidence`
exports both as one file that others can check. `log` lists the history, `repos` opens the two repos.
"""
