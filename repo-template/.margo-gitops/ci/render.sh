#!/bin/sh
# Renders HEAD, signs it and pushes it to the state repo. Needs a clone with the whole history.
# Usage: sh .margo-gitops/ci/render.sh
#
# Variables, each the secret itself or the path of a file that holds it; those that are not set are not used:
#   FLEET_SIGNING_KEY       OpenSSH private key that signs the state
#   FRESHNESS_KEY           OpenSSH private key that signs statements of freshness, where the fleet has spec.freshness;
#                           without it the first key does
# and those of access.sh. ALLOW_POLICY_COMMAND=true runs the command of spec.policy, where the fleet has one.
set -eu
. .margo-gitops/ci/access.sh

if ! grep -Eq '^ +stateRepo: .*[:@]' margo-gitops.yaml; then
    echo "error: spec.stateRepo of margo-gitops.yaml is a folder, and what is written there is lost with this job" >&2
    echo "  remedy: make an empty repository for the state, and write its URL there" >&2
    exit 2
fi

if [ -n "${FLEET_SIGNING_KEY:-}" ]; then
    secret "$FLEET_SIGNING_KEY" > "$secrets/signing-key"
    set -- --signing-key "$secrets/signing-key"
fi
if [ -n "${FRESHNESS_KEY:-}" ]; then
    secret "$FRESHNESS_KEY" > "$secrets/freshness-key"
    set -- "$@" --freshness-key "$secrets/freshness-key"
fi
if [ "${ALLOW_POLICY_COMMAND:-}" = true ]; then set -- "$@" --allow-policy-command; fi
unset FLEET_SIGNING_KEY FRESHNESS_KEY

persist margo-gitops render "$@"
