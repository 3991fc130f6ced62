#!/bin/sh
# margo-pull: fetch a device's desired state over the Margo API, verify it, switch to it, call a hook.
#
# For devices without git and without Python: a POSIX sh with its utilities, curl, sha256sum, tar and gzip suffice, and
# for signatures ssh-keygen (OpenSSH 8.9 or later) and sha1sum.
# docs/publishing.md tells how to use it; `margo-pull.sh --help` lists the settings.
#
# Rules (Margo desired state, client algorithm):
#   P-1  The manifest's bytes have exactly the form of RFC 8785, in ASCII without escapes; any other form is refused, as
#        is any other algorithm than sha256. Members that the standard does not name are skipped.
#   P-2  Its version is greater than the held one, as a 64-bit number; the same version means the same bytes.
#   P-3  Every document has the digest that the manifest states, or nothing of the answer is used. Sizes are advisory.
#   P-4  A listed document that is not there (404) is an error, never a removal. Only absence from the manifest removes.
#   P-5  The state switches in one step, after all is verified and on disk.
#   P-6  Version and digest are kept from then on; the ETag only after the hook succeeded, so that it is called again.
#   P-7  Redirects are never followed; every answer, and what a bundle unpacks to, is bounded.
#   P-8  The commit of the manifest is signed by a render key of the trust document, or by a key of --allowed-signers, and
#        states this manifest, this version and this device; the fleet stays the same, and the next version descends from
#        the held one. All this is read from the bytes that were verified. Without keys, nothing is taken unless --unsigned
#        says so.
#   P-9  Trust begins at the trust document that was given by hand. A version counts after the one before it, once the
#        thresholds of both signed its exact text (ROOT-1 to ROOT-11 of docs/trust.md; what is not byte for byte RFC 8785 is
#        refused as well). What a state's commit names is followed, kept on disk and obeyed before the state is judged.
#        After a refused state, the next version is asked for, and the state judged again if there is one.
#   P-10 A floor of the trust document counts once for its id: it takes back the held version. What runs stays, until a
#        state comes whose version counts.
#   P-11 With --freshness, a statement that is signed and expires says what the newest state is (FRESH-1 to FRESH-7 of
#        docs/freshness.md; what is not byte for byte RFC 8785 is refused as well). It is asked for after half of the life of
#        the held one. A poll that ends without proof says so, whatever it took; with hold, it takes no new state.

set -u
LC_ALL=C
export LC_ALL
umask 077
unset CDPATH

OK=0 USAGE=2 TRANSPORT=3 TRUST=4 APPLY=5 TRY_LATER=75
MANIFEST_LIMIT=1048576
MANIFEST_TYPE=application/vnd.margo.manifest.v1+json
BUNDLE_TYPE=application/vnd.margo.bundle.v1+tar+gzip
DEPLOYMENT_TYPE=application/yaml
COMMIT_TYPE=application/vnd.margo-gitops.commit.v1
COMMIT_LIMIT=65536
TRUST_LIMIT=65536
TRUST_FOLLOWED=64
PROOF_LIMIT=1048576
FRESHNESS=margo-gitops-freshness
CLOCK_TOLERANCE=300

usage() {
    cat <<'END'
Usage: margo-pull.sh [OPTION VALUE]...

Each option is an environment variable too: --url is MARGO_PULL_URL, --token-file is MARGO_PULL_TOKEN_FILE.

  --url URL            base URL; /api/v1/deployments follows it
  --state FOLDER       where state is kept (default /var/lib/margo-pull); FOLDER/current leads to the state to run
  --hook PROGRAM       called as PROGRAM NEW-FOLDER OLD-FOLDER VERSION when the state changed; OLD-FOLDER may be empty
  --token-file FILE    holds a bearer token
  --ca-file FILE       certificates that the server's is checked with, instead of the system's
  --cert-file FILE     client certificate, with its chain
  --key-file FILE      its private key
  --trust-document FILE  the fleet's trust document, keys/<version>.json; later versions are followed; needs --device
  --allowed-signers FILE  instead: keys that may sign this device's state (ssh-keygen's format); needs --device
  --device ID          this device's id in the fleet
  --freshness no|report|hold  report: exit 4 where no signed statement proves that the state is the newest; hold: and
                       take no new state then (default no)
  --unsigned yes|no    yes: take unsigned state; who answers as the server then controls the device (default no)
  --every SECONDS      go on, one poll each SECONDS; without it: one poll, then exit
  --status yes|no      report each changed deployment to the server (default no)
  --timeout SECONDS    for one request (default 300)
  --max-bytes BYTES    of one answer, and of a state's documents together (default 67108864)

Exit status: 0 up to date or switched, 2 usage, 3 transport, 4 trust refused, 5 the hook failed, 75 try later.
END
}

say() { printf 'margo-pull: %s\n' "$*" >&2; }

# fail STATUS MESSAGE...: end this poll.
fail() {
    status=$1
    shift
    say "error: $*"
    exit "$status"
}

refuse() { fail "$TRUST" "security event: $*; what runs stays as it is"; }

# ---- settings

read_settings() {
    for name in $(env | sed -n 's/^\(MARGO_PULL_[A-Za-z0-9_]*\)=.*/\1/p'); do
        case $name in
            MARGO_PULL_URL | MARGO_PULL_STATE | MARGO_PULL_HOOK | MARGO_PULL_TOKEN_FILE | MARGO_PULL_CA_FILE) ;;
            MARGO_PULL_CERT_FILE | MARGO_PULL_KEY_FILE | MARGO_PULL_EVERY | MARGO_PULL_STATUS) ;;
            MARGO_PULL_TIMEOUT | MARGO_PULL_MAX_BYTES) ;;
            MARGO_PULL_TRUST_DOCUMENT | MARGO_PULL_ALLOWED_SIGNERS | MARGO_PULL_DEVICE | MARGO_PULL_UNSIGNED) ;;
            MARGO_PULL_FRESHNESS) ;;
            *) fail "$USAGE" "$name means nothing here; margo-pull.sh --help lists what does" ;;
        esac
    done
    url=${MARGO_PULL_URL:-} state=${MARGO_PULL_STATE:-/var/lib/margo-pull} hook=${MARGO_PULL_HOOK:-}
    token_file=${MARGO_PULL_TOKEN_FILE:-} ca_file=${MARGO_PULL_CA_FILE:-}
    cert_file=${MARGO_PULL_CERT_FILE:-} key_file=${MARGO_PULL_KEY_FILE:-}
    trust_document=${MARGO_PULL_TRUST_DOCUMENT:-} allowed_signers=${MARGO_PULL_ALLOWED_SIGNERS:-}
    device=${MARGO_PULL_DEVICE:-} unsigned=${MARGO_PULL_UNSIGNED:-no} freshness=${MARGO_PULL_FRESHNESS:-no}
    every=${MARGO_PULL_EVERY:-} report=${MARGO_PULL_STATUS:-no}
    timeout=${MARGO_PULL_TIMEOUT:-300} max_bytes=${MARGO_PULL_MAX_BYTES:-67108864}
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) usage && exit "$OK" ;;
            --*) [ $# -gt 1 ] || fail "$USAGE" "$1 needs a value" ;;
        esac
        case $1 in
            --url) url=$2 ;;
            --state) state=$2 ;;
            --hook) hook=$2 ;;
            --token-file) token_file=$2 ;;
            --ca-file) ca_file=$2 ;;
            --cert-file) cert_file=$2 ;;
            --key-file) key_file=$2 ;;
            --trust-document) trust_document=$2 ;;
            --allowed-signers) allowed_signers=$2 ;;
            --device) device=$2 ;;
            --unsigned) unsigned=$2 ;;
            --freshness) freshness=$2 ;;
            --every) every=$2 ;;
            --status) report=$2 ;;
            --timeout) timeout=$2 ;;
            --max-bytes) max_bytes=$2 ;;
            *) fail "$USAGE" "$1 is not an option; margo-pull.sh --help lists them" ;;
        esac
        shift 2
    done
    check_settings
}

