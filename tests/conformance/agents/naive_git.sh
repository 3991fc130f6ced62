#!/bin/sh
# What many write first: a loop around the git command. It verifies nothing; the kit shall find that.
set -eu
repository=$CONFORMANCE_FOLDER/current
[ -d "$repository/.git" ] || git init --quiet "$repository"
GIT_CONFIG_COUNT=1
GIT_CONFIG_KEY_0=http.extraHeader
GIT_CONFIG_VALUE_0="Authorization: Bearer $(cat "$CONFORMANCE_TOKEN_FILE")"
export GIT_CONFIG_COUNT GIT_CONFIG_KEY_0 GIT_CONFIG_VALUE_0
git -C "$repository" fetch --quiet --depth 1 "$CONFORMANCE_URL" "$CONFORMANCE_REF"
git -C "$repository" checkout --quiet --force FETCH_HEAD
