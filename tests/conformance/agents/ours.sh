#!/bin/sh
# The agent of this project, as the conformance kit runs it: its configuration is made from what the kit says.
set -eu
config=$CONFORMANCE_FOLDER/agent.yaml
{
    echo "apiVersion: margo-gitops/v1"
    echo "kind: AgentConfiguration"
    echo "device: $CONFORMANCE_DEVICE"
    echo "stateFolder: state"
    echo "source:"
    echo "  $CONFORMANCE_TRANSPORT:"
    echo "    url: $CONFORMANCE_URL"
    echo "    tokenFile: $CONFORMANCE_TOKEN_FILE"
    echo "    readTimeout: 2s"
    echo "    pullTimeout: 4s"
    if [ "$CONFORMANCE_TRANSPORT" = git ]; then
        echo "reports:"
        echo "  git:"
        echo "    url: $CONFORMANCE_URL"
        echo "    tokenFile: $CONFORMANCE_TOKEN_FILE"
        echo "    readTimeout: 2s"
        echo "    pullTimeout: 4s"
    fi
    echo "trust:"
    if [ -n "$CONFORMANCE_TRUST_DOCUMENT" ]; then
        echo "  document: $CONFORMANCE_TRUST_DOCUMENT"
        echo "freshness: {}"
    else
        echo "  allowedSigners: $CONFORMANCE_ALLOWED_SIGNERS"
        echo "freshness:"
        echo "  allowedSigners: $CONFORMANCE_ALLOWED_SIGNERS"
    fi
    echo "appliers:"
    echo "  files:"
    echo "    folder: $CONFORMANCE_FOLDER/files"
} >"$config"
exec "$@" agent once --config "$config"
