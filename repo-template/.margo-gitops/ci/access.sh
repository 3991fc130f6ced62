# Read by render.sh and freshness.sh: lets git into the state repo, and keeps secrets out of arguments and logs.
#
# Variables, each the secret itself or the path of a file that holds it; those that are not set are not used:
#   STATE_REPO_TOKEN        token for a state repo over https; STATE_REPO_USER goes with it where the host wants one.
#                           Only the URL of spec.stateRepo gets it, and no redirect is followed
#   STATE_REPO_SSH_KEY      private key for a state repo over ssh, with STATE_REPO_KNOWN_HOSTS, the host's public keys
# Secrets are in files that only this user can read, in the folder $secrets, while the script runs.
umask 077
secrets=$(mktemp -d)
trap 'rm -rf "$secrets"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# secret VALUE: prints a secret that is given as itself or as a file. printf is the shell's own: no process has arguments.
secret() {
    if [ -f "$1" ]; then cat "$1"; else printf '%s\n' "$1" | tr -d '\r'; fi
}

# configure KEY VALUE: sets a setting of git for this job; what is configured so already stays.
configure() {
    number=${GIT_CONFIG_COUNT:-0}
    export "GIT_CONFIG_KEY_$number=$1" "GIT_CONFIG_VALUE_$number=$2" GIT_CONFIG_COUNT=$((number + 1))
}

if [ -n "${STATE_REPO_TOKEN:-}" ]; then
    {
        printf 'username=%s\n' "${STATE_REPO_USER:-token}"
        printf 'password='
        secret "$STATE_REPO_TOKEN"
    } > "$secrets/credentials"
    # Without a user's name: git would compare it.
    url=$(sed -n "s/^ *stateRepo: *[\"']*\([a-z]*:\/\/\)\([^/@]*@\)*\([^ \"']*\).*/\1\3/p" margo-gitops.yaml | head -n 1)
    if [ -n "$url" ]; then configure "credential.$url.helper" "!cat '$secrets/credentials' #"; fi
    configure http.followRedirects false
fi
if [ -n "${STATE_REPO_SSH_KEY:-}" ]; then
    secret "$STATE_REPO_SSH_KEY" > "$secrets/ssh-key"
    secret "${STATE_REPO_KNOWN_HOSTS:-}" > "$secrets/known-hosts"
    export GIT_SSH_COMMAND="ssh -i '$secrets/ssh-key' -o IdentitiesOnly=yes -o BatchMode=yes \
-o StrictHostKeyChecking=yes -o UserKnownHostsFile='$secrets/known-hosts'"
fi
unset STATE_REPO_TOKEN STATE_REPO_SSH_KEY

# persist COMMAND...: runs it, again where that is worth a try. 3: the state repo could not be reached; 75: somebody else
# moved a ref meanwhile.
persist() {
    attempt=1
    while :; do
        status=0
        "$@" || status=$?
        case $status in
            3 | 75) [ "$attempt" -lt 4 ] || return "$status" ;;
            *) return "$status" ;;
        esac
        echo "trying again in $((attempt * ${RETRY_SECONDS:-10})) s" >&2
        sleep $((attempt * ${RETRY_SECONDS:-10}))
        attempt=$((attempt + 1))
    done
}
