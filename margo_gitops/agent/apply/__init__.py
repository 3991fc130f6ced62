"""From a trusted state to running workloads: what is wanted, what the device may run, the steps, and carrying them out.

`workloads` and `steps` are pure. A reason why a change waits (a pause, a window, a lock) goes into
`steps`; what happens around a step (a hook, a secret's value) into `reconciler`; how an engine does it is an applier.
"""