check_settings() {
    for program in curl sha256sum tar gzip awk sed; do
        command -v "$program" >/dev/null || fail "$USAGE" "the program $program is missing"
    done
    url=${url%/}
    case $url in
        https://?* | http://?*) ;;
        *) fail "$USAGE" "--url must start with https:// (or http://)" ;;
    esac
    case $url in
        *[!A-Za-z0-9.:/_~%-]*) fail "$USAGE" "--url holds characters that do not belong there; credentials go into files" ;;
    esac
    case $url in
        https://* | http://127.0.0.1* | http://localhost*) ;;
        *) [ -z "$token_file" ] || fail "$USAGE" "a token would travel unencrypted: use https://" ;;
    esac
    for number in "$timeout" "$max_bytes" "${every:-1}"; do
        case $number in
            '' | 0* | *[!0-9]* | ????????????*) fail "$USAGE" "$number is not a positive whole number" ;;
        esac
    done
    case $report in
        yes | no) ;;
        *) fail "$USAGE" "--status is yes or no" ;;
    esac
    case "${trust_document:+document}${allowed_signers:+signers}" in
        documentsigners) fail "$USAGE" "name one of --trust-document and --allowed-signers" ;;
        document) keys=--trust-document ;;
        signers) keys=--allowed-signers ;;
        '') keys='' ;;
    esac
    case $unsigned in
        yes) [ -z "$keys" ] || fail "$USAGE" "$keys and --unsigned yes contradict each other" ;;
        no) check_signers ;;
        *) fail "$USAGE" "--unsigned is yes or no" ;;
    esac
    case $freshness in
        no) ;;
        report | hold) [ -n "$keys" ] || fail "$USAGE" "--freshness needs --trust-document or --allowed-signers" ;;
        *) fail "$USAGE" "--freshness is no, report or hold" ;;
    esac
    case $state in
        /*) ;;
        *) state=$PWD/$state ;;
    esac
    for file in "$token_file" "$ca_file" "$cert_file" "$key_file"; do
        [ -z "$file" ] || [ -r "$file" ] || fail "$USAGE" "$file cannot be read"
    done
    [ -z "$hook" ] || command -v "$hook" >/dev/null || fail "$USAGE" "the hook $hook cannot be run"
    mkdir -p "$state/states" || fail "$USAGE" "$state cannot be used"
}

check_signers() {
    [ -n "$keys" ] ||
        fail "$USAGE" "name whose signatures count with --trust-document or --allowed-signers, or write --unsigned yes"
    [ -n "$device" ] || fail "$USAGE" "$keys needs --device: a signature is for one device"
    [ -r "$trust_document$allowed_signers" ] || fail "$USAGE" "$trust_document$allowed_signers cannot be read"
    for program in ssh-keygen sha1sum; do
        command -v "$program" >/dev/null ||
            fail "$USAGE" "the program $program is missing, so no signature can be checked; --unsigned yes takes any state"
    done
}

# ---- one at a time: the lock is the newest state/lock.N; it ends with the process that is named in it

# identity PID: tells a process from a later one with the same number, also after a restart of the device.
identity() {
    kill -0 "$1" 2>/dev/null || [ -d "/proc/$1" ] || return 1
    boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)
    started=$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | awk '{ print ($1 ~ /[ZX]/ ? "dead" : $20) }')
    [ "$started" != dead ] || return 1
    printf '%s %s %s\n' "$1" "${started:-unknown}" "${boot:-unknown}"
}

newest_lock() {
    newest=0
    for entry in "$state"/lock.*; do
        number=${entry##*.}
        case $number in
            '' | *[!0-9]* | ??????????*) continue ;;
        esac
        [ "$number" -le "$newest" ] || newest=$number
    done
}

take_lock() {
    newest_lock
    if [ "$newest" -gt 0 ]; then
        holder=$(cat "$state/lock.$newest")
        [ -z "$holder" ] || [ "$(identity "${holder%% *}")" != "$holder" ] ||
            fail "$TRY_LATER" "another margo-pull works with $state (process ${holder%% *})"
    fi
    mine=$((newest + 1))
    identity $$ >"$state/new-lock.$$" || fail "$USAGE" "$state cannot be written"
    ln "$state/new-lock.$$" "$state/lock.$mine" 2>/dev/null || fail "$TRY_LATER" "another margo-pull was faster"
    newest_lock
    [ "$newest" -eq "$mine" ] || fail "$TRY_LATER" "another margo-pull was faster"
    for entry in "$state"/lock.* "$state"/new-lock.*; do
        [ "$entry" = "$state/lock.$mine" ] || rm -f "$entry"
    done
}

# ---- what is held: one small file, replaced in one step

store() { # FILE CONTENT
    printf '%s\n' "$2" >"$1.new" && { sync "$1.new" 2>/dev/null || sync; } && mv -f "$1.new" "$1" &&
        { sync "$state" 2>/dev/null || sync; } || fail "$USAGE" "$1 cannot be written: is the disk full?"
}

field() { sed -n "s/^$1 //p" "$state/held"; }

read_held() {
    version=0 manifest_digest='' applied=yes etag='' folder='' previous='' commit='' fleet='' lowest=1 left='' changes=''
    [ -e "$state/held" ] || return 0
    version=$(field version) manifest_digest=$(field manifest) applied=$(field applied) etag=$(field etag)
    case "$(sed -n 1p "$state/held") $applied" in
        'margo-pull 1 yes' | 'margo-pull 1 no') ;;
        *) refuse "$state/held is damaged: it says which version was trusted last; remove it only if you know" ;;
    esac
    lowest=$(field lowest) left=$(field left) changes=$(field changes)
    is_version "$version" && is_digest "$manifest_digest" && is_version "${lowest:=1}" ||
        refuse "$state/held is damaged: it says which version was trusted last; remove it only if you know"
    folder=$state/states/$version-${manifest_digest#sha256:}
    previous=$(field previous) commit=$(field commit) fleet=$(field fleet)
    # Documents that were lost or changed are fetched again: without the ETag the server sends the manifest.
    intact || applied=no
    [ "$applied" = yes ] && { [ -n "$commit" ] || [ "$unsigned" = yes ]; } || etag=''
    # A server that is told of a version that was taken back may keep what is below it.
    has_floor || greater "$lowest" "$version" || etag=''
}

has_floor() { [ -n "$manifest_digest" ] && [ "$manifest_digest" != "$left" ]; } # whether the held version still counts

intact() { # whether the held state is on disk as it was verified
    [ -f "$folder/manifest.json" ] && [ "$(sha256 "$folder/manifest.json")" = "$manifest_digest" ] || return 1
    read_manifest "$folder/manifest.json" | sed -n 's/^deployment //p' | while read -r id digest; do
        [ -f "$folder/deployments/$id.yaml" ] && [ "$(sha256 "$folder/deployments/$id.yaml")" = "$digest" ] || exit 1
    done
}

write_held() { # APPLIED ETAG
    store "$state/held" "margo-pull 1
version $version
manifest $manifest_digest
applied $1
etag $2
previous $previous
commit $commit
fleet $fleet
lowest $lowest
left $left
changes $changes"
}

is_digest() {
    case $1 in
        sha256:*[!0-9a-f]* | '') return 1 ;;
        sha256:*) [ ${#1} -eq 71 ] ;;
        *) return 1 ;;
    esac
}

is_version() {
    case $1 in
        '' | 0* | *[!0-9]*) return 1 ;;
        *) ! greater "$1" 18446744073709551615 ;;
    esac
}

# greater A B: whether A > B, for whole numbers of any size without leading zeros.
greater() {
    [ ${#1} -eq ${#2} ] || { [ ${#1} -gt ${#2} ] && return 0 || return 1; }
    awk 'BEGIN { exit !((ARGV[1] "") > (ARGV[2] "")) }' "$1" "$2"
}

sha256() {
    # shellcheck disable=SC2046  # two words: the digest and a dash
    set -- $(sha256sum <"$1")
    printf 'sha256:%s' "$1"
}

size_of() { wc -c <"$1" | tr -d ' '; }

point_current() {
    target=states/${folder##*/}
    [ "$(ls -ld "$state/current" 2>/dev/null | sed 's/.* -> //')" = "$target" ] && return 0
    rm -f "$state/current.new"
    ln -s "$target" "$state/current.new" || fail "$USAGE" "$state/current cannot be written"
    # mv -T is not in POSIX, but it is the one way that has no moment without a link.
    mv -fT "$state/current.new" "$state/current" 2>/dev/null ||
        { rm -f "$state/current" && mv -f "$state/current.new" "$state/current"; } ||
        fail "$USAGE" "$state/current cannot be written"
}

# ---- HTTP

# Secrets reach curl through its standard input: arguments can be seen by every user of the device.
curl_settings() { # ETAG
    [ -z "$token" ] || printf 'header = "Authorization: Bearer %s"\n' "$token"
    [ -z "$1" ] || printf 'header = "If-None-Match: %s"\n' "$(printf '%s' "$1" | sed 's/["\\]/\\&/g')"
}

# request PATH LIMIT ETAG CURL-OPTION...: sets $http; the body is in work/body, the headers are in work/headers.
request() {
    path=$1 limit=$2 tag=$3
    shift 3
    rm -f "$work/body" "$work/headers"
    : >"$work/body"
    [ -z "$ca_file" ] || set -- --cacert "$ca_file" "$@"
    [ -z "$cert_file" ] || set -- --cert "$cert_file" "$@"
    [ -z "$key_file" ] || set -- --key "$key_file" "$@"
    http=$(
        # Older curl do not bound an answer whose length the server does not say; the file system's limit does.
        ulimit -f $((limit / 512 + 2)) 2>/dev/null
        curl_settings "$tag" | curl -q --config - --silent --show-error --globoff --proto '=http,https' \
            --max-redirs 0 --connect-timeout 30 --max-time "$timeout" --max-filesize "$limit" \
            --user-agent margo-pull/1 --dump-header "$work/headers" --output "$work/body" \
            --write-out '%{http_code}' "$@" "$url$path"
    )
    status=$?
    case $status in
        0) ;;
        # 63: more than --max-filesize; 23 and 153: the file system's limit.
        63 | 153) refuse "$path is larger than $limit bytes" ;;
        23) [ "$(size_of "$work/body")" -lt "$limit" ] || refuse "$path is larger than $limit bytes"
            fail "$TRANSPORT" "$path could not be stored: is the disk full?" ;;
        18) fail "$TRANSPORT" "$path broke off in the middle" ;;
        *) fail "$TRANSPORT" "$path cannot be fetched (curl status $status)" ;;
    esac
    case $http in
        2?? | 304) [ "$(size_of "$work/body")" -le "$limit" ] || refuse "$path is larger than $limit bytes" ;;
        429 | 503)
            header retry-after >"$state/retry-after"
            fail "$TRY_LATER" "the server is busy (HTTP $http)"
            ;;
    esac
}

