"""`python -m margo_gitops`: the same as the command `margo-gitops`."""

from margo_gitops.cli.main import main

main()
