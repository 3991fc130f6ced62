# shellcheck shell=sh
# What scripts/quickstart is made of; sourced by it. Uses $work, $fleet, $engine, $agents and $keep.

image=margo-gitops-quickstart/shell:1

title() { printf '\n\033[1m%s\033[0m\n' "$1"; }
[ -t 1 ] && [ -z "${NO_COLOR:-}" ] || title() { printf '\n%s\n' "$1"; }
say() { printf '%s\n' "$*"; }
run() {
    printf '$ %s\n' "$*"
    "$@"
}

# Prints "docker", or why there is none.
find_engine() {
    if ! command -v docker >/dev/null; then
        echo "docker is not installed"
    elif ! timeout 10 docker version >/dev/null 2>&1; then
        echo "docker version fails"
    elif ! timeout 10 docker compose version >/dev/null 2>&1; then
        echo "docker compose, version 2, is not installed"
    else
        echo docker
    fi
}

# An image of this machine's own shell: the quickstart needs no registry and no network.
make_image() {
    root=$work/image
    mkdir -p "$root/tmp"
    for program in sh sleep; do
        path=$(command -v "$program")
        mkdir -p "$root/bin"
        cp -L "$path" "$root/bin/$program"
        for library in $(ldd "$path" 2>/dev/null | grep -o '/[^ ]*' || true); do
            mkdir -p "$root$(dirname "$library")"
            cp -L "$library" "$root$library"
        done
    done
    tar -C "$root" -c . | docker import --change 'ENV PATH=/bin' - "$image" >/dev/null
}

use_image() {
    for deployment in "$fleet"/deployments/*.yaml; do
        [ "$engine" != docker ] || sed -i "s|^  parameters:|  parameters:\n    image: $image|" "$deployment"
    done
}

# Signs where ssh-keygen is there; the agents then refuse what this key did not sign.
make_signing_key() {
    if command -v ssh-keygen >/dev/null; then
        run ssh-keygen -q -t ed25519 -N '' -C renderer -f "$work/signing_key"
        printf 'renderer %s\n' "$(cut -d' ' -f1,2 "$work/signing_key.pub")" >"$work/allowed_signers"
        MARGO_GITOPS_SIGNING_KEY=$work/signing_key
        export MARGO_GITOPS_SIGNING_KEY
        trust="allowedSigners: allowed_signers"
    else
        say "ssh-keygen is missing (apt-get install openssh-client): this run is not signed."
        trust="unsigned: true"
    fi
}

start_agent() {
    applier="files: {folder: $work/$1.workloads}"
    [ "$engine" != docker ] || applier="compose: {}"
    [ "$engine" != kubernetes ] || applier="helm: {kubeconfig: $KUBECONFIG}"
    cat >"$work/$1.yaml" <<CONFIG
apiVersion: margo-gitops/v1
kind: AgentConfiguration
device: $1
stateFolder: $1.state
source:
  git:
    url: file://$work/fleet-state.git
trust:
  $trust
poll:
  interval: 1s
appliers:
  $applier
CONFIG
    say "\$ margo-gitops agent run --config $work/$1.yaml &"
    margo-gitops agent run --config "$work/$1.yaml" 2>"$work/$1.log" &
    agents="$agents $!"
}

# await DEVICE VERSION [STATE]: until every deployment of this manifest version is installed, or in another state.
await() {
    tries=0
    until margo-gitops agent status --config "$work/$1.yaml" --output json >"$work/$1.status" &&
        python3 scripts/lib/adopted.py "$2" "${3:-installed}" <"$work/$1.status"; do
        tries=$((tries + 1))
        [ "$tries" -lt 150 ] || { echo "error: $1 did not adopt version $2:" >&2; tail -20 "$work/$1.log" >&2; exit 1; }
        sleep 0.2
    done
    say "$1 has adopted version $2${3:+: $3}"
}

show_workloads() {
    if [ "$engine" = docker ]; then
        run docker ps --filter "ancestor=$image" --format 'table {{.Names}}\t{{.Image}}\t{{.Status}}'
    else
        say "\$ ls press-01.workloads/*/* mixer-01.workloads/*/*"
        (cd "$work" && ls -d press-01.workloads/*/*/* mixer-01.workloads/*/*/*)
    fi
}

# Prints what the greeting on press-01 was started with, asked of the engine, not of us.
running_greeting() {
    if [ "$engine" = docker ]; then
        container=$(docker ps --quiet --filter label=org.margo-gitops.device=press-01 \
            --filter label=org.margo-gitops.component=greeting --filter "ancestor=$image")
        docker inspect --format '{{range .Config.Env}}{{println .}}{{end}}' "$container" | grep ^GREETING=
    else
        grep -rh ^GREETING= "$work/press-01.workloads/"
    fi
}

clean_up() {
    for agent in $agents; do kill "$agent" 2>/dev/null || true; done
    for agent in $agents; do wait "$agent" 2>/dev/null || true; done
    if [ "$keep" = --keep ]; then
        say "Kept: $work"
        return
    fi
    [ "$engine" != kubernetes ] || remove_releases
    if [ "$engine" = docker ]; then
        containers=$(docker ps --all --quiet --filter "ancestor=$image")
        # shellcheck disable=SC2086  # one word per container
        [ -z "$containers" ] || docker rm --force --volumes $containers >/dev/null
        docker image rm --force "$image" >/dev/null 2>&1 || true
    fi
    rm -rf "$work"
}
