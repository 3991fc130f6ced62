"""Say by the exit status whether `margo-gitops agent status --output json` shows that a version is wholly installed."""

from __future__ import annotations

import json
import sys

status = json.load(sys.stdin)
version = int(sys.argv[1])
deployments = [each["status"] for each in status["deployments"]]
adopted = all(
    each["adoptedManifestVersion"] == version and each["status"]["state"] == "installed" for each in deployments
)
sys.exit(not (deployments and adopted))
