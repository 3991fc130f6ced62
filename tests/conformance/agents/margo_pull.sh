#!/bin/sh
# scripts/margo-pull.sh, as the conformance kit runs it; the first argument is its path.
set -eu
exec sh "$1" --url "$CONFORMANCE_URL" --state "$CONFORMANCE_FOLDER/state" --token-file "$CONFORMANCE_TOKEN_FILE" \
    --status yes --timeout 3
