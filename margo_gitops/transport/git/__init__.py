"""Pull by git: a small subset of protocol version 2 over http(s) and ssh, or from a folder (docs/git-subset.md).

`git_transport` pulls, `protocol_v2` and `pktline` are the wire, `pack` reads what comes, and `device_tree` makes a
snapshot of it. One of `http_connection`, `ssh_connection` and `local_repository` is loaded, as the source says.
"""
