# shellcheck shell=sh
# scripts/quickstart --kubernetes: the device cell-01 is a cluster; sourced by scripts/quickstart, which then ends.

engine=kubernetes
namespace=quickstart-$$
deployment=$fleet/deployments/greeting.yaml
started=

remove_releases() {
    releases=$(helm list --short --namespace "$namespace" 2>/dev/null || true)
    # shellcheck disable=SC2086  # one word per release
    [ -z "$releases" ] || helm uninstall --namespace "$namespace" $releases >/dev/null || true
    kubectl delete namespace "$namespace" --ignore-not-found --wait=false >/dev/null 2>&1 || true
    [ -z "$started" ] || scripts/testbed down kubernetes >/dev/null || true
}

# change MESSAGE SED: edit the deployment, commit, render.
change() {
    sed -i "$2" "$deployment"
    run git -C "$fleet" commit --quiet --all --message "$1"
    run git -C "$fleet" --no-pager diff --unified=0 HEAD~1
    run margo-gitops render --fleet "$fleet"
}

await_removal() {
    tries=0
    until [ -z "$(helm list --short --namespace "$namespace")" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 60 ] || { echo "error: the release is still there:" >&2; tail -20 "$work/cell-01.log" >&2; exit 1; }
        sleep 0.2
    done
}

# Shows what runs, asked of the cluster, not of us.
show_cluster() {
    run helm list --namespace "$namespace"
    run kubectl get pods --namespace "$namespace" \
        --output 'custom-columns=POD:.metadata.name,PHASE:.status.phase,GREETING:.spec.containers[0].env[0].value'
}

title "1. An operator scaffolds a fleet; its device cell-01 is a Kubernetes cluster"
if [ -z "${KUBECONFIG:-}" ]; then
    say "KUBECONFIG names no cluster: scripts/testbed starts one, which the first time is built for some minutes."
    scripts/testbed status kubernetes >/dev/null || started=yes
    run scripts/testbed up kubernetes helm
    eval "$(scripts/testbed env kubernetes helm)"
fi
run margo-gitops init "$fleet" --name "$namespace" --yes
git -C "$fleet" config user.name Operator
git -C "$fleet" config user.email operator@plant.example
sed -i "s/^spec:/spec:\n  namespace: $namespace/" "$fleet/margo-gitops.yaml"
# What is given up after 20 seconds here may take a minute in a plant.
sed -i 's/timeout: 1m0s/timeout: 0m20s/' "$fleet/applications/com-example-greeting/1.0.0/margo.yaml"
margo-gitops app add "$fleet/applications/com-example-greeting/1.0.0" --replace --fleet "$fleet" >/dev/null
[ -z "${QUICKSTART_IMAGE:-}" ] || sed -i "s|^  parameters:|  parameters:\n    image: $QUICKSTART_IMAGE|" "$deployment"
git -C "$fleet" add --all
git -C "$fleet" diff --cached --quiet HEAD 2>/dev/null || git -C "$fleet" commit --quiet --message "Start the fleet"
make_signing_key
run margo-gitops render --fleet "$fleet"

title "2. An agent pulls the cluster's branch, verifies it, and installs the chart"
start_agent cell-01
await cell-01 1
show_cluster

title "3. A change is a commit: another greeting"
change "Greet in the morning" 's/greeting: "Hello/greeting: "Good morning/'
await cell-01 2
show_cluster

title "4. An update that fails: an image that cannot be pulled. What ran before runs again"
change "Try another image" 's|^  parameters:|  parameters:\n    image: registry.invalid/bad:1|'
await cell-01 3 failed
run margo-gitops agent status --config "$work/cell-01.yaml"
show_cluster

title "5. The commit is taken back, and the device is content again"
run git -C "$fleet" revert --no-edit HEAD
run margo-gitops render --fleet "$fleet"
await cell-01 4
show_cluster

title "6. A deployment that no longer names the device: the chart is uninstalled"
change "Take the greeting from the cluster" 's/, cell-01]/]/'
await_removal
show_cluster

title "Done"
say "docs/cluster.md tells how a cluster becomes a device."
