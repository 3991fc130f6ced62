"""The applier for the profile type `helm`: charts as releases of the program `helm`.

`applier` is the applier; `releases` reads what helm keeps in the cluster, `objects` what became of it; `program` runs
helm. `templating` is the mode without releases.
"""
