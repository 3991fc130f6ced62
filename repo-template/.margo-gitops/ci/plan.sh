#!/bin/sh
# Writes plan.md: what HEAD changes on devices since the commit BASE, as Markdown.
# Usage: sh .margo-gitops/ci/plan.sh BASE
# ALLOW_POLICY_COMMAND=true runs the command of spec.policy, where the fleet has one.
# Exits 0 where there is a plan, whatever it changes; 2 and more where a render would be refused, plan.md saying why.
set -eu
set -- --base "$1" --before-merge # reviews, and the merge itself, are still to come
if [ "${ALLOW_POLICY_COMMAND:-}" = true ]; then set -- "$@" --allow-policy-command; fi

status=0
margo-gitops plan --rev HEAD "$@" --output markdown > plan.md || status=$?
if [ ! -s plan.md ]; then
    # The first line is how the comment is found again.
    printf '%s\n' '<!-- margo-gitops plan -->' '### No plan' '' 'The fleet cannot be read; the findings of `validate` say why.' \
        > plan.md
    [ "$status" -gt 1 ] || status=70 # a program that died shows nothing, whatever it exits with
fi
[ "$status" -ne 1 ] || status=0 # 1: a render changes something, as it should
exit "$status"