header() { # NAME: its value in the last answer, without what no header of ours holds
    awk -v name="$1:" '
        /^HTTP\// { value = "" }
        tolower(substr($0, 1, length(name))) == name {
            value = substr($0, length(name) + 1)
            gsub(/^[ \t]+|[ \t\r]+$/, "", value)
        }
        END { if (length(value) <= 200 && value !~ /[^ -~]/) print value }' "$work/headers"
}

fetch() { # PATH LIMIT TYPE: a document that the manifest leads to
    request "$1" "$2" '' --header "Accept: $3"
    case $http in
        200) ;;
        404) fail "$TRANSPORT" "$1 is listed, and the server does not have it (HTTP 404): nothing is removed" ;;
        3??) fail "$TRANSPORT" "$1 answers with a redirect (HTTP $http), which is not followed" ;;
        *) fail "$TRANSPORT" "$1 answers with HTTP $http" ;;
    esac
}

# ---- the manifest (P-1)

# Splitting at the quotes leaves strings in even places and everything else between them, because no string holds an
# escape. What is found is kept by its path; paths are cut, so that no long name is kept again for all that is below it.
read_json='
    function bad(why) { if (!wrong) wrong = why; return 0 }
    function read_tokens(pieces, piece, count, part, i, j) { # a string keeps the quote before it
        pieces = split($0, piece, "\"")
        if (pieces % 2 == 0 || index($0, "\\")) return bad("an escape, or a string without an end")
        for (i = 1; i <= pieces; i++) {
            if (i % 2 == 0) { token[++tokens] = "\"" piece[i]; continue }
            if (length(piece[i]) > 4096 || piece[i] ~ / /) return bad("white space, or too much without a string")
            gsub(/[][{},:]/, " & ", piece[i])
            count = split(piece[i], part, " ")
            for (j = 1; j <= count; j++) token[++tokens] = part[j]
        }
    }
    function read_value(path, depth, first, last, name, number) {
        values++
        path = substr(path, 1, 99)
        first = found[path] = token[++at]
        if (first ~ /^("|(null|true|false|-?(0|[1-9][0-9]*)([.][0-9]+)?(e[-+][0-9]+)?)$)/) return
        if (first !~ /^[[{]$/ || depth > 9) return bad("piece " at " is not a value")
        last = (first == "{" ? "}" : "]")
        if (token[at + 1] == last) { at++; return }
        do {
            if (first == "[") read_value(path SUBSEP (++number), depth + 1)
            else if (token[++at] !~ /^"/ || token[at] <= name) bad("piece " at " is not the next name")
            else {
                name = token[at]
                if (token[++at] != ":") bad("expected : as piece " at)
                read_value(path SUBSEP substr(name, 2), depth + 1)
            }
        } while (!wrong && token[++at] == ",")
        if (token[at] != last) bad("expected " last " as piece " at)
        items[path] = number
    }
    function string(path) { return found[path] ~ /^"/ ? substr(found[path], 2) : "" }
'

read_manifest() { # FILE: prints "version N", "bundle DIGEST", "deployment ID DIGEST"..., "end"; or "bad WHY"
    [ "$(tr -cd ' -~' <"$1" | wc -c)" -eq "$(wc -c <"$1")" ] || {
        echo 'bad not printable ASCII without line ends'
        return
    }
    awk "$read_json"'
        function hex(text, count) { return length(text) == count && text !~ /[^0-9a-f]/ }
        function digest(text) { return substr(text, 1, 7) == "sha256:" && hex(substr(text, 8), 64) }
        function uuid(text, part) {
            return length(text) == 36 && split(tolower(text), part, "-") == 5 && hex(part[1], 8) &&
                hex(part[2], 4) && hex(part[3], 4) && hex(part[4], 4) && hex(part[5], 12)
        }
        function reference(path, below, name) { # the digest of what is listed there
            name = string(path SUBSEP "digest")
            if (!digest(name)) bad("a digest that is not a sha256 digest")
            if (string(path SUBSEP "url") != below name) bad("a url that is not " below name)
            path = path SUBSEP "sizeBytes"
            if (path in found && found[path] !~ /^(0|[1-9][0-9]*)$/) bad("sizeBytes is not a number")
            return name
        }
        {
            read_tokens()
            read_value("", 0)
            if (at != tokens) bad("something after the end")
            bundle = SUBSEP "bundle"
            list = SUBSEP "deployments"
            if (found[bundle] !~ /^(null|[{])$/ || found[list] != "[") bad("no bundle or no deployments")
            if ((found[bundle] == "null") != (items[list] == 0)) bad("a bundle that should not be there, or is missing")
            if (found[bundle] == "{") {
                if (string(bundle SUBSEP "mediaType") != type) bad("a bundle of another media type")
                print "bundle", reference(bundle, "/api/v1/bundles/")
            }
            for (i = 1; i <= items[list]; i++) {
                id = string(list SUBSEP i SUBSEP "deploymentId")
                if (!uuid(id)) bad("a deploymentId that is not a UUID")
                if ((tolower(id) in seen)) bad("a deployment that appears twice")
                seen[tolower(id)] = 1
                print "deployment", id, reference(list SUBSEP i, "/api/v1/deployments/" id "/")
            }
            number = found[SUBSEP "manifestVersion"] ""
            if (number !~ /^[1-9][0-9]*$/) bad("manifestVersion is not a whole number from 1")
            print "version", number
        }
        END { print (wrong ? "bad " wrong : NR ? "end" : "bad empty") }' type="$BUNDLE_TYPE" "$1"
}

# ---- documents of our own: trust documents, proofs of freshness, and the signatures in them

read_own='
    function above(a, b) { return length(a) != length(b) ? length(a) > length(b) : (a "") > (b "") }
    function hex(base64, i, j, value, out) { # empty where it is not base64 in its one spelling
        if (length(base64) % 4 || base64 !~ /^[A-Za-z0-9+\/]+=?=?$/) return ""
        for (i = 1; i <= length(base64); i += 4) {
            for (j = value = 0; j < 4; j++) value = value * 64 + digit[substr(base64, i + j, 1)]
            out = out sprintf("%06x", value)
        }
        i = 2 * gsub(/=/, "", base64)
        if (i && substr(out, length(out) - i + 1) !~ /^0+$/) return ""
        return substr(out, 1, length(out) - i)
    }
    function number_of(code, i, value) {
        for (i = 1; i <= length(code); i++) value = value * 16 + index("0123456789abcdef", substr(code, i, 1)) - 1
        return value + 0
    }
    function name_of(code, i, out) { # the printable ASCII that this is
        if (code !~ /^([2-6][0-9a-f]|7[0-9a-e])*$/) return "\n"
        for (i = 1; i < length(code); i += 2) out = out sprintf("%c", number_of(substr(code, i, 2)))
        return out
    }
    function take(bytes, taken) { # the next bytes of the wire, in hex
        taken = substr(wire, 1, 2 * bytes)
        if (length(taken) < 2 * bytes) torn = 1
        wire = substr(wire, 2 * bytes + 1)
        return taken
    }
    function field() { return take(number_of(take(4))) }
    function bits(number) { # of a whole number on the wire; 0 for one that is not in its shortest form
        if (number !~ /^(00[89a-f]|0[1-9a-f]|[1-7])/) return 0
        sub(/^0+/, "", number)
        return 4 * length(number) - (number ~ /^1/ ? 3 : number ~ /^[23]/ ? 2 : number ~ /^[4-7]/)
    }
    function is_key(blob, type, inner, number, ok) { # whether it is a key of this type that can be used
        wire = blob
        torn = 0
        if (name_of(field()) != type) return 0
        inner = type
        if (sub(/^sk-/, "", inner)) sub(/@openssh[.]com$/, "", inner)
        if (inner == "ssh-ed25519") ok = length(field()) == 64
        else if (type == "ssh-rsa") {
            number = field()
            ok = number ~ /[13579bdf]$/ && number != "01" && bits(number) && bits(number) <= 64
            number = field()
            ok = ok && number ~ /[13579bdf]$/ && bits(number) >= 3072 && bits(number) <= 16384
        } else if (inner in point) {
            number = name_of(field())
            ok = "ecdsa-sha2-" number == inner
            number = field()
            ok = ok && length(number) == 2 * point[inner] && number ~ /^04/
        }
        if (inner != type) { ok = ok && type in token_type; field() }
        return ok && !torn && wire == ""
    }
    function here(path, kind) { # whether something of this kind is there
        known[path] = 1
        if (!(path in found)) return 0
        if (found[path] "" != kind) bad("what is not " kind)
        return 1
    }
    function text(path, form, most, value) {
        known[path] = 1
        value = string(path)
        if (value !~ form || length(value) > most) bad("a text that is not as it should be: " substr(value, 1, 60))
        return value
    }
    function whole(path, most, value) {
        known[path] = 1
        value = found[path] ""
        if (value !~ /^[1-9][0-9]*$/ || above(value, most)) bad("a number that is not from 1 to " most)
        return value
    }
    function moment(path, value, year, month, day) {
        value = text(path, "^[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z$", 20)
        gsub(/[^0-9]/, "", value)
        year = substr(value, 1, 4) + 0
        month = substr(value, 5, 2) + 0
        day = substr(value, 7, 2) + 0
        if (!year || month < 1 || month > 12 || !day || substr(value, 9, 2) > 23) bad("a time that is none")
        if (day > (month == 2 ? 28 + (year % 4 == 0 && (year % 100 || year % 400 == 0)) : 30 + (month + int(month / 8)) % 2))
            bad("a time that is none")
        return value
    }
    function key(path, value, part) {
        value = text(path, "^[a-z0-9@.-]+ [A-Za-z0-9+/]+=?=?$", 4096)
        split(value, part, " ")
        if (!(value in blob)) blob[value] = hex(part[2])
        if (!is_key(blob[value], part[1])) bad("a key that cannot be used: " substr(value, 1, 60))
        return value
    }
    function signature(armor, body, rest, type, touched) {
        if (index(armor, "~") || length(armor) > 2 * 16384) return bad("a signature that is not one")
        gsub(/\\n|\023/, "~", armor)
        if (length(armor) > 16384 || armor !~ /^-----BEGIN SSH SIGNATURE-----~.+~-----END SSH SIGNATURE-----~?$/)
            return bad("a signature that is not one")
        body = substr(armor, 31)
        sub(/~-----END SSH SIGNATURE-----~?$/, "", body)
        gsub(/~/, "", body)
        wire = hex(body)
        torn = 0
        if (take(10) != "53534853494700000001") return bad("a signature that is not one") # SSHSIG, version 1
        body = field()
        rest = wire
        wire = body
        type = name_of(field())
        if (!is_key(body, type)) return bad("a signature of a key that cannot be used")
        wire = rest
        torn = 0
        if (name_of(field()) == "\n" || field() != "" || name_of(field()) !~ /^sha(256|512)$/) torn = 1
        rest = field()
        if (torn || wire != "") return bad("a signature that is not one")
        touched = !(type in token_type) || substr(rest, length(rest) - 9, 2) ~ /[13579bdf]$/
        print "signature", body, (touched ? "yes" : "no"), armor
    }
    BEGIN {
        for (i = 1; i <= 64; i++)
            digit[substr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", i, 1)] = i - 1
        point["ecdsa-sha2-nistp256"] = 65
        point["ecdsa-sha2-nistp384"] = 97
        point["ecdsa-sha2-nistp521"] = 133
        token_type["sk-ssh-ed25519@openssh.com"] = token_type["sk-ecdsa-sha2-nistp256@openssh.com"] = 1
    }
'

# ---- the trust document (P-9)

# read_trust FILE: prints what it says, "fleet NAME", "version N", "issued TIME", "expires TIME", "threshold N",
# "root NAME HEX TYPE BASE64"..., "render NAME UNTIL TYPE BASE64"..., "floor ID HIGHEST NEXT"..., "signature HEX TOUCHED
# ARMOR"..., "end"; or "bad WHY". Keys that count for nothing are left out, and floors of other devices.
#
# Of the document, awk sees a copy in which each character beyond ASCII is one \024, and each escape one of \021 to \023:
# only a reason may have them. So no text can look like another part of the document, whatever is in it.
read_trust() {
    size=$(size_of "$1")
    line_end=$(tail -c 1 "$1" | tr -cd '\n' | wc -c) # `margo-gitops keys` writes one
    [ "$size" -le "$TRUST_LIMIT" ] && [ "$(tr -d '\000-\037' <"$1" | wc -c)" -eq "$((size - line_end))" ] || {
        echo "bad control characters, or more than $TRUST_LIMIT bytes"
        return
    }
    tr '\200-\277' '\001' <"$1" | tr '\300-\377' '\002' | awk "$read_json$read_own"'
        function keys(role, each, i, count, name, public) {
            each = SUBSEP "roles" SUBSEP role
            if (!here(each, "{")) return 0
            each = each SUBSEP "keys"
            if (!here(each, "[")) return 0
            for (i = 1; i <= items[each]; i++) {
                here(each SUBSEP i, "{")
                name = text(each SUBSEP i SUBSEP "name", "^[A-Za-z0-9][A-Za-z0-9@._+-]*$", 64)
                public = key(each SUBSEP i SUBSEP "key")
                if (((role, name) in seen) || ((role, public) in seen)) bad("a name or a key twice in a role")
                seen[role, name] = seen[role, public] = 1
                if ((public in reason) && reason[public] == "compromised") bad("a role of a compromised key")
                if (role != "root") print role, name, (public in reason ? since[public] : "-"), public
                if (role != "root" || (public in reason)) continue
                print role, name, blob[public], public
                count++
            }
            return count
        }
        function floors(each, i, j, id, highest, next_, mine, name) {
            each = SUBSEP "floors"
            if (!here(each, "[")) return
            for (i = 1; i <= items[SUBSEP "floors"]; i++) {
                each = SUBSEP "floors" SUBSEP i
                here(each, "{")
                id = text(each SUBSEP "id", "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", 63)
                if (("floor", id) in seen) bad("a floor twice")
                seen["floor", id] = 1
                text(each SUBSEP "reason", ".", 500)
                highest = ((each SUBSEP "highest") in found) ? whole(each SUBSEP "highest", "18446744073709551614") : 0
                next_ = ((each SUBSEP "next") in found) ? whole(each SUBSEP "next", "18446744073709551615") : 0
                if (!highest && !next_ || highest && next_ && !above(next_, highest)) bad("a floor that changes nothing")
                mine = !here(each SUBSEP "devices", "[")
                for (j = 1; j <= items[each SUBSEP "devices"]; j++) {
                    name = text(each SUBSEP "devices" SUBSEP j, "^[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*$", 200)
                    if (name == device || name == client) mine = 1
                }
                if (mine) print "floor", id, highest, next_
            }
        }
        {
            # The envelope: its strings are the document, in which quotes and backslashes are escaped, and signatures.
            gsub(/\\\\/, "\021")
            gsub(/\\"/, "\022")
            pieces = split($0, piece, "\"")
            form = piece[1] "|" piece[2] "|" piece[3] "|" piece[5] "|" piece[6] "|" piece[7]
            if (form != "{|document|:|,|signatures|:[" (pieces > 7 ? "" : "]}") || pieces % 2 == 0 || index(piece[4], "\\"))
                bad("an envelope of another form")
            for (i = 8; i <= pieces; i++) {
                if (i % 2 == 0) signature(piece[i])
                else if (piece[i] != (i == pieces ? "]}" : ",")) bad("an envelope of another form")
            }

            # The document, unescaped; then its own escapes and its characters become one each.
            $0 = piece[4]
            gsub(/\021/, "\\")
            gsub(/\022/, "\"")
            gsub(/\002\001\001\001|\002\001\001|\002\001/, "\024")
            if ($0 ~ /[\001\002]/) bad("what is not UTF-8")
            gsub(/\\\\/, "\021")
            gsub(/\\"/, "\022")
            gsub(/\\([bfnrt]|u00(0[0-7be-f]|1[0-9a-f]))/, "\023")
            read_tokens()
            if (!wrong) read_value("", 0)
            if (at != tokens || found[""] != "{") bad("not one object")
            known[""] = 1
            if (text(SUBSEP "apiVersion", ".", 99) != "margo-gitops/v1" || text(SUBSEP "kind", ".", 99) != "TrustDocument")
                bad("another kind of document")
            print "fleet", text(SUBSEP "fleet", "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", 63)
            print "version", whole(SUBSEP "version", "2147483647")
            issued = moment(SUBSEP "issued")
            expires = moment(SUBSEP "expires")
            if (expires <= issued) bad("an end before the beginning")
            print "issued", issued
            print "expires", expires
            if (here(SUBSEP "revoked", "[")) for (i = 1; i <= items[SUBSEP "revoked"]; i++) {
                each = SUBSEP "revoked" SUBSEP i
                here(each, "{")
                public = key(each SUBSEP "key")
                if (public in reason) bad("a key that is revoked twice")
                reason[public] = text(each SUBSEP "reason", "^(retired|compromised)$", 99)
                since[public] = moment(each SUBSEP "since")
            }
            if (!here(SUBSEP "roles", "{") || !here(SUBSEP "roles" SUBSEP "render", "{")) bad("no keys")
            threshold = whole(SUBSEP "roles" SUBSEP "root" SUBSEP "threshold", "100")
            if (keys("root") < threshold) bad("a threshold that is out of reach")
            keys("render")
            keys("freshness")
            floors()
            print "threshold", threshold
            for (path in found) if (!(path in known)) bad("a member that means nothing here")
            if (values > 8000) bad("too many values")
        }
        END { print (wrong ? "bad " wrong : NR == 1 ? "end" : "bad empty") }' device="$device" client="${device%%/*}" -
}

said() { sed -n "s/^$1 //p" "$2"; } # NAME FILE: what a trust document says of it

# count_document FILE: whether it counts, as the first one or after the one in work/trust, whose place it takes; else $why.
count_document() {
    read_trust "$1" >"$work/offered"
    why=$(tail -n 1 "$work/offered")
    [ "$why" = end ] || { why="it is not of the expected form: ${why#bad }" && return 1; }
    # What is signed is the text of the document, and nothing else.
    sed 's/^{"document":"//; s/","signatures":\[.*$//; s/\\\(["\\]\)/\1/g' "$1" | tr -d '\n' >"$work/text"
    if [ -f "$work/trust" ]; then
        [ "$(said fleet "$work/offered")" = "$trust_fleet" ] || { why="it is another fleet's than $trust_fleet" && return 1; }
        [ "$(said version "$work/offered")" = $((trust_version + 1)) ] ||
            { why="it is version $(said version "$work/offered"), after version $trust_version" && return 1; }
        enough "$work/trust" || return 1
    fi
    enough "$work/offered" && hold_offered
}

hold_offered() {
    mv "$work/offered" "$work/trust" && trust_version=$(said version "$work/trust") trust_fleet=$(said fleet "$work/trust")
}

# enough FILE: whether as many of its root keys as its threshold says signed work/text. Each counts once, by its first
# signature that is there: two hundred forged ones would keep a small device busy.
enough() {
    awk 'FNR == NR { if ($1 == "root") key[$3] = $2 " " $4 " " $5; next }
        $1 == "signature" && ($2 in key) {
            print key[$2], $3, substr($0, index($0, "-----BEGIN"))
            delete key[$2]
        }' "$1" "$work/offered" >"$work/signatures"
    signed=0 needed=$(said threshold "$1")
    while [ "$signed" -lt "$needed" ] && read -r name type base64 touched armor; do
        printf '%s namespaces="margo-gitops-root" %s %s\n' "$name" "$type" "$base64" >"$work/root"
        printf '%s' "$armor" | tr '~' '\n' >"$work/root.sig"
        [ "$touched" = no ] ||
            ! ssh-keygen -Y verify -f "$work/root" -I "$name" -n margo-gitops-root -s "$work/root.sig" \
                <"$work/text" >/dev/null 2>&1 ||
            signed=$((signed + 1))
    done <"$work/signatures"
    [ "$signed" -ge "$needed" ] || { why="it is signed by $signed root keys of version $(said version "$1"), it needs $needed" && return 1; }
}

# read_documents: the given one, and those that were followed from there; work/trust is the newest. What was verified once is
# not verified again, as long as both ends of the chain are the same bytes.
read_documents() {
    rm -f "$work/trust"
    newest=$(cat "$state/trust/newest" 2>/dev/null)
    if [ -f "$state/trust/${newest%% *}.json" ] && [ "$newest" = "$(ends_of_chain "${newest%% *}")" ]; then
        read_trust "$state/trust/${newest%% *}.json" >"$work/offered"
        hold_offered
        return
    fi
    count_document "$trust_document" || fail "$USAGE" "$trust_document cannot be used: $why; give it keys/<version>.json"
    while [ -f "$state/trust/$((trust_version + 1)).json" ] && count_document "$state/trust/$((trust_version + 1)).json"; do
        store "$state/trust/newest" "$(ends_of_chain "$trust_version")"
    done
}

ends_of_chain() { printf '%s %s %s' "$1" "$(sha256 "$trust_document")" "$(sha256 "$state/trust/$1.json")"; } # VERSION

follow() { # VERSION: follow up to this one; empty: as far as the server has them
    begun=$trust_version
    while [ -z "$1" ] || greater "$1" "$trust_version"; do
        next=$((trust_version + 1))
        [ "$next" -le $((begun + TRUST_FOLLOWED)) ] || break
        request "/api/v1/trust/$next.json" "$TRUST_LIMIT" '' --header 'Accept: application/json'
        case $http in
            200) ;;
            404) break ;;
            *) fail "$TRANSPORT" "trust document $next answers with HTTP $http" ;;
        esac
        count_document "$work/body" || refuse "trust document $next does not count: $why"
        mkdir -p "$state/trust" && { sync "$work/body" 2>/dev/null || sync; } &&
            mv -f "$work/body" "$state/trust/$next.json" && sync || fail "$USAGE" "$state/trust cannot be written: is the disk full?"
        store "$state/trust/newest" "$(ends_of_chain "$trust_version")"
        say "trust document $next of $trust_fleet is followed"
    done
    [ -z "$1" ] || ! greater "$1" "$trust_version" ||
        refuse "the state names trust document $1, and the server led only to version $trust_version"
}

change_floors() { # P-10
    said floor "$work/trust" >"$work/floors"
    while read -r id highest next; do
        case " $changes " in *" $id "*) continue ;; esac
        changes="${changes:+$changes }$id" floor='' low=1
        ! has_floor || floor=$version
        if [ -n "$floor" ] && [ "$highest" != 0 ] && greater "$floor" "$highest"; then
            floor='' low=$highest
        fi
        if [ "$next" != 0 ] && { [ -z "$floor" ] || greater "$next" "$floor"; }; then
            floor=''
            greater "$low" "$next" || low=$next
        fi
        [ -z "$floor" ] && { has_floor || greater "$low" "$lowest"; } || continue
        ! has_floor || left=$manifest_digest
        lowest=$low
        say "security event: trust document $trust_version changes the floor ($id): from now on the lowest version is $lowest"
    done <"$work/floors"
    [ -z "$manifest_digest" ] || [ "$changes" = "$(field changes)" ] || write_held "$applied" "$etag"
}

use_signers() { # ROLE NAMESPACE: with a trust document, the keys that have the role count
    [ -n "$trust_document" ] || return 0
    awk '$1 == role && $3 !~ /^(0|1[0-8]|19[0-6])/ {
        until = $3 == "-" ? "" : ",valid-before=\"" $3 "\""
        print $2, "namespaces=\"" namespace "\"" until, $4, $5 }' role="$1" namespace="$2" "$work/trust" >"$work/signers"
    allowed_signers=$work/signers
}

check_expiry() {
    now=$(date -u +%Y%m%d%H%M%S) expires=$(said expires "$work/trust") issued=$(said issued "$work/trust")
    # A clock that is set back revives nothing.
    ! greater "$issued" "$now" || now=$issued
    past=$state/trust/expired-$trust_version
    if [ ! -e "$past" ]; then
        ! greater "$expires" "$now" || return 0
        mkdir -p "$state/trust" && : >"$past"
    fi
    refuse "trust document $trust_version expired $expires: let the root keys sign the next one"
}

# ---- the signature (P-8)

is_known() { has_floor && [ "$new_digest" = "$manifest_digest" ] && [ -n "$commit" ]; }

# fetch_commit: of work/manifest.json; what it names is followed, whether the signature is right or not (P-9).
fetch_commit() {
    new_commit=$commit new_fleet=$fleet
    [ "$unsigned" = no ] && ! is_known || return 0
    request "/api/v1/commits/$new_digest" "$COMMIT_LIMIT" '' --header "Accept: $COMMIT_TYPE"
    case $http in
        200) ;;
        404) refuse "the state is not signed: the server has no commit of its manifest" ;;
        *) fail "$TRANSPORT" "the commit of the manifest answers with HTTP $http" ;;
    esac
    # What is signed is the commit without its signature; everything below is read from these bytes.
    awk -v signature="$work/signature" '
        !body && /^gpgsig / { inside = 1; print substr($0, 8) >signature; next }
        !body && inside && /^ / { print substr($0, 2) >signature; next }
        { inside = 0; if ($0 == "") body = 1; print }' "$work/body" >"$work/signed"
    [ -f "$work/signature" ] && [ "$(grep -c '^-----BEGIN' "$work/signature")" -eq 1 ] ||
        refuse "the state's commit does not have exactly one signature"
    size=$(size_of "$work/body")
    new_commit=$({ printf 'commit %s\0' "$size" && cat "$work/body"; } | sha1sum) && new_commit=${new_commit%% *}
    [ -n "$trust_document" ] || return 0
    read_documents
    named=$(trailer Trust-Version)
    case $named in
        '' | 0* | *[!0-9]* | ???????????*) ;;
        *) follow "$named" ;;
    esac
    change_floors
    use_signers render git
    fleet=$trust_fleet
}

