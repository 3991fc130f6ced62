"""How many examples a property is tried with: few in a run of all tests, many where a person asks for them.

`pytest --hypothesis-profile=long FILE` tries 40 times as many.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

QUICK, LONG = "quick", "long"


def register_profiles() -> None:
    """Make the two profiles known, and take the quick one unless the command line names another."""
    # Properties are judged by what they find, not by how busy the machine is.
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    settings.register_profile(QUICK, max_examples=25, deadline=None, suppress_health_check=checks)
    settings.register_profile(LONG, settings.get_profile(QUICK), max_examples=1000)
    settings.load_profile(QUICK)


def times(factor: float) -> settings:
    """Return settings for a property that deserves more examples than others, or costs too much for as many.

    Args:
        factor: of the profile's number of examples; 1 is what a property without settings has.
    """
    return settings(max_examples=max(1, round(settings.default.max_examples * factor)))
