#!/bin/sh
# Renders HEAD, signs it and pushes it to the state repo. Needs a clone with the whole history.
# Usage: sh .margo-gitops/ci/render.sh
#
# Variables, each the secret itself or the path of a file that holds it; those that are not set are not used:
#   FLEET_SIGNING_KEY       OpenSSH private key that signs the state
#   STATE_REPO_TOKEN        token for a state repo over https; STATE_REPO_USER goes with it where the host wants one
#   STATE_REPO_SSH_KEY      private key for a state repo over ssh, with STATE_REPO_KNOWN_HOSTS, the host's public keys
# ALLOW_POLICY_COMMAND=true runs the command of spec.policy, where the fleet has one.
# Secrets are in files that only this user can read, while this script runs; no argument and no log holds one.
set -eu
umask 077
secrets=$(mktemp -d)
trap 'rm -rf "$secrets"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# secret VALUE: prints a secret that is given as itself or as a file. printf is the shell's own: no process has arguments.
secret() {
    if [ -f "$1" ]; then cat "$1"; else printf '%s\n' "$1" | tr -d '\r'; fi
}

if ! grep -Eq '^ +stateRepo: .*[:@]' margo-gitops.yaml; then
    echo "error: spec.stateRepo of margo-gitops.yaml is a folder, and what is written there is lost with this job" >&2
    echo "  remedy: make an empty repository for the state, and write its URL there" >&2
    exit 2
fi

if [ -n "${STATE_REPO_TOKEN:-}" ]; then
    {
        printf 'username=%s\n' "${STATE_REPO_USER:-token}"
        printf 'password='
        secret "$STATE_REPO_TOKEN"
    } > "$secrets/credentials"
    number=${GIT_CONFIG_COUNT:-0} # what is configured so already stays
    export "GIT_CONFIG_KEY_$number=credential.helper" "GIT_CONFIG_VALUE_$number=!cat '$secrets/credentials' #"
    export GIT_CONFIG_COUNT=$((number + 1))
fi
if [ -n "${STATE_REPO_SSH_KEY:-}" ]; then
    secret "$STATE_REPO_SSH_KEY" > "$secrets/ssh-key"
    secret "${STATE_REPO_KNOWN_HOSTS:-}" > "$secrets/known-hosts"
    export GIT_SSH_COMMAND="ssh -i '$secrets/ssh-key' -o IdentitiesOnly=yes -o BatchMode=yes \
-o StrictHostKeyChecking=yes -o UserKnownHostsFile='$secrets/known-hosts'"
fi
if [ -n "${FLEET_SIGNING_KEY:-}" ]; then
    secret "$FLEET_SIGNING_KEY" > "$secrets/signing-key"
    set -- --signing-key "$secrets/signing-key"
fi
if [ "${ALLOW_POLICY_COMMAND:-}" = true ]; then set -- "$@" --allow-policy-command; fi
unset FLEET_SIGNING_KEY STATE_REPO_TOKEN STATE_REPO_SSH_KEY

# 3: the state repo could not be reached; 75: somebody else moved a ref meanwhile. Both are worth another try.
attempt=1
while :; do
    status=0
    margo-gitops render "$@" || status=$?
    case $status in
        3 | 75) [ "$attempt" -lt 4 ] || exit "$status" ;;
        *) exit "$status" ;;
    esac
    echo "trying again in $((attempt * ${RETRY_SECONDS:-10})) s" >&2
    sleep $((attempt * ${RETRY_SECONDS:-10}))
    attempt=$((attempt + 1))
done