# check_signature: the commit in work/signed; sets new_fleet.
check_signature() {
    [ "$unsigned" = no ] && ! is_known || return 0
    signed_at=$(sed -n '/^$/q; s/^committer .*> \([0-9]*\) [-+][0-9]*$/\1/p' "$work/signed")
    at=$(date -u -d "@$signed_at" +%Y%m%d%H%M%S 2>/dev/null) || refuse "the state's commit says no time"
    who=$(signing find-principals "$work/signed" | sed 's/,.*//; 1q')
    [ -n "$who" ] || refuse "the state is signed by a key that may not sign it"
    signing verify "$work/signed" -n git -I "$who" >/dev/null || refuse "the signature of the state is not right"
    [ "$(trailer Manifest-Digest)" = "$new_digest" ] || refuse "the signed commit is that of another manifest"
    [ "$(trailer Manifest-Version)" = "$new_version" ] || refuse "the signed commit is that of another version"
    [ "$(trailer Device)" = "${device%%/*}" ] || refuse "the signed commit is that of another device"
    new_fleet=$(trailer Fleet)
    [ -z "$fleet" ] || [ "$new_fleet" = "$fleet" ] || refuse "the signed commit is that of another fleet than $fleet"
    check_history
    [ -z "$trust_document" ] || check_expiry
}

