#!/bin/sh
# scripts/margo-pull.sh, as the conformance kit runs it; the first argument is its path, the second may be "unsigned".
set -eu
script=$1
if [ "${2:-}" = unsigned ]; then
    set -- --unsigned yes
elif [ -n "$CONFORMANCE_TRUST_DOCUMENT" ]; then
    set -- --trust-document "$CONFORMANCE_TRUST_DOCUMENT" --device "$CONFORMANCE_DEVICE" --freshness report
else
    set -- --allowed-signers "$CONFORMANCE_ALLOWED_SIGNERS" --device "$CONFORMANCE_DEVICE"
fi
exec sh "$script" "$@" --url "$CONFORMANCE_URL" --state "$CONFORMANCE_FOLDER/state" --token-file "$CONFORMANCE_TOKEN_FILE" \
    --status yes --timeout 3
