"""Whether a change obeys the fleet's policy: what git and the files say, for the judges of `rendering.policies`."""