signing() { # COMMAND FILE OPTION...
    command=$1 file=$2
    shift 2
    TZ=UTC0 ssh-keygen -Y "$command" -f "$allowed_signers" -s "$work/signature" -O "verify-time=$at" "$@" <"$file" 2>/dev/null
}

trailer() { # NAME: its value in the last paragraph of the signed commit; nothing where it is not there once
    awk -v name="$1: " '
        $0 == "" { found = 0; value = ""; next }
        substr($0, 1, length(name)) == name { found++; value = substr($0, length(name) + 1) }
        END { if (found == 1) print value }' "$work/signed"
}

check_history() { # the version right after the held one has the held commit among its parents
    has_floor && [ -n "$commit" ] && ! greater "$version" 9223372036854775806 && [ "$new_version" = $((version + 1)) ] || return 0
    sed '/^$/q' "$work/signed" | grep -qx "parent $commit" || refuse "version $new_version does not descend from the held one"
}

# ---- freshness (P-11)

# read_proof FILE: prints what it says, "text STATEMENT", "signature HEX TOUCHED ARMOR", "fleet NAME", "issued TIME", "from
# SECONDS", "until SECONDS", "trust VERSION", "root HASH", "name HEX" and "place HEX" of the shard, "leaf HEX"..., "path HASH"..., "version N" and
# "manifest DIGEST" of this device, "end"; or "bad WHY". In its strings, awk sees \023 for a line end and \022 for a quote.
read_proof() {
    [ "$(tr -cd ' -~' <"$1" | wc -c)" -eq "$(wc -c <"$1")" ] || {
        echo 'bad not printable ASCII without line ends'
        return
    }
    awk "$read_json$read_own"'
        function kind(path, name) {
            here(path, "{")
            if (text(path SUBSEP "apiVersion", ".", 99) != "margo-gitops/v1" || text(path SUBSEP "kind", ".", 99) != name)
                bad("another kind of document")
        }
        function hash(path, value) {
            value = text(path, "^[0-9a-f]*$", 64)
            if (length(value) != 64) bad("a hash that is not one")
            return value
        }
        function seconds(when, year, month, days) { # since 1970
            year = substr(when, 1, 4) + 0
            month = substr(when, 5, 2) + 0
            if (month < 3) { year--; month += 12 }
            days = 365 * year + int(year / 4) - int(year / 100) + int(year / 400) + int((153 * month - 457) / 5)
            days += substr(when, 7, 2) - 719469
            return sprintf("%.0f", ((days * 24 + substr(when, 9, 2)) * 60 + substr(when, 11, 2)) * 60 + substr(when, 13, 2))
        }
        function wide(number, i, j, rest, quotient, out) { # 64 bits in hex, of a number too large for awk
            for (i = 0; i < 4; i++) {
                rest = 0
                quotient = ""
                for (j = 1; j <= length(number); j++) {
                    rest = rest * 10 + substr(number, j, 1)
                    quotient = quotient int(rest / 65536)
                    rest %= 65536
                }
                out = sprintf("%04x", rest) out
                number = quotient
            }
            return out
        }
        {
            gsub(/\\"/, "\022")
            gsub(/\\n/, "\023")
            read_tokens()
            if (!wrong) read_value("", 0)
            if (at != tokens) bad("something after the end")
            kind("", "FreshnessProof")
            known[SUBSEP "signature"] = known[SUBSEP "statement"] = 1
            signature(string(SUBSEP "signature"))
            $0 = string(SUBSEP "statement")
            gsub(/\022/, "\"")
            if (length($0) > 4096) bad("a statement that is too long")
            print "text", $0
            read_tokens()
            if (!wrong) read_value("signed", 0)
            if (at != tokens) bad("something after the end of the statement")
            kind("signed", "FreshnessStatement")
            print "fleet", text("signed" SUBSEP "fleet", "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", 63)
            issued = moment("signed" SUBSEP "issued")
            from = seconds(issued)
            until = seconds(moment("signed" SUBSEP "expires"))
            if (until - from <= 0 || until - from > 366 * 86400) bad("a life that is not above 0 and at most 366 days")
            print "issued " issued "\nfrom " from "\nuntil " until
            if (length(text("signed" SUBSEP "stateCommit", "^[0-9a-f]*$", 40)) != 40) bad("a commit that is not one")
            print "root", hash("signed" SUBSEP "root")
            if (("signed" SUBSEP "trustVersion") in found) print "trust", whole("signed" SUBSEP "trustVersion", "2147483647")
            shard = text(SUBSEP "shard", "^(all|[123]-[0-9a-f]*)$", 5)
            depth = shard == "all" ? 0 : substr(shard, 1, 1) + 0
            if (shard != (depth ? depth "-" substr(mine, 1, depth) : "all")) bad("another shard than that of this device")
            for (i = 1; i <= length(shard); i++) {
                name = substr(shard, i, 1)
                code = code (name ~ /[0-9]/ ? "3" name : name == "-" ? "2d" : name == "l" ? "6c" : "6" index("abcdef", name))
            }
            print "name " code "\nplace " (depth ? substr(shard, 3) : 0)
            here(SUBSEP "path", "[")
            if (whole("signed" SUBSEP "shards", "4096") != substr("1   16  256 4096", 4 * depth + 1, 4) + 0 || items[SUBSEP "path"] != 4 * depth)
                bad("another number of shards than the name of this one says")
            for (i = 1; i <= items[SUBSEP "path"]; i++) print "path", hash(SUBSEP "path" SUBSEP i)
            here(SUBSEP "leaves", "[")
            for (i = 1; i <= items[SUBSEP "leaves"] && !wrong; i++) {
                leaf = SUBSEP "leaves" SUBSEP i
                here(leaf, "{")
                name = hash(leaf SUBSEP "device") ""
                if (name <= last "" || substr(name, 1, depth) != substr(mine, 1, depth)) bad("devices that are out of order")
                last = name
                version = whole(leaf SUBSEP "version", "18446744073709551615")
                digest = text(leaf SUBSEP "manifest", "^sha256:[0-9a-f]*$", 71)
                if (length(digest) != 71) bad("a digest that is not a sha256 digest")
                print "leaf", "00" name wide(version) substr(digest, 8)
                if (name == mine "") print "version " version "\nmanifest " digest
            }
            if (!(SUBSEP "path" in found) || !(SUBSEP "leaves" in found)) bad("a member that is missing")
            for (path in found) if (!(path in known)) bad("a member that means nothing here")
        }
        END { print (wrong ? "bad " wrong : NR == 1 ? "end" : "bad empty") }' mine="$(device_key)" "$1"
}

device_key() { printf '%s' "${device%%/*}" | sha256sum | sed 's/ .*//'; }

hash_each() { # of each line, bytes in hex: their sha256
    rm -rf "$work/nodes"
    mkdir "$work/nodes"
    awk '{
        out = ""
        for (i = 1; i < length($0); i += 2)
            out = out sprintf("\\%03o", 16 * index(digits, substr($0, i, 1)) + index(digits, substr($0, i + 1, 1)) - 17)
        print 100000 + NR, out }' digits=0123456789abcdef | while read -r number bytes; do
        # shellcheck disable=SC2059  # octal escapes and nothing else
        printf "$bytes" >"$work/nodes/$number"
    done
    (cd "$work/nodes" && sha256sum -- *) | sed 's/ .*//'
}

