#!/bin/sh
# Another loop that many write: away with the old clone, clone anew. What breaks off takes the running state with it.
set -eu
repository=$CONFORMANCE_FOLDER/current
GIT_CONFIG_COUNT=1
GIT_CONFIG_KEY_0=http.extraHeader
GIT_CONFIG_VALUE_0="Authorization: Bearer $(cat "$CONFORMANCE_TOKEN_FILE")"
export GIT_CONFIG_COUNT GIT_CONFIG_KEY_0 GIT_CONFIG_VALUE_0
rm -rf "$repository"
git clone --quiet --depth 1 --branch "${CONFORMANCE_REF#refs/heads/}" "$CONFORMANCE_URL" "$repository"
