"""Lead from what a device runs back to lines of the fleet repo, and to the people who wrote and merged them."""