# tree_root: of the proof in work/proof, up to the root over all shards (RFC 9162, 2.1; MERKLE-1 to MERKLE-4).
tree_root() {
    said leaf "$work/proof" >"$work/level"
    [ -s "$work/level" ] || echo >"$work/level"
    hash_each <"$work/level" >"$work/above"
    while count=$(wc -l <"$work/above") && [ "$count" -gt 1 ]; do
        mv "$work/above" "$work/level"
        awk 'NR % 2 { left = $0; next } { print "01" left $0 }' "$work/level" | hash_each >"$work/above"
        [ $((count % 2)) -eq 0 ] || tail -n 1 "$work/level" >>"$work/above"
    done
    place=$((0x$(said place "$work/proof")))
    node=$(echo "00$(said name "$work/proof")00$(cat "$work/above")" | hash_each)
    for beside in $(said path "$work/proof"); do
        if [ $((place % 2)) -eq 1 ]; then node=$beside$node; else node=$node$beside; fi
        node=$(echo "01$node" | hash_each) place=$((place / 2))
    done
    echo "$node"
}

# check_proof FILE: refuse it unless it follows FRESH-1 to FRESH-5; work/proof has what it says.
check_proof() {
    read_proof "$1" >"$work/proof"
    why=$(tail -n 1 "$work/proof")
    [ "$why" = end ] || refuse "the proof of freshness is not of the expected form: ${why#bad }"
    named=$(said trust "$work/proof")
    [ -z "$trust_document" ] || [ -z "$named" ] || follow "$named"
    use_signers freshness "$FRESHNESS"
    said text "$work/proof" | tr -d '\n' >"$work/text"
    said signature "$work/proof" | sed 's/^[^ ]* yes //' | tr '~' '\n' >"$work/signature"
    at=$(said issued "$work/proof")
    who=$(signing find-principals "$work/text" | sed 's/,.*//; 1q')
    [ -n "$who" ] || refuse "the statement of freshness is signed by a key that may not sign it"
    signing verify "$work/text" -n "$FRESHNESS" -I "$who" >/dev/null ||
        refuse "the signature of the statement of freshness is not right"
    known_fleet=${new_fleet:-$fleet}
    [ -z "$known_fleet" ] || [ "$(said fleet "$work/proof")" = "$known_fleet" ] ||
        refuse "the statement of freshness is that of another fleet than $known_fleet"
    [ "$(tree_root)" = "$(said root "$work/proof")" ] || refuse "the statement of freshness was signed over other devices"
}

