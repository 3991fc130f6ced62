"""The whole fleet at a glance: what each device should run, what it reported, and whether the two agree."""
