"""The real parts of the tests: a Docker Engine with Compose v2, git over http(s) and ssh. Standard library only."""