# read_kept: the held proof. It is verified again only where it, or the list of keys, is not the one that was verified.
read_kept() {
    kept=$state/freshness.json from='' until='' leaf='' proof_etag='' reached=0 now=$(date -u +%s)
    [ ! -s "$state/reached" ] || reached=$(sed 's/[^0-9]//g; s/^0*\(.\)/\1/' "$state/reached")
    [ -z "$trust_document" ] || read_documents
    use_signers freshness "$FRESHNESS"
    [ -f "$kept" ] || return 0
    [ "$(said verified "$state/freshness" 2>/dev/null)" = "$(verified)" ] || (check_proof "$kept" && note_proof '') || return 0
    from=$(said from "$state/freshness") until=$(said until "$state/freshness") proof_etag=$(said etag "$state/freshness")
    leaf=$(said version "$state/freshness") leaf_digest=$(said manifest "$state/freshness")
    case ${from:-x}${until:-x} in *[!0-9]*) from='' ;; esac
}

verified() { printf '%s %s %s' "$(sha256 "$kept")" "$(sha256 "$allowed_signers")" "$device"; }

note_proof() { # ETAG
    store "$state/freshness" "verified $(verified)
$(sed -n '/^\(from\|until\|version\|manifest\) /p' "$work/proof")
etag $1"
}

fetch_proof() {
    request /api/v1/freshness "$PROOF_LIMIT" "$proof_etag" --header 'Accept: application/json'
    case $http in
        200) ;;
        304 | 404) return 0 ;;
        *) fail "$TRANSPORT" "the proof of freshness answers with HTTP $http" ;;
    esac
    proof_etag=$(header etag)
    mv "$work/body" "$work/freshness.json"
    check_proof "$work/freshness.json"
    # A held statement from the future was made with a wrong clock (FRESH-6).
    offered=$(said from "$work/proof") past=$(($(latest) + CLOCK_TOLERANCE))
    [ -z "$from" ] || [ "$offered" -ge "$from" ] || { [ "$from" -gt "$past" ] && [ "$past" -ge "$offered" ]; } ||
        refuse "the statement of freshness is older than the one that is held"
    { sync "$work/freshness.json" 2>/dev/null || sync; } && mv -f "$work/freshness.json" "$kept" ||
        fail "$USAGE" "$kept cannot be written: is the disk full?"
    note_proof "$proof_etag"
}

latest() { [ "$reached" -gt "$now" ] && echo "$reached" || echo "$now"; } # a clock that is set back revives nothing

ask() { # for a newer proof, once in a poll; what is wrong with it is said, and the held one stays
    [ -z "$asked" ] || return 0
    before=$from
    (fetch_proof)
    asked=$?
}

prove() { # VERSION DIGEST: whether the held proof says that this is the newest state; else $verdict says why not
    read_kept
    verdict=''
    if [ -z "$from" ]; then
        verdict='not-yet-known: no statement of freshness has come yet'
    elif [ "$leaf" = "$1" ] && [ "$leaf_digest" != "$2" ]; then
        verdict="contradicted: version $1 is not the fleet's version $1"
    elif [ "$(latest)" -ge "$until" ]; then
        verdict='expired: the statement of freshness expired'
    elif [ $((now + CLOCK_TOLERANCE)) -lt "$from" ]; then
        verdict="clock-suspect: this device's clock is before the time when the statement was issued"
    elif [ -z "$leaf" ]; then
        verdict='not-yet-known: the statement of freshness does not list this device'
    elif greater "$leaf" "$1"; then
        verdict="behind: the statement of freshness lists version $leaf, this device is given version $1"
    fi
    [ -z "$verdict" ]
}

is_due() { # between half and three quarters of its life, each device at its own time
    share=$((0x$(device_key | tail -c 5)))
    [ "$now" -ge $((from + (until - from) / 2 + (until - from) / 4 * share / 65536)) ] || [ "$from" -gt "$now" ]
}

admit() { # whether the new state may be taken
    prove "$new_version" "$new_digest" || { ask && prove "$new_version" "$new_digest"; } && return 0
    case "$freshness $verdict" in
        hold* | *contradicted*) refuse "version $new_version is not taken: nothing proves that it is the newest; $verdict" ;;
    esac
}

look() { # after what the poll took: renew the proof, and say where nothing proves that the held state is the newest
    prove "$version" "$manifest_digest" && ! is_due || { ask && prove "$version" "$manifest_digest"; }
    for moment in $from $until; do
        [ "$moment" -gt "$now" ] || [ "$moment" -le "$reached" ] || { store "$state/reached" "$moment" && reached=$moment; }
    done
    [ "$asked" != "$TRUST" ] || exit "$TRUST"
    # A render may come between the poll and the statement: that is counted at the next poll.
    case $verdict in
        '') return 0 ;;
        behind:*) [ -z "$asked" ] || [ "$from" = "$before" ] || return 0 ;;
    esac
    refuse "FreshnessLost: $verdict"
}

# ---- building a state (P-3)

listed() { sed -n 's/^deployment //p' "$work/listed"; }

build() { # leaves the complete state in work/state
    mkdir -p "$work/state/deployments" && cp "$work/manifest.json" "$work/state/manifest.json" ||
        fail "$USAGE" "$work cannot be written: is the disk full?"
    reuse
    missing=$(wc -l <"$work/missing") total=$(listed | wc -l)
    # A bundle is one request for everything; single documents are the better deal when few changed.
    if [ "$missing" -gt 2 ] && [ $((missing * 2)) -gt "$total" ]; then
        fetch_bundle
    else
        left=$max_bytes
        while read -r id digest; do
            fetch "/api/v1/deployments/$id/$digest" "$left" "$DEPLOYMENT_TYPE"
            left=$((left - $(size_of "$work/body")))
            mv "$work/body" "$work/state/deployments/$id.yaml" || fail "$USAGE" "$work cannot be written"
        done <"$work/missing"
    fi
    verify
}

reuse() { # what the held state has already is copied, the rest goes on the list work/missing
    : >"$work/missing"
    while read -r id digest; do
        old=$folder/deployments/$id.yaml
        if [ -n "$folder" ] && [ -f "$old" ] && [ "$(sha256 "$old")" = "$digest" ]; then
            cp "$old" "$work/state/deployments/$id.yaml" || fail "$USAGE" "$work cannot be written: is the disk full?"
        else
            printf '%s %s\n' "$id" "$digest" >>"$work/missing"
        fi
    done <"$work/wanted"
}

fetch_bundle() {
    digest=$(sed -n 's/^bundle //p' "$work/listed")
    fetch "/api/v1/bundles/$digest" "$max_bytes" "$BUNDLE_TYPE"
    [ "$(sha256 "$work/body")" = "$digest" ] || refuse "the bundle does not have the digest $digest"
    # Names and headers of the archive are not counted as documents: twice the bound, and some for small ones.
    (
        ulimit -f $((max_bytes / 256 + 2048)) 2>/dev/null
        gzip -dc <"$work/body" >"$work/bundle.tar"
    ) || refuse "the bundle is not a gzip file, or unpacks to more than it may"
    # Through a pipe, tar does not guess at further compression.
    # shellcheck disable=SC2002
    cat "$work/bundle.tar" | tar -tf - >"$work/names" || refuse "the bundle is not a tar archive"
    sed 's/ .*/.yaml/' "$work/wanted" | sort >"$work/expected"
    sort "$work/names" | cmp -s - "$work/expected" || refuse "the bundle does not hold exactly what the manifest lists"
    while read -r id digest; do
        # To standard output: links, owners, modes and paths of the archive mean nothing then.
        # shellcheck disable=SC2002
        (
            ulimit -f $((max_bytes / 512 + 2)) 2>/dev/null
            cat "$work/bundle.tar" | tar -xOf - "$id.yaml" >"$work/state/deployments/$id.yaml"
        ) || refuse "the bundle cannot be unpacked"
    done <"$work/missing"
}

verify() {
    bytes=0
    while read -r id digest; do
        file=$work/state/deployments/$id.yaml
        [ "$(sha256 "$file")" = "$digest" ] || refuse "deployment $id does not have the digest $digest"
        bytes=$((bytes + $(size_of "$file")))
        [ "$bytes" -le "$max_bytes" ] || refuse "the documents have more than $max_bytes bytes together"
    done <"$work/wanted"
}

# ---- one poll

# poll: ends with its status. After a refused state it asks for newer keys, and judges again if there are some (P-9).
poll() {
    (poll_once)
    status=$?
    [ "$status" -eq "$TRUST" ] && [ -n "$trust_document" ] && (find_keys) || return "$status"
    (poll_once)
}

find_keys() {
    prepare
    read_documents
    before=$trust_version
    follow ''
    [ "$trust_version" -gt "$before" ]
}

