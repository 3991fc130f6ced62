"""The applier for compose profiles: each component is a Compose project, on Docker or Podman.

`applier` takes the steps, `running` waits until a project runs, `engine` asks Docker (over `engine_socket`), `revision`
and `project` keep what runs on disk, `source` reads the compose file, `policing` and `drift` judge it.
"""
