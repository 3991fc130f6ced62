#!/bin/sh
# Renews the statement that the state repo's state is the newest, where the fleet has spec.freshness; else says so.
# Usage: sh .margo-gitops/ci/freshness.sh
#
# Variables, each the secret itself or the path of a file that holds it:
#   FRESHNESS_KEY           OpenSSH private key that signs statements of freshness, good for nothing else, or
#   FLEET_SIGNING_KEY       the one that signs the state, where devices allow it both
# and those of access.sh.
set -eu
. .margo-gitops/ci/access.sh

set -- --if-wanted
if [ -n "${FRESHNESS_KEY:-${FLEET_SIGNING_KEY:-}}" ]; then
    secret "${FRESHNESS_KEY:-$FLEET_SIGNING_KEY}" > "$secrets/freshness-key"
    set -- "$@" --signing-key "$secrets/freshness-key"
fi
unset FLEET_SIGNING_KEY FRESHNESS_KEY

persist margo-gitops freshness renew "$@"