prepare() {
    read_held
    token=''
    if [ -n "$token_file" ]; then
        token=$(cat "$token_file")
        case $token in
            '' | *[!A-Za-z0-9._~+/=-]*) fail "$USAGE" "$token_file does not hold a bearer token" ;;
        esac
    fi
    work=$state/work.$$
    rm -rf "$state"/work.* "$state"/*.new
    mkdir "$work" || fail "$USAGE" "$state cannot be written"
    trap 'rm -rf "$work"' EXIT
}

poll_once() {
    prepare
    [ -z "$folder" ] || [ ! -d "$folder" ] || point_current

    asked='' new_fleet=''
    request /api/v1/deployments "$MANIFEST_LIMIT" "$etag" --header "Accept: $MANIFEST_TYPE"
    case $http in
        200) take ;;
        304) [ -n "$etag" ] || fail "$TRANSPORT" "the server says 304 although it was not told what is held" ;;
        3??) fail "$TRANSPORT" "the server answers with a redirect (HTTP $http), which is not followed" ;;
        *) fail "$TRANSPORT" "the server answers with HTTP $http" ;;
    esac
    send_reports
    [ "$freshness" = no ] || look
}

take() { # the manifest in work/body
    mv "$work/body" "$work/manifest.json"
    new_etag=$(header etag)
    new_digest=$(sha256 "$work/manifest.json")
    read_manifest "$work/manifest.json" >"$work/listed"
    verdict=$(tail -n 1 "$work/listed")
    [ "$verdict" = end ] || refuse "the manifest is not of the expected form: ${verdict#bad }"
    new_version=$(sed -n 's/^version //p' "$work/listed")
    is_version "$new_version" || refuse "the manifest's version has more than 64 bits"
    fetch_commit
    check_version
    check_signature
    if [ "$new_digest" = "$manifest_digest" ]; then
        known=$commit commit=$new_commit fleet=$new_fleet
        if [ "$applied" = yes ]; then
            [ "$new_etag $new_commit" = "$etag $known" ] || write_held yes "$new_etag"
            return 0
        fi
    fi

    [ "$freshness" = no ] || [ "$new_digest" = "$manifest_digest" ] || admit
    listed >"$work/wanted"
    if [ "$new_digest" != "$manifest_digest" ] || ! intact; then
        build
        switch
    fi
    apply
}

check_version() { # P-2, P-10
    if has_floor; then
        [ "$new_version" != "$version" ] || [ "$new_digest" = "$manifest_digest" ] ||
            refuse "another manifest of the same version $version"
        [ "$new_version" = "$version" ] || greater "$new_version" "$version" ||
            refuse "version $new_version is older than the held version $version"
    fi
    [ -z "$left" ] || [ "$new_digest" != "$left" ] || refuse "the trust document took back this state"
    ! greater "$lowest" "$new_version" || refuse "version $new_version is lower than $lowest, which the trust document names"
}

switch() { # P-5
    [ "$new_digest" = "$manifest_digest" ] || previous=$folder
    version=$new_version manifest_digest=$new_digest commit=$new_commit fleet=$new_fleet
    folder=$state/states/$version-${manifest_digest#sha256:}
    rm -rf "$folder"
    sync
    mv "$work/state" "$folder" || fail "$USAGE" "$folder cannot be made"
    write_held no ''
    point_current
}

apply() { # P-6
    if [ -n "$hook" ]; then
        "$hook" "$folder" "$previous" "$version" </dev/null || {
            status=$?
            note_reports failed
            send_reports
            fail "$APPLY" "the hook failed with status $status for version $version; it is called again at the next poll"
        }
    fi
    note_reports installed
    write_held yes "$new_etag"
    for old in "$state"/states/*; do
        case $old in
            "$folder" | "$previous") ;;
            *) rm -rf "$old" ;;
        esac
    done
    say "version $version: $(wc -l <"$work/wanted" | tr -d ' ') deployments"
}

# ---- status: noted on disk first, sent when the server takes it

note_reports() { # STATE: of every deployment that is new, changed or gone
    [ "$report" = yes ] || return 0
    : >"$work/reports"
    while read -r id digest; do
        old=$previous/deployments/$id.yaml
        [ "$1" = installed ] && [ -n "$previous" ] && [ -f "$old" ] && [ "$(sha256 "$old")" = "$digest" ] ||
            printf '%s %s %s\n' "$id" "$1" "$version" >>"$work/reports"
    done <"$work/wanted"
    for old in "${previous:-/nonexistent}"/deployments/*.yaml; do
        name=${old##*/}
        [ ! -f "$old" ] || [ -f "$folder/deployments/$name" ] || [ "$1" = failed ] ||
            printf '%s removed %s\n' "${name%.yaml}" "$version" >>"$work/reports"
    done
    store "$state/reports" "$(cat "$work/reports")"
}

send_reports() {
    [ "$report" = yes ] && [ -s "$state/reports" ] || return 0
    while read -r id reported adopted; do
        [ -n "$id" ] || continue
        status_document "$id" "$reported" "$adopted" >"$work/status.json"
        # In a subshell: a server that takes no status must not spoil the poll.
        (
            request "/api/v1/deployments/$id/status" 65536 '' --header 'Content-Type: application/json' \
                --data-binary "@$work/status.json"
            case $http in
                2??) ;;
                4??) say "the server refuses the status of $id (HTTP $http)" ;;
                *) fail "$TRANSPORT" "the status of $id answers with HTTP $http" ;;
            esac
        ) || {
            say "status is sent again at the next poll"
            return 0
        }
    done <"$state/reports"
    rm -f "$state/reports"
}

status_document() { # ID STATE VERSION
    file=$folder/deployments/$1.yaml
    [ -f "$file" ] || file=${previous:-/nonexistent}/deployments/$1.yaml
    error=''
    [ "$2" != failed ] || error=',"error":{"code":"hook-failed","message":"the hook of margo-pull failed"}'
    components=$(component_names "$file" | awk -v state="$2" -v error="$error" '
        { printf "%s{\"name\":\"%s\",\"state\":\"%s\"%s}", (NR > 1 ? "," : ""), $0, state, error }')
    printf '{"adoptedManifestVersion":%s,"components":[%s],"deploymentId":"%s","status":{"state":"%s"%s}}' \
        "$3" "$components" "$1" "$2" "$error"
}

# component_names FILE: of spec.deploymentProfile.components, as block YAML with plain or simply quoted names.
component_names() {
    [ -f "$1" ] || return 0
    awk '
        { match($0, /^ */); depth = RLENGTH; line = substr($0, depth + 1) }
        line == "" || line ~ /^#/ { next }
        inside && (depth < start || (depth == start && line !~ /^-/)) { inside = 0 }
        profile && depth <= outer { profile = 0 }
        line ~ /^deploymentProfile: *$/ { profile = 1; outer = depth; next }
        profile && !inside && line ~ /^components: *$/ { inside = 1; start = depth; item = -1; next }
        inside && line ~ /^- / {
            if (item < 0) item = depth
            if (depth == item) { key = depth + 2; sub(/^- +/, "", line); depth = key }
        }
        inside && depth == key && line ~ /^name: / {
            sub(/^name: */, "", line)
            gsub(/^["\047]|["\047] *$/, "", line)
            if (line ~ /^[A-Za-z0-9._-]+$/) print line
        }' "$1"
}

# ---- going on for ever: each device at its own second of the period, also after everybody was cut off at once

phase_of() {
    {
        cat /etc/machine-id 2>/dev/null || uname -n
        printf '%s %s\n' "$url" "$state"
        [ -z "$token_file" ] || cat "$token_file"
    } >"$state/phase.new"
    digits=$(sha256 "$state/phase.new")
    digits=${digits#sha256:}
    rm -f "$state/phase.new"
    printf '%d' $((0x$(printf '%.7s' "$digits") % every))
}

pause() { # SECONDS; SIGHUP ends it
    sleep "$1" &
    sleeping=$!
    wait "$sleeping"
    kill "$sleeping" 2>/dev/null
    sleeping=''
}

go_on() {
    phase=$(phase_of) failures=0 sleeping=''
    trap ':' HUP
    trap '[ -z "$sleeping" ] || kill "$sleeping" 2>/dev/null; exit 143' TERM
    trap '[ -z "$sleeping" ] || kill "$sleeping" 2>/dev/null; exit 130' INT
    # A device that has state waits for its turn: with the power of a plant, all of its devices come back at once.
    [ -e "$state/held" ] || poll
    while :; do
        now=$(date +%s)
        wait_for=$((every - (now - phase) % every))
        if [ -s "$state/retry-after" ]; then
            asked=$(cat "$state/retry-after")
            case $asked in
                '' | *[!0-9]* | ??????*) ;;
                *) [ "$asked" -le "$wait_for" ] || wait_for=$((asked + (every - (now + asked - phase) % every) % every)) ;;
            esac
        fi
        rm -f "$state/retry-after"
        pause $((wait_for + every * ((1 << failures) - 1)))
        poll
        case $? in
            "$TRANSPORT" | "$TRY_LATER") [ "$failures" -ge 4 ] || failures=$((failures + 1)) ;;
            *) failures=0 ;;
        esac
    done
}

read_settings "$@"
take_lock
if [ -n "$every" ]; then
    go_on
else
    poll
    exit $?
fi
