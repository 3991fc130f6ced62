"""Say by the exit status whether what `margo-gitops agent status --output json` shows is a version in a state."""

from __future__ import annotations

import json
import sys

status = json.load(sys.stdin)
version, state = int(sys.argv[1]), sys.argv[2]
deployments = [each["status"] for each in status["deployments"]]
adopted = all(each["adoptedManifestVersion"] == version and each["status"]["state"] == state for each in deployments)
sys.exit(not (deployments and adopted))
