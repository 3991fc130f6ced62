"""Changes to a fleet repo that people ask for by command: edited files, checked before they are written."""
